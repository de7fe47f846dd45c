"""Which layers are trained, with which rank and in which group: presets, lists by block, patterns, a family's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.adapters.selection import Selector, select_of_run
from engine.config import RunConfig
from engine.errors import UsageError
from engine.families.listing import listed_layers
from engine.families.registry import family_named
from engine.families.resolved import ResolvedRun, resolve_run
from engine.training.groups import rate_groups
from engine.types import LoraTarget

PAGE = Path(__file__).parents[3] / "docs" / "layers.md"


@cache
def layers(family: str) -> Sequence[LoraTarget]:
    """Every layer of the family's standard model."""
    return [layer.target for layer in listed_layers(family_named(family), family_named(family).reference_model())]


def resolved(family: str, tables: dict[str, Any]) -> ResolvedRun:
    config = RunConfig().changed(**{"model": {"family": family}, **tables})
    return resolve_run(config, family_named(family).reference_model())


@pytest.mark.parametrize(
    ("preset", "sd15", "sdxl", "flux"),
    [
        (None, (192, 72), (722, 264), (304, 72)),
        ("full", (282, 72), (788, 264), (304, 72)),
        ("full-lin", (230, 72), (750, 264), (304, 72)),
        ("attn-mlp", (192, 72), (722, 264), (304, 72)),
        ("attn-only", (128, 48), (560, 176), (76, 48)),
        ("unet-only", (282, 0), (788, 0), (304, 0)),
        ("unet-transformer-only", (192, 0), (722, 0), (304, 0)),
        ("unet-convblock-only", (88, 0), (66, 0), (0, 0)),
        ("ia3", (80, 36), (350, 132), (114, 36)),
    ],
)
def test_the_layers_of_each_preset(
    preset: str | None, sd15: tuple[int, int], sdxl: tuple[int, int], flux: tuple[int, int]
) -> None:
    """(denoiser, text encoders): 278 and 788 layers with convolutions (Kohya), four more outside the blocks of SD 1.5
    by their names in diffusers; 128 and 560 are 16 and 70 transformer blocks with eight layers in two attentions."""
    for family, expected in (("sd15", sd15), ("sdxl", sdxl), ("flux", flux)):
        config = RunConfig().changed(network={"preset": preset})
        chosen = Selector(config, family_named(family)).select(layers(family)).choices
        counts = Counter(choice.target.is_denoiser for choice in chosen)
        assert (counts[True], counts[False]) == expected, family
    title = "unset" if preset is None else f"`{preset}`"
    cells = [f"{unet} + {text}" for unet, text in (sd15, sdxl, flux)]
    assert f"| {title} | {' | '.join(cells)} |" in PAGE.read_text(), "and so the documentation says"


ATTN2 = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_q"
FF = "lora_unet_output_blocks_0_1_transformer_blocks_3_ff_net_2"
CONV = "lora_unet_input_blocks_1_0_in_layers_2"
TEXT = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
QKV, MOD = "lora_unet_double_blocks_5_img_attn_qkv", "lora_unet_single_blocks_9_modulation_lin"
LINEAR, GUIDANCE = "lora_unet_single_blocks_9_linear1", "lora_unet_guidance_in_in_layer"
DIMS = ",".join(str(number) for number in range(23))


@pytest.mark.parametrize(
    ("family", "tables", "name", "expected"),
    [
        ("sdxl", {"network": {"block_dims": DIMS}}, ATTN2, (5, None)),
        ("sdxl", {"network": {"block_dims": DIMS, "block_alphas": DIMS.replace("0", "9")}}, FF, (13, 13.0)),
        ("sdxl", {"network": {"block_dims": DIMS, "block_alphas": ",".join("0" * 23)}}, FF, (13, 13.0)),
        ("sdxl", {"network": {"down_lr_weight": "sine", "block_alphas": ",".join("0" * 23)}}, FF, (None, 16)),
        ("sdxl", {"network": {"block_dims": DIMS}}, TEXT, (None, None)),
        ("sdxl", {"network": {"block_dims": DIMS}}, CONV, None),
        ("sdxl", {"network": {"block_dims": DIMS, "conv_dim": 4}}, CONV, (None, None)),
        ("sdxl", {"network": {"block_dims": DIMS, "conv_block_dims": ",".join(["7"] * 23)}}, CONV, (7, None)),
        ("sdxl", {"network": {"conv_block_dims": DIMS}}, CONV, None),  # as the scripts: not without block_dims
        ("sdxl", {"network": {"block_dims": DIMS, "network_reg_dims": "ff=3,attn2=6"}}, ATTN2, (6, None)),
        ("sdxl", {"network": {"network_reg_dims": "lora_te2=2,ff=0"}}, TEXT, (2, None)),
        ("sdxl", {"network": {"network_reg_dims": "attn=4,ff=0"}}, FF, "their rank is 0 (network_reg_dims)"),
        ("sdxl", {"network": {"exclude_patterns": ["attn2"]}}, ATTN2, "an entry of exclude_patterns matches them"),
        ("sdxl", {"network": {"exclude_patterns": ["attn2"], "include_patterns": ["blocks_4"]}}, ATTN2, (None, None)),
        ("sdxl", {"network": {"include_patterns": ["attn"]}}, FF, "no entry of include_patterns matches them"),
        ("sdxl", {"network": {"preset": "attn-only"}}, FF, "the preset attn-only does not select them"),
        ("sdxl", {"network": {"down_lr_weight": "zeros"}}, ATTN2,
         "the factor on the learning rate of their blocks is 0"),
        ("sdxl", {"network": {"network_reg_lrs": "attn2=0"}}, ATTN2, "their learning rate is 0 (network_reg_lrs)"),
        ("flux", {"flux": {"img_attn_dim": 3}}, QKV, (3, None)),
        ("flux", {"flux": {"train_double_block_indices": "0-4"}}, QKV, "their rank is 0 ([flux])"),
        ("flux", {"flux": {"train_blocks": "single"}}, QKV, "they are in blocks that are not trained"),
        ("flux", {"flux": {"train_blocks": "single"}, "network": {"network_reg_dims": "qkv=4"}}, QKV,
         "they are in blocks that are not trained"),
        ("flux", {"flux": {"img_attn_dim": 3}, "network": {"network_reg_dims": "qkv=4"}}, QKV, (4, None)),
        ("flux", {"flux": {"single_dim": 5}}, MOD, (None, None)),
        ("flux", {"flux": {"single_mod_dim": 2, "train_single_block_indices": "9"}}, MOD, (2, None)),
        ("flux", {"flux": {"single_dim": 5}}, LINEAR, (5, None)),
        ("flux", {}, GUIDANCE, None),
        ("flux", {"flux": {"in_dims": "0,0,0,6,0"}}, GUIDANCE, (6, None)),
        ("flux", {"network": {"block_dims": DIMS}}, QKV, (None, None)),  # no such lists: reset, with a note
    ],
)  # fmt: skip
def test_a_layer_gets_its_rank_or_a_reason(
    family: str, tables: dict[str, Any], name: str, expected: tuple[int | None, float | None] | str | None
) -> None:
    """None: nothing asks for it."""
    run = resolved(family, tables)
    selection = Selector(run.config, run.family).select(layers(family))
    choice = selection.by_name.get(name)
    if isinstance(expected, tuple):
        assert choice is not None and (choice.rank, choice.alpha) == expected
    else:
        assert choice is None and selection.left_out.get(name) == expected


def test_with_plain_settings_nothing_is_chosen() -> None:
    for family in ("sd15", "sdxl", "flux"):
        run = resolved(family, {})
        selection = Selector(run.config, run.family).select(layers(family))
        assert selection.is_usual and Selector(run.config, run.family).is_plain and selection.notes() == []


@pytest.mark.parametrize(
    ("family", "tables", "code", "sentence"),
    [
        ("sdxl", {"network": {"exclude_patterns": ["attn3"]}}, "pattern-without-layers", "'attn3' is found"),
        ("sdxl", {"network": {"network_reg_lrs": "attn1=1e-4,down_blocks=0"}}, "pattern-without-layers", "down_blocks"),
        ("flux", {"network": {"preset": "unet-convblock-only"}}, "nothing-trained", "Nothing would be trained"),
        ("sd15", {"network": {"exclude_patterns": ["lora_"]}}, "nothing-trained", "264 layers: an entry of exclude"),
        ("sd15", {"network": {"block_dims": "1,2"}}, "block-list-wrong-length", "has 25 blocks"),
        ("sd15", {"network": {"preset": "unet-only", "network_train_text_encoder_only": True}}, "nothing-trained",
         "contradicts network.network_train_text_encoder_only"),
        ("sd15", {"network": {"loraplus_lr_ratio": 16}, "training": {"optimizer_type": "Prodigy"}},
         "optimizer-needs-one-rate", "network.loraplus_lr_ratio gives parts"),
        ("sd15", {"network": {"network_reg_lrs": "attn1=1e-4"}, "training": {"optimizer_type": "DAdaptAdam"}},
         "optimizer-needs-one-rate", "network.network_reg_lrs gives parts"),
        ("sdxl", {"training": {"text_encoder_lr": [1.0, 0.5], "optimizer_type": "Prodigy"}},
         "optimizer-needs-one-rate", "text encoder 1 1, text encoder 2 0.5"),
        ("flux", {"flux": {"split_qkv": True}, "network": {"algo": "lokr"}}, "split-needs-lora", "for plain LoRAs"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence_before_the_start(
    family: str, tables: dict[str, Any], code: str, sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        select_of_run(resolved(family, tables))
    assert error.value.code == code and sentence in error.value.message


@pytest.mark.parametrize(
    ("family", "tables", "note"),
    [
        ("flux", {"network": {"block_dims": DIMS}}, "network.block_dims has no effect: Kohya's lists of blocks are"),
        ("sd15", {"network": {"block_alphas": "1"}}, "network.block_alphas has no effect: block_dims is not set"),
        ("sd15", {"network": {"block_lr_zero_threshold": 0.5}}, "network.block_lr_zero_threshold has no effect"),
        ("sd15", {"network": {"preset": "attn-mlp", "conv_dim": 4}}, "trains no convolutions"),
        ("sd15", {"network": {"preset": "unet-only"}}, "No text encoder is trained: the preset unet-only"),
        ("sd15", {"network": {"down_lr_weight": "1,1"}}, "the others are 1, as in Kohya"),
        ("sd15", {"training": {"text_encoder_lr": [1e-5, 1e-6]}}, "has 2 rates, and 1 text encoder can be trained"),
        ("flux", {"training": {"text_encoder_lr": [0, 1e-5]}}, "The text encoders are not trained"),
        ("sdxl", {"flux": {"train_blocks": "single"}}, "flux.train_blocks has no effect: only FLUX has such a setting"),
    ],
)
def test_what_has_no_effect_is_reported(family: str, tables: dict[str, Any], note: str) -> None:
    assert note in " ".join(resolved(family, tables).notes)


class _Module:
    """A module of the network with a down and an up matrix, for `rate_groups`."""

    rank_mask = None

    def __init__(self, target: LoraTarget) -> None:
        self.target = target
        self.parameters = [nn.Parameter(torch.empty(1)) for _ in range(2)]
        self.plus = self.parameters[1:]


SINE = {4: 0.5406408174555976, 5: 0.654860733945285, 7: 0.8412535328311812, 8: 0.9096319953545184}
"""sin(π / 2 · place / 11): the factors of the curve at these places of twelve; blocks 1 and 2 have less than 0.3."""


@pytest.mark.parametrize(
    ("family", "tables", "expected"),
    [
        (  # networks.lora: blocks in their order; up blocks have 3 × 12 layers, down blocks 2 × 12
            "sd15",
            {"training": {"unet_lr": 1e-4, "text_encoder_lr": 5e-5},
             "network": {"down_lr_weight": "sine", "mid_lr_weight": "0.5", "block_lr_zero_threshold": 0.3}},
            [("textencoder", 5e-5, 144),
             *((f"unet_block{block}", 1e-4 * factor, 24) for block, factor in SINE.items()),
             ("unet_block12", 5e-5, 24),
             *((f"unet_block{block}", 1e-4, 24) for block in range(16, 25))],
        ),
        (  # the text encoder's own ratio wins; each encoder has its rate
            "sdxl",
            {"training": {"unet_lr": 1e-4, "text_encoder_lr": [5e-5, 1e-5]},
             "network": {"loraplus_lr_ratio": 16, "loraplus_text_encoder_lr_ratio": 4}},
            [("textencoder 1", 5e-5, 72), ("textencoder 1 plus", 2e-4, 72),
             ("textencoder 2", 1e-5, 192), ("textencoder 2 plus", 4e-5, 192),
             ("unet", 1e-4, 722), ("unet plus", 1.6e-3, 722)],
        ),
        (  # networks.lora_flux: named layers first, the first pattern that matches counts
            "flux",
            {"training": {"unet_lr": 1e-4},
             "network": {"network_reg_lrs": "double_blocks=2e-4,_lin=3e-4", "loraplus_unet_lr_ratio": 2}},
            [("unet reg_lr_0", 2e-4, 190), ("unet reg_lr_0 plus", 4e-4, 190),
             ("unet reg_lr_1", 3e-4, 114), ("unet reg_lr_1 plus", 6e-4, 114)],
        ),
        (  # only blocks 5 and 13 of 23 have a factor: two and ten transformer blocks
            "sdxl",
            {"training": {"unet_lr": 1e-4, "text_encoder_lr": 0},
             "network": {"block_lr_weight": ",".join({5: "0.5", 13: "2"}.get(place, "0") for place in range(23))}},
            [("unet_block5", 5e-5, 44), ("unet_block13", 2e-4, 204)],
        ),
        (  # a rate of 0 leaves layers out; the text encoder is named by patterns too
            "flux",
            {"training": {"unet_lr": 1e-4, "text_encoder_lr": 1e-5},
             "network": {"network_reg_lrs": "single_blocks=0,mlp_fc1=2e-5"}},
            [("textencoder 1 reg_lr_1", 2e-5, 24), ("textencoder 1", 1e-5, 120), ("unet", 1e-4, 380)],
        ),
    ],
)  # fmt: skip
def test_the_groups_are_those_of_kohyas_scripts(
    family: str, tables: dict[str, Any], expected: list[tuple[str, float, int]]
) -> None:
    """(description, learning rate, tensors) of each group in the order of the scripts' `prepare_optimizer_params`,
    which has one tensor for each of down and up."""
    run = resolved(family, tables)
    selection = select_of_run(run)
    modules: Any = [_Module(choice.target) for choice in selection.choices]
    network = AdapterNetwork(Lora(), modules, selection)
    numbered = len(run.config.training.text_rates) > 1 or family == "flux"
    groups = [
        (group.description(numbered=numbered), group.rate(run.config.training), len(parameters))
        for group, parameters in rate_groups(network, run.config).items()
    ]
    assert groups == [(name, pytest.approx(rate), count) for name, rate, count in expected]
