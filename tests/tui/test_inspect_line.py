"""The first line of `lorasmith inspect`: which model a file is for."""

from __future__ import annotations

import pytest

from engine.adapters.inspect import LoraReport
from tui.commands.inspect import _lines


@pytest.mark.parametrize(
    ("base", "metadata", "shown"),
    [
        ("SDXL", {"ss_base_model_version": "sd_v1"}, "SDXL"),
        ("unknown", {}, "a model of unknown kind or size"),
        ("unknown", {"ss_base_model_version": "sd_v1"}, "sd_v1 according to its metadata"),
        ("unknown", {"ss_sd_model_name": "demo_base"}, "demo_base according to its metadata"),
        (
            "unknown",
            {"ss_base_model_version": "sd_v1", "ss_sd_model_name": "demo_base"},
            "sd_v1 (demo_base) according to its metadata",
        ),
    ],
)
def test_names_and_shapes_decide_then_the_metadata(base: str, metadata: dict[str, str], shown: str) -> None:
    report = LoraReport("x.safetensors", 2**20, base, {}, metadata=metadata)
    assert next(_lines(report)) == f"x.safetensors: a LoRA for {shown}, 1.0 MiB"
