"""The layers that take a LoRA are Kohya's: names, kinds, sizes and order, on modules of real size (meta device)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from engine.families.unet.load import builders_of
from engine.families.unet.model import kohya_name
from engine.families.unet.spec import SD15_SPEC
from engine.families.unet.targets import text_targets, unet_targets
from engine.models.loading import meta_module
from engine.paths import ASSETS

FIXTURES = Path(__file__).parent / "fixtures"


def table(name: str) -> list[tuple[str, str, int, int]]:
    rows = [line.split("\t") for line in (FIXTURES / name).read_text().splitlines()]
    kinds = {"lin": "linear"}
    return [(row[0], kinds.get(row[1], row[1]), int(row[2][3:]), int(row[3][4:])) for row in rows]


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {
        part: meta_module(build, json.loads((ASSETS / "sd15" / part / "config.json").read_text()))
        for part, build in builders_of(SD15_SPEC).items()
    }


def test_real_sizes(parts: dict[str, Any]) -> None:
    counts = {part: sum(parameter.numel() for parameter in module.parameters()) for part, module in parts.items()}
    assert counts == {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863}


@pytest.mark.parametrize(("conv", "unet_table"), [(False, "keys_sd15_unet.tsv"), (True, "keys_sd15_unet_conv.tsv")])
def test_kohyas_tables(parts: dict[str, Any], conv: bool, unet_table: str) -> None:
    targets = [
        *text_targets(parts["text_encoder"], "text_encoder", "lora_te_"),
        *unet_targets(parts["unet"], kohya_name, conv=conv),
    ]
    rows = []
    for target in targets:
        layer = parts[target.component].get_submodule(target.path)
        sizes = (
            (layer.in_features, layer.out_features)
            if isinstance(layer, nn.Linear)
            else (layer.in_channels, layer.out_channels)
        )
        rows.append((target.kohya_name, target.kind, *sizes))
    assert rows == table("keys_sd15_te.tsv") + table(unet_table)
