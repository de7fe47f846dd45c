"""What the run was trained on so far, compared with what is there now, before anything is trained on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine.config import RunConfig
from engine.dataset.digests import FileDigests
from engine.dataset.inputs import model_files, take
from engine.dataset.pictures import Scan
from engine.hardware.packages import version_of, versions
from engine.runs.events import read_events
from engine.runs.inputs import ChangedInputsError, changes, environment_changes, read_inputs, write_inputs
from engine.runs.layout import RunDir
from engine.runs.resume import last_saved_state
from engine.text import size_text
from engine.training.processes import Helper
from engine.training.session import Session

_LARGE = 2**31
"""Bytes that take seconds to hash."""
_NO_NUMBERS = ("python",)
"""Versions that change no number."""


def check_inputs(
    session: Session, config: RunConfig, found: Scan, model: Path, device: torch.device, digests: FileDigests
) -> str:
    """Refuse to continue on other images, captions or model files than before; write the record at the first start.

    Files are hashed once; later only those whose size or time differ from the record. A start after an out-of-memory
    that the trainer made itself asks nobody: there a change is a warning.

    Returns:
        the digest of what the run is trained on; empty on ranks above 0, which save no states.

    Raises:
        ChangedInputsError: something changed since the last state, and nobody has accepted that.
        DataError: a file cannot be read.
        Stopped: a stop was asked for meanwhile.
    """
    if isinstance(session, Helper):
        return ""
    run = session.run
    known, step = read_inputs(run), last_saved_state(run)
    size = sum(file.stat().st_size for file in model_files(model)) if known is None else 0
    if size > _LARGE:
        session.say(f"The model's files are read once to record what the run is trained on: {size_text(size)}.")
    now = take(config, found, model, known, digests, session.should_stop)
    session.stop_here()
    now = replace(now, environment=_environment(device))
    if step is not None and known is None:
        session.say(
            "This run has no record of what it was trained on until now, as with earlier versions of LoRA Smith: "
            "whether images, captions or model files changed since then cannot be checked."
        )
    elif step is not None and known is not None:
        if changed := changes(known, now):
            if not _restarted_itself(run):
                session.step = step
                raise ChangedInputsError(run, changed)
            session.warn("inputs_changed", f"Changed while the run was going on: {'; '.join(changed)}.")
        if others := environment_changes(known, now):
            session.say(
                f"Since the last start {', '.join(others)}: from here on numbers may differ in their last digits from "
                "those of a run without an interruption."
            )
    if now != known:
        write_inputs(run, now)
    return now.digest


def _environment(device: torch.device) -> dict[str, str]:
    told = {**versions(), "Pillow": version_of("pillow"), "numpy": version_of("numpy")}
    if device.type == "cuda":
        told["device"] = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        told["device"] = f"CPU ({torch.backends.cpu.get_cpu_capability()}, {threads} threads)"
    return {name: value for name, value in told.items() if value is not None and name not in _NO_NUMBERS}


def _restarted_itself(run: RunDir) -> bool:
    """Whether this life of the trainer follows a retry, with nothing of a person between."""
    turns = [event.type for event in read_events(run.events_path) if event.type in ("retry", "run_started")]
    return turns[-2:] == ["retry", "run_started"]
