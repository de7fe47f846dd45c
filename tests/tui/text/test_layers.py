"""The map of what is trained: its letters, its legend, and its width, without torch and without a model's file."""

from __future__ import annotations

from typing import Any

import pytest

from engine.adapters.selection import select_of_run
from engine.config import RunConfig
from engine.families.registry import family_named
from engine.families.resolved import resolve_run
from tui.text.layers import layer_lines

SDXL = """\
text encoder      B b  72 layers
U-Net             down      mid up
  attention       ····BB·+· ··· AAAAAA···
  MLP             ····BB·B· ··· AAAAAA···
  learning rate   ····aa·+· ··· aaaaaa···
  +: several in one block"""
FULL = """\
text encoder      A a  72 layers
U-Net             down         m up
  attention       .aa.aa.aa... a ...aaaaaaaaa
  MLP             .AA.AA.AA... A ...AAAAAAAAA
  convolutions    .AAAAAAAAAAA A AAAAAAAAAAAA
  rest of resnets .AA.AA.AA.AA A AAAAAAAAAAAA
  learning rate   .aaaaaaaaaaa a aaaaaaaaaaaa
  outside blocks  A a  4 layers
  a small letter instead of a large one: some of these layers only
A  rank 16, alpha 8: 290 layers
a  rate 1e-4: 290 layers
No adapter in 64 layers: an entry of exclude_patterns matches them."""
FLUX = """\
transformer       double              single
  modulation      AAAA···A··········· AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
  image attention AAAA···A··········· ······································
  image MLP       AAAA···A··········· ······································
  text attention  AAAA···A··········· ······································
  text MLP        AAAA···A··········· ······································
  linear 1 and 2  ··················· BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB
  learning rate   aaaa···a··········· aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  outside blocks  C a  2 layers
A  rank 16, alpha 8: 88 layers
B  rank 8, alpha 8: 76 layers
C  rank 4, alpha 8: 2 layers
a  rate 1e-4: 166 layers
LoRA+: the outer matrices have 16 times these rates (denoiser).
No adapter in 140 layers: their rank is 0 ([flux])."""


def lines(family: str, tables: dict[str, Any], encoding: str = "utf-8") -> list[str]:
    run = resolve_run(RunConfig().changed(model={"family": family}, **tables), family_named(family).reference_model())
    return layer_lines(run, select_of_run(run), encoding)


@pytest.mark.parametrize(
    ("family", "encoding", "tables", "expected"),
    [
        ("sd15", "ascii", {"network": {"preset": "full", "exclude_patterns": ["attn2"]}}, FULL),
        ("flux", "utf-8",
         {"flux": {"train_double_block_indices": "0-3,7", "single_dim": 8, "in_dims": "4,0,0,0,4"},
          "network": {"loraplus_unet_lr_ratio": 16}}, FLUX),
    ],
)  # fmt: skip
def test_the_map(family: str, encoding: str, tables: dict[str, Any], expected: str) -> None:
    assert "\n".join(lines(family, tables, encoding)) == expected


def test_blocks_with_ranks_and_rates_of_their_own() -> None:
    network = {
        "block_dims": ",".join(["4"] * 9 + ["0"] * 3 + ["8"] * 11),
        "network_reg_dims": "input_blocks_7_1.*attn=2,lora_te1=4",
        "network_reg_lrs": "input_blocks_7_1.*attn1=1e-5",
    }
    shown = lines("sdxl", {"network": network, "training": {"text_encoder_lr": [5e-5, 0]}})
    assert "\n".join(shown[:6]) == SDXL


SETTINGS: list[dict[str, Any]] = [
    {},
    {"network": {"algo": "lokr", "train_norm": True}},
    {"network": {"algo": "ia3"}},
    {"network": {"down_lr_weight": "sine+0.25", "up_lr_weight": "cosine", "conv_dim": 4}},
    {"network": {"network_reg_dims": ",".join(f"_{number}_=1{number:02}" for number in range(11)), "preset": "full"}},
    {"network": {"network_reg_lrs": ",".join(f"_{number}_=1.{number:02}e-5" for number in range(11))}},
    {"flux": {"split_qkv": True, "train_blocks": "single"}, "training": {"text_encoder_lr": 1e-5}},
]


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux"])
def test_every_line_has_room_in_80_columns_and_the_map_is_ascii_where_it_must_be(family: str) -> None:
    for tables in SETTINGS:
        shown = lines(family, tables, "ascii")
        assert shown and all(line.isascii() for line in shown if line.startswith("  "))
        drawn = [line for line in shown if not line.startswith(("No adapter", "LoRA+"))]
        assert max(map(len, drawn)) <= 76 and len(drawn) < 45
