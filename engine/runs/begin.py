"""Launches prepared runs, new ones and those that continue: for the shell, the screens and the queue."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.runs.find import record_run
from engine.runs.inputs import ChangedInputsError
from engine.runs.launch import launch, logout_warning
from engine.runs.layout import RunDir
from engine.runs.on_end import variables_of
from engine.runs.resume import note, plan_resume, prepare_resume
from engine.runs.state import RunState
from engine.types import Log

if TYPE_CHECKING:
    from engine.types import Progress


def _silent(_: str) -> None:
    pass


def start(
    run_dir: RunDir,
    log: Log = _silent,
    *,
    on_end: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    warned: bool = False,
) -> subprocess.Popen[bytes]:
    """Launch a prepared run and add it to the list of runs.

    Args:
        on_end: the words of a command that the trainer runs when it has ended.
        variables: of the trainer's environment, besides its usual ones.
        warned: the person has seen what a logout would end, as every review shows it.

    Raises:
        StorageError: its log cannot be written.
    """
    for sentence in (record_run(run_dir), None if warned else logout_warning()):
        if sentence:
            log(sentence)
    return launch(run_dir, variables={**variables_of(on_end), **(variables or {})})


def prepare_to_resume(
    run_dir: RunDir,
    changes: Mapping[str, object] | None = None,
    *,
    accept_changes: bool = False,
    log: Log = _silent,
    progress: Progress | None = None,
) -> RunState:
    """Prepare an ended run to be launched again, if its inputs are unchanged; returns the state it was in.

    Args:
        run_dir: an ended run; a finished one needs a longer length among `changes`.
        changes: dotted key to the new value, written into the run's configuration.
        accept_changes: the person accepts changed images, captions or model files.
        log: called with a sentence for what was dropped, changed or accepted.
        progress: called with (read, total) images while they are compared.

    Raises:
        ChangedInputsError: something that it was trained on changed; nothing was written.
        LoraSmithError: it cannot be resumed.
    """
    from engine.runs.compare_inputs import accept, compare

    plan_resume(run_dir, changes)
    compared = compare(run_dir, progress)
    changed_inputs = compared.changes if compared is not None else ()
    if changed_inputs and not accept_changes:
        raise ChangedInputsError(run_dir, changed_inputs)
    state = prepare_resume(run_dir, changes=changes, log=log)
    if compared is not None and changed_inputs:
        note(run_dir, [f"Accepted: {'; '.join(changed_inputs)}."], log)
        accept(run_dir, compared)
    return state
