"""Starting a run: checked, prepared, noted in the list of runs, launched. The shell and the screens share it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.runs import RunDir, RunState, prepare_resume, prepare_run, remember
from engine.runs.inputs import ChangedInputsError
from engine.runs.launch import launch, logout_warning
from engine.runs.resume import note, require_unfinished

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.pool import Progress

Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def prepare(
    config: RunConfig,
    *,
    command_line: Sequence[str] = (),
    restart: bool = False,
    checked: bool = False,
    say: Say = _silent,
    progress: Progress | None = None,
) -> RunDir:
    """Check what can be checked without loading anything, then make the run directory.

    Args:
        config: as read or as drafted.
        command_line: what starts the same run from a shell, for meta.json.
        restart: put an unfinished run away as well.
        checked: `preflight` was just asked and found nothing to mend.
        say: told what was moved, and what is wrong with the captions.
        progress: told (read, total) pictures while they are checked.

    Raises:
        LoraSmithError: what the person must mend; no directory was made.
    """
    from engine.hardware import versions
    from tui.preflight import preflight

    if not checked:
        for sentence, _step in preflight(config, restart=restart, progress=progress).captions.warnings():
            say(f"warning: {sentence}")
    return prepare_run(config, command_line=command_line, versions=versions(), restart=restart, say=say)


def start(run_dir: RunDir, say: Say = _silent) -> subprocess.Popen[bytes]:
    """Launch a prepared run and note it in the list of runs.

    Raises:
        StorageError: its log cannot be written.
    """
    for sentence in (remember(run_dir), logout_warning()):
        if sentence:
            say(sentence)
    return launch(run_dir)


def begin(
    config: RunConfig,
    *,
    command_line: Sequence[str] = (),
    restart: bool = False,
    checked: bool = False,
    say: Say = _silent,
    progress: Progress | None = None,
) -> tuple[RunDir, subprocess.Popen[bytes]]:
    """Start a new run from a screen; the arguments are those of `prepare`. Blocks: call it in a worker.

    Where the configuration leaves it open, the screen asks when memory runs out.

    Raises:
        LoraSmithError: what the person must mend; nothing was started.
    """
    if config.memory.on_oom == "auto":
        config = config.changed(memory={"on_oom": "ask"})
    run_dir = prepare(config, command_line=command_line, restart=restart, checked=checked, say=say, progress=progress)
    return run_dir, _kept(start(run_dir, say))


def prepare_again(
    run_dir: RunDir,
    changes: Mapping[str, object] | None = None,
    *,
    accept_changes: bool = False,
    say: Say = _silent,
    progress: Progress | None = None,
) -> RunState:
    """Make an ended run ready to launch again, if it is still trained on the same; returns the state it was in.

    Args:
        run_dir: a stopped, failed or lost run.
        changes: dotted key to the new value, written into the run's configuration.
        accept_changes: other images, captions or model files than before are what the person wants.
        say: called with a sentence for what was dropped, changed or accepted.
        progress: called with (read, total) images while they are compared.

    Raises:
        ChangedInputsError: something that it was trained on changed; nothing was written.
        LoraSmithError: it cannot be resumed.
    """
    from engine.dataset.inputs import accept, compare

    require_unfinished(run_dir)
    compared = compare(run_dir, progress)
    found = compared.changes if compared is not None else ()
    if found and not accept_changes:
        raise ChangedInputsError(run_dir, found)
    state = prepare_resume(run_dir, changes=changes, say=say)
    if compared is not None and found:
        note(run_dir, [f"Accepted: {'; '.join(found)}."], say)
        accept(run_dir, compared)
    return state


def begin_again(
    run_dir: RunDir,
    changes: Mapping[str, object] | None = None,
    *,
    accept_changes: bool = False,
    say: Say = _silent,
) -> subprocess.Popen[bytes]:
    """Go on with an ended run from its last saved state. Blocks: call it in a worker. See `prepare_again`.

    Raises:
        ChangedInputsError: something that it was trained on changed; nothing was started.
        LoraSmithError: it cannot go on; nothing was started.
    """
    prepare_again(run_dir, changes, accept_changes=accept_changes, say=say)
    return _kept(start(run_dir, say))


def _kept(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Wait for the trainer's end in the background, so that no dead process stays in the list of the living."""
    threading.Thread(target=process.wait, name=f"trainer {process.pid}", daemon=True).start()
    return process
