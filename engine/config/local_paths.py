"""Paths of Windows in a configuration that another system reads, where each would be one odd name."""

from __future__ import annotations

import os
import re

from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.text import printable

PATH_OPTIONS = {
    "model.pretrained_model_name_or_path": "--model PATH",
    "model.vae": "", "model.clip_l": "", "model.t5xxl": "", "model.ae": "", "model.t5_tokenizer": "",
    "dataset.train_data_dir": "--images DIR",
    "dataset.reg_data_dir": "", "dataset.conditioning_data_dir": "", "dataset.validation_data_dir": "",
    "dataset.dataset_config": "--dataset_config FILE",
    "network.network_weights": "",
    "memory.cache_dir": "",
    "saving.output_dir": "--output_dir DIR",
}  # fmt: skip
"""Keys that hold a path, and the option that sets one; `--set KEY=PATH` sets the others."""
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*$")
"""A drive, a share, or a relative path with no other separator than backslashes."""

CONTROLS_MESSAGE = "holds control characters, which \\t, \\n or \\b in double quotes stand for."
CONTROLS_HINT = "Write / or \\\\ for each backslash of a path."


def has_controls(text: str) -> bool:
    """Whether a path has characters that its backslashes became in a file, as in "C:\\train"."""
    return any(sign < " " for sign in text)


def is_windows_path(dotted: str, text: str) -> bool:
    """Whether the path of a key is one of Windows, on another system, where it would be a single odd name."""
    if dotted == "dataset.dataset_config":  # whose backslashes are understood, as in dataset configurations
        text = text.replace("\\", "/")
    return os.name != "nt" and bool(_OF_WINDOWS.match(text)) and not os.path.lexists(text)


def windows_path_hint(dotted: str) -> str:
    """How to give another path for a key."""
    option = PATH_OPTIONS.get(dotted) or f"--set {dotted}=PATH"
    return f"a path of Windows: give one of this system with {option}"


def require_local_paths(config: RunConfig) -> None:
    """Refuse paths of Windows on another system, before a folder of such a name is made.

    Raises:
        UsageError: names each of them, and the option that replaces it.
    """
    found = []
    for dotted in PATH_OPTIONS:
        table, _, key = dotted.partition(".")
        value = getattr(getattr(config, table), key)
        if value and is_windows_path(dotted, value):
            found.append((dotted, value))
    if found:
        raise UsageError(
            "; ".join(f"{dotted}: {printable(value)} is a path of Windows" for dotted, value in found) + ".",
            f"Add {' '.join(PATH_OPTIONS[dotted] or f'--set {dotted}=PATH' for dotted, _ in found)}.",
        )
