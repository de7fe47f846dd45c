"""Starting a run: check, prepare, then `engine.runs.begin`. Shared by the shell and the screens."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.runs import RunDir, prepare_run
from engine.runs.begin import prepare_to_resume, start
from engine.types import Log

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.types import Progress


def _silent(_: str) -> None:
    pass


def prepare(
    config: RunConfig,
    *,
    command_line: Sequence[str] = (),
    restart: bool = False,
    checked: bool = False,
    log: Log = _silent,
    progress: Progress | None = None,
) -> RunDir:
    """Check what can be checked without loading anything, then make the run directory.

    Args:
        config: of the shell or the draft.
        command_line: what starts the same run from a shell, for meta.json.
        restart: move an unfinished run away as well.
        checked: `preflight` was just called and found no problem.
        log: called with what was moved, and what is wrong with the captions.
        progress: called with (read, total) images while they are checked.

    Raises:
        LoraSmithError: what the person must fix; no directory was made.
    """
    from engine.hardware import versions
    from tui.setup.preflight import preflight

    if not checked:
        for sentence, _step in preflight(config, restart=restart, progress=progress).captions.warnings():
            log(f"warning: {sentence}")
    return prepare_run(config, command_line=command_line, versions=versions(), restart=restart, log=log)


def begin(
    config: RunConfig,
    *,
    command_line: Sequence[str] = (),
    restart: bool = False,
    checked: bool = False,
    log: Log = _silent,
    progress: Progress | None = None,
) -> tuple[RunDir, subprocess.Popen[bytes]]:
    """Start a new run from a screen; the arguments are those of `prepare`. Blocks: call it in a worker.

    With memory.on_oom = "auto", the screen asks when memory runs out.

    Raises:
        LoraSmithError: what the person must fix; nothing was started.
    """
    if config.memory.on_oom == "auto":
        config = config.changed(memory={"on_oom": "ask"})
    run_dir = prepare(config, command_line=command_line, restart=restart, checked=checked, log=log, progress=progress)
    return run_dir, _reaped(start(run_dir, log, warned=True))


def resume(
    run_dir: RunDir,
    changes: Mapping[str, object] | None = None,
    *,
    accept_changes: bool = False,
    log: Log = _silent,
) -> subprocess.Popen[bytes]:
    """Continue an ended run from its last saved state; arguments of `prepare_to_resume`. Blocks: for a worker.

    Args:
        log: called with what is new to a person who has read the plan; the rest is in the run's events.

    Raises:
        ChangedInputsError: something that it was trained on changed; nothing was started.
        LoraSmithError: it cannot be resumed; nothing was started.
    """
    prepare_to_resume(run_dir, changes, accept_changes=accept_changes)
    return _reaped(start(run_dir, log, warned=True))


def _reaped(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Wait for the trainer's end in the background, so that it leaves no zombie process."""
    threading.Thread(target=process.wait, name=f"trainer {process.pid}", daemon=True).start()
    return process
