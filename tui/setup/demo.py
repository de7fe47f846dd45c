"""The demo: its preset, and the model and the images that come with the program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.paths import ASSETS
from tui.setup.draft import FIRST_PRESET

if TYPE_CHECKING:
    from engine.config import RunConfig
    from tui.setup.draft import Draft

DEMO = "demo"
"""The preset, and the name of the run."""
DEMO_TRIGGER = "smithy"
"""The trigger word in the captions of its images."""
DEMO_BASE = str(ASSETS / "demo_base")
DEMO_IMAGES, DEMO_VALIDATION = str(ASSETS / "demo_pictures"), str(ASSETS / "demo_heldout")
TWO = 2
"""The preset's processes."""
_BEFORE = "model.before_demo"
"""In the draft's extras: the settings that the demo replaced."""


def with_demo_paths(config: RunConfig) -> RunConfig:
    """The preset demo needs nothing else: the model and the images that come with the program.

    Its two processes are for the CPU: on a single GPU there is one.
    """
    from engine.hardware import usable_gpus

    defaults = {
        ("model", "pretrained_model_name_or_path"): DEMO_BASE,
        ("dataset", "train_data_dir"): DEMO_IMAGES,
        ("saving", "output_name"): DEMO,
    }
    if not config.dataset.train_data_dir:
        defaults["dataset", "validation_data_dir"] = DEMO_VALIDATION
    changes: dict[str, dict[str, str]] = {}
    for (table, key), value in defaults.items():
        if not getattr(getattr(config, table), key):
            changes.setdefault(table, {})[key] = value
    changed = config.changed(**changes)
    if config.memory.device != "cpu" and config.training.num_processes == TWO and usable_gpus() == 1:
        return changed.changed(training={"num_processes": 1})
    return changed


def is_demo(draft: Draft) -> bool:
    """Whether the draft is for the demo's preset, or has its model."""
    model = draft.get("model.pretrained_model_name_or_path")
    return draft.preset == DEMO or bool(model and Path(model) == Path(DEMO_BASE))


def follow_demo(draft: Draft, model: str) -> None:
    """Choose the demo's preset, which also sets the device, for the demo model; restore the settings for others."""
    before = draft.extras.get(_BEFORE)
    if model == DEMO_BASE and draft.preset == FIRST_PRESET:
        draft.extras[_BEFORE] = {"memory.device": draft.values.pop("memory.device", None)}
        draft.choose_preset(DEMO)
    elif model and model != DEMO_BASE and before is not None:
        del draft.extras[_BEFORE]
        if draft.preset == DEMO:
            draft.choose_preset(FIRST_PRESET)
            if before["memory.device"] is not None and "memory.device" not in draft.values:
                draft.set("memory.device", before["memory.device"])
