"""Compares the run's images, captions and model files with those that it was trained on so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from engine.hardware.packages import version_of, versions
from engine.runs.compare_inputs import model_files
from engine.runs.events import RetryEvent, RunStartedEvent, read_events
from engine.runs.inputs import ChangedInputsError, Inputs, changes, environment_changes, write_inputs
from engine.runs.layout import RunDir
from engine.text import size_text
from engine.training.run_reader import RunReader
from engine.training.session import Session

_LARGE = 2**31
"""Bytes that take seconds to hash."""
_NO_NUMBERS = ("python",)
"""Versions that do not change results."""


def check_inputs(session: Session, reader: RunReader, model: Path, device: torch.device) -> Callable[[], str]:
    """Refuse to continue on other images, captions or model files than before; record them at the first start.

    Files are hashed once; later only those whose size or time differ from the record. While nothing is saved yet, the
    large ones of the model are hashed in a thread. When the trainer restarts itself after an out-of-memory, a change is
    only a warning.

    Args:
        reader: collects them.
        model: file or folder of the recognised checkpoint.

    Returns:
        a function that returns the inputs' digest once they are recorded, to be called before anything is saved. The
        digest is empty on ranks above 0, which save no states.

    Raises:
        ChangedInputsError: something changed since the last state, and the user has not accepted that.
        DataError: a file cannot be read.
        Stopped: a stop was requested meanwhile.
    """
    collected, run = reader.inputs.wait(session), session.run
    if collected is None:
        return lambda: ""
    recorded, step, current = collected
    size = sum(file.stat().st_size for file in model_files(model)) if recorded is None else 0
    if size > _LARGE:
        session.log(f"The model's files are read once to record what the run is trained on: {size_text(size)}.")
    current = replace(current, environment=_environment(device))
    if step is not None and recorded is None:
        session.log(
            "This run has no record of what it was trained on until now, as with earlier versions of LoRA Smith: "
            "whether images, captions or model files changed since then cannot be checked."
        )
    elif step is not None and recorded is not None:
        if changed := changes(recorded, current):
            if not _restarted_itself(run):
                session.step = step
                raise ChangedInputsError(run, changed)
            session.warn("inputs_changed", f"Changed during the run: {'; '.join(changed)}.")
        if others := environment_changes(recorded, current):
            session.log(
                f"Since the last start {', '.join(others)}: from here on results may differ in their last digits from "
                "those of an uninterrupted run."
            )
    if not current.is_complete:
        return lambda: _record(run, replace(reader.complete_inputs.wait(session), environment=current.environment))
    if current != recorded:
        write_inputs(run, current)
    return lambda: current.digest


def _record(run: RunDir, inputs: Inputs) -> str:
    """Write the record of the inputs; returns their digest."""
    write_inputs(run, inputs)
    return inputs.digest


def _environment(device: torch.device) -> dict[str, str]:
    environment = {**versions(), "Pillow": version_of("pillow"), "numpy": version_of("numpy")}
    if device.type == "cuda":
        environment["device"] = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        environment["device"] = f"CPU ({torch.backends.cpu.get_cpu_capability()}, {threads} threads)"
    return {name: value for name, value in environment.items() if value is not None and name not in _NO_NUMBERS}


def _restarted_itself(run: RunDir) -> bool:
    """Whether the trainer restarted itself after an out-of-memory."""
    turns = [type(e) for e in read_events(run.events_path) if isinstance(e, (RetryEvent, RunStartedEvent))]
    return turns[-2:] == [RetryEvent, RunStartedEvent]
