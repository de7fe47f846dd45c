"""Windows paths in a configuration on another system, where each would be one odd file name."""

from __future__ import annotations

import os
import re

from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.text import printable

PATH_OPTIONS = {
    "model.pretrained_model_name_or_path": "--model PATH",
    "model.vae": "", "flux.clip_l": "", "flux.t5xxl": "", "flux.ae": "", "flux.t5_tokenizer": "",
    "dataset.train_data_dir": "--images DIR",
    "dataset.in_json": "",
    "dataset.reg_data_dir": "", "dataset.conditioning_data_dir": "", "dataset.validation_data_dir": "",
    "dataset.dataset_config": "--dataset_config FILE",
    "network.network_weights": "",
    "memory.cache_dir": "",
    "saving.output_dir": "--output_dir DIR",
    "logging.logging_dir": "", "logging.log_tracker_config": "",
}  # fmt: skip
"""Keys of paths with their options; `--set KEY=PATH` sets those without."""
PATH_LISTS = ("model.base_weights",)
"""Keys of lists of paths."""
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*$")
"""A drive, a share, or a relative path that has only backslashes as separators."""

CONTROLS_MESSAGE = "holds control characters, which \\t, \\n or \\b in double quotes stand for."
ESCAPES_HINT = "In double quotes a backslash starts an escape: write paths in single quotes."
CONTROLS_HINT = "Write / or \\\\ for each backslash of a path."


def has_controls(text: str) -> bool:
    """Whether a path has control characters, from backslashes that were escapes in a file, as in "C:\\train"."""
    return any(sign < " " for sign in text)


def is_windows_path(dotted: str, text: str) -> bool:
    """Whether the path of a key is a Windows path, on another system."""
    if dotted == "dataset.dataset_config":  # its backslashes are converted, as in dataset configurations
        text = text.replace("\\", "/")
    return os.name != "nt" and bool(_OF_WINDOWS.match(text)) and not os.path.lexists(text)


def windows_path_hint(dotted: str) -> str:
    """A hint on how to give another path for a key."""
    option = _option(dotted)
    return f"a path of Windows: give one of this system with {option}"


def require_local_paths(config: RunConfig) -> None:
    """Refuse Windows paths on another system, before a folder with such a name is created.

    Raises:
        UsageError: names each of them, and the option that replaces it.
    """
    paths = [
        (dotted, value)
        for dotted in (*PATH_OPTIONS, *PATH_LISTS)
        for value in ([config.value(dotted)] if dotted in PATH_OPTIONS else config.value(dotted))
        if value and is_windows_path(dotted, value)
    ]
    if paths:
        raise UsageError(
            "; ".join(f"{dotted}: {printable(value)} is a path of Windows" for dotted, value in paths) + ".",
            f"Add {' '.join(dict.fromkeys(_option(dotted) for dotted, _ in paths))}.",
            code="path-of-windows",
        )


def _option(dotted: str) -> str:
    value = "PATH" if dotted in PATH_OPTIONS else "'[\"PATH\"]'"
    return PATH_OPTIONS.get(dotted) or f"--set {dotted}={value}"
