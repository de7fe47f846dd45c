"""Copies a run's file into a models folder, under the run's name or another, with trigger, strength and thumbnail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engine.adapters.tools.edit import EditRequest, edit
from engine.errors import UsageError, storing
from engine.results.of_run import learned_trigger
from engine.results.record import RunRecord
from engine.results.verdict import JudgedFile
from engine.results.what_now import STRENGTH
from engine.runs import RunDir, is_locked
from engine.text import printable

AWAY = "other_files"
"""Folder in a run for the files that were not chosen."""


def strength_of(judged: JudgedFile) -> float:
    """The recommended strength: lower for an overtrained file, which weakens what it learned by heart."""
    return 0.6 if judged.verdict.kind == "overtrained" else STRENGTH


def place_in(run: RunRecord, target: Path) -> Path:
    """The path of the copy: `target` where it is the name of a LoRA file, else the run's name in that folder."""
    return target if target.suffix == ".safetensors" and not target.is_dir() else target / f"{run.name}.safetensors"


def require_folder(folder: Path) -> None:
    """Raises:
    UsageError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{printable(folder)} is not a folder.",
            "Name the folder where your program looks for LoRA files, or a file in it that ends in .safetensors.",
            code="output-not-a-folder",
        )


def use(run: RunRecord, judged: JudgedFile, target: Path, *, overwrite: bool = False) -> Path:
    """Copy the file into a folder as `<name>.safetensors`, or under another name.

    The copy has trigger, strength, and a sample as its thumbnail. The tensors are the same to the byte, and the run's
    own file stays as it is.

    Args:
        target: models folder of another program, such as ComfyUI's models/loras, which must exist; or a file in it.

    Raises:
        UsageError: there is no such folder, or it has another file of that name and `overwrite` is off.
        ModelError: the file cannot be read.
        StorageError: no space, or no permission.
    """
    place = place_in(run, target)
    require_folder(place.parent)
    if place.exists() and place.samefile(judged.file.path):
        raise UsageError(f"{printable(place)} is that file itself.", "Name another folder.", code="output-is-input")
    samples = sorted((index, path) for (index, step), path in run.samples.images.items() if step == judged.file.step)
    own = run.config is not None and run.config.saving.metadata_thumbnail
    request = EditRequest(
        file=str(judged.file.path),
        trigger=(learned_trigger(run.config, judged.file.path) if run.config is not None else "") or None,
        strength=strength_of(judged),
        thumbnail=str(samples[0][1]) if samples and not own else None,
        out=str(place),
        overwrite=overwrite,
    )
    edit(request)
    return place


def put_away(run_dir: RunDir, others: Sequence[Path]) -> Path:
    """Move files of the run into its folder `other_files`, and return the folder; nothing is deleted.

    Raises:
        UsageError: the run is still running, or a file of that name exists already.
        StorageError: no permission.
    """
    if is_locked(run_dir.lock_path):
        raise UsageError(
            "The run is still running: its files stay where they are.",
            "Move them when it has ended.",
            code="run-is-live",
        )
    folder = run_dir.path / AWAY
    with storing(folder):
        folder.mkdir(exist_ok=True)
    for path in others:
        place = folder / path.name
        if os.path.lexists(place):
            raise UsageError(f"{printable(place)} exists already.", "Remove or rename it first.", code="output-exists")
        with storing(place):
            path.rename(place)
    return folder
