"""The preset that goes with a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.hardware import Gpu
from engine.types import Recognition
from tui.setup.draft import Draft
from tui.setup.family_presets import preset_for, propose

GIB = 2**30


def model(family: str, prediction: str = "epsilon") -> Recognition:
    return Recognition(family, Path("/m"), "single_file", prediction, False, "fp16", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recognition", "gib", "expected"),
    [
        (model("sd15"), 24, "sd15-realistic"),
        (model("sdxl"), 12, "sdxl"),
        (model("sdxl", "v_prediction"), 12, "sdxl-noobai-vpred"),
        (model("flux", "flow"), 24, "flux-dev"),
        (model("flux", "flow"), 12, "flux-dev-12gb"),
        (model("flux", "flow"), 16, "flux-dev-12gb"),
        (model("flux", "flow"), 8, "flux-dev-8gb"),
        (model("flux", "flow"), 0, "flux-dev"),
    ],
)
def test_by_family_and_card(recognition: Recognition, gib: int, expected: str) -> None:
    gpus = [Gpu(0, "card", total=gib * GIB)] if gib else []
    assert preset_for(recognition, gpus) == expected


def test_only_what_was_proposed_is_replaced() -> None:
    draft = Draft()
    draft.set("training.seed", 7)
    propose(draft, "sdxl")
    assert draft.preset == "sdxl" and draft.get("training.seed") == 7 and draft.get("dataset.resolution") == 1024
    assert "The preset is now sdxl" in draft.take_notice()
    propose(draft, "sdxl")
    assert draft.take_notice() == "", "nothing changed, nothing to say"
    draft.choose_preset("sdxl-pony")
    propose(draft, "sd15-realistic")
    assert draft.preset == "sdxl-pony", "a person's choice stays"
