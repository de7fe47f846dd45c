"""The output path of a tool: nothing is overwritten without --overwrite, and an input never. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engine.errors import UsageError
from engine.paths import expanded
from engine.text import printable


def place_for(out: str | None, inputs: Sequence[Path], *, overwrite: bool, folder: bool = False) -> Path:
    """The path that `--output` names, checked before any work.

    Args:
        inputs: files that are read.
        folder: the result is a folder; else a .safetensors file.

    Raises:
        UsageError: none is named, it is an input, it exists, or its folder does not.
    """
    if not out:
        raise UsageError("No output file.", "Name the new file with -o FILE.", code="no-output-file")
    path = expanded(out)
    name = printable(path)
    if not folder and path.suffix.lower() != ".safetensors":
        raise UsageError(
            f"{name} does not end in .safetensors, which readers require.",
            "Name a .safetensors file.",
            code="output-not-safetensors",
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"There is no folder {printable(path.absolute().parent)}.", "Make it first.", code="output-folder-missing"
        )
    if os.path.lexists(path):
        if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
            raise UsageError(
                f"{name} is an input, so it cannot be the output.", "Name a new file with -o.", code="output-is-input"
            )
        if folder or not overwrite:
            hint = "Name a new folder." if folder else "Name another file, or add --overwrite."
            raise UsageError(f"{name} already exists.", hint, code="output-exists")
        if not path.is_file():
            raise UsageError(f"{name} is not a file.", "Name a file.", code="output-not-a-file")
    return path
