"""Starts the trainer as a process that outlives its terminal."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import storing
from engine.processes import trainer_environment
from engine.reading import open_for_writing, read_tail
from engine.runs.identity import identity_of
from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, record_root
from engine.runs.lock import is_locked
from engine.runs.state import mark_starting


def trainer_command(run_dir: RunDir) -> list[str]:
    """The trainer's command line. -P: a folder `engine` or a `random.py` in the working directory is not imported."""
    return [sys.executable, "-P", "-m", "engine.training", str(run_dir.path)]


def launch(
    run_dir: RunDir, *, command: Sequence[str] | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the trainer of a prepared run in a session of its own; returns at once.

    Standard input is closed, output is appended to train.log. `engine.runs.follow` waits for its first events.

    Args:
        run_dir: from `prepare_run` or after `prepare_resume`.
        command: instead of `trainer_command(run_dir)`.
        variables: added to `trainer_environment()`.

    Raises:
        UsageError: it cannot be used as a run (`integrity.fault_of`).
        StorageError: train.log cannot be written.
    """
    with storing(run_dir.log_path):
        require_sound(run_dir)
    process = start_session(command or trainer_command(run_dir), run_dir.log_path, variables)
    if is_locked(run_dir.lock_path) is None:
        mark_starting(run_dir, identity_of(process.pid))  # this process may end before the trainer has the lock
    return process


def start_session(
    command: Sequence[str], log_path: Path, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of ours that outlives this one: a session of its own, no input, its output appended to a log.

    Args:
        log_path: in a folder below that of its run or queue.
        variables: added to `trainer_environment()`.

    Raises:
        StorageError: the log cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with storing(log_path):
        file = open_for_writing(log_path, flags, below=record_root(log_path))
        with os.fdopen(file, "ab") as log:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=True,
                env={**trainer_environment(), **(variables or {})},
            )


def log_tail(run_dir: RunDir, lines: int = 12) -> list[str]:
    """The last lines of train.log; what a progress bar overwrote is left out."""
    return tail_of(run_dir.log_path, lines)


def tail_of(log_path: Path, lines: int, limit: int = 64 * 1024) -> list[str]:
    """The last lines of a log that `start_session` has made."""
    try:
        text = read_tail(log_path, limit, below=record_root(log_path))[0].decode(errors="replace")
    except OSError:
        return []
    visible = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [line for line in visible if line][-lines:]


def logout_warning() -> str | None:
    """A warning when this host ends every process of a user who logs out (systemd's KillUserProcesses)."""
    if shutil.which("loginctl") is None or shutil.which("busctl") is None:
        return None
    manager = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
    if _output(["busctl", "get-property", *manager, "KillUserProcesses"]) != "b true":
        return None
    if _output(["loginctl", "show-user", getpass.getuser(), "-p", "Linger", "--value"]) == "yes":
        return None
    return (
        "This host ends all processes of a user at logout (KillUserProcesses): the training would end with your "
        "session. To keep it running: loginctl enable-linger"
    )


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
