"""The folders of images that the scripts read: `<repeats>_<name>` inside `train_data_dir`."""

from __future__ import annotations

import re
from pathlib import Path

from engine.config.conversion import Conversion, Rule
from engine.paths import expanded

_REPEATS = re.compile(r"[0-9]{1,6}_.*", re.DOTALL)


def set_repeats(conversion: Conversion) -> None:
    """One repeat where `train_data_dir` is here and has no such folder: presets would choose a number by the images."""
    arguments = conversion.arguments
    folder = arguments.get("train_data_dir")
    if not isinstance(folder, str) or not folder or arguments.get("dataset_config") or arguments.get("in_json"):
        return
    if not _is_flat(expanded(folder)):
        return
    text = (
        "the scripts find no images in this folder, as they read only folders <repeats>_<name> inside it; here its "
        "images are trained on, once in an epoch"
    )
    conversion.record("num_repeats", 1, Rule("better", "dataset.num_repeats", text))
    conversion.set("dataset.num_repeats", 1, "train_data_dir")


def _is_flat(folder: Path) -> bool:
    try:
        entries = list(folder.iterdir())
    except (OSError, ValueError):
        return False
    return not any(_REPEATS.fullmatch(entry.name) and entry.is_dir() for entry in entries)
