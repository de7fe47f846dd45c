"""Starting the trainer as a process of its own, which outlives the terminal that started it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import engine
from engine.errors import storing
from engine.reading import open_for_writing, read_tail
from engine.runs.identity import identity_of
from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, record_root
from engine.runs.lock import is_locked
from engine.runs.state import mark_starting

_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may add in another order each time
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_OF_THE_ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
"""What a person set there stays. Segments that can grow leave less memory unused in pieces."""
_OF_LAUNCHERS = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "PMI_RANK",
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
}  # fmt: skip
"""A cluster's own variables would make one trainer wait for others that do not exist."""


def trainer_command(run_dir: RunDir) -> list[str]:
    """The trainer's command line. -P: a folder `engine` or a `random.py` in the working directory is not imported."""
    return [sys.executable, "-P", "-m", "engine.training", str(run_dir.path)]


def trainer_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The trainer's environment: this one, offline, and from a checkout with the place of `engine`."""
    own = {name: value for name, value in base.items() if name not in _OF_LAUNCHERS and name[:11] != "ACCELERATE_"}
    environment = {**own, **_ENVIRONMENT}
    if not _OF_THE_ALLOCATOR & own.keys():
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    home = Path(engine.__file__).resolve().parent.parent
    if not {"site-packages", "dist-packages"} & set(home.parts):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), base.get("PYTHONPATH")]))
    return environment


def launch(
    run_dir: RunDir, *, command: Sequence[str] | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the trainer of a prepared run in a session of its own; returns at once.

    Standard input is closed, output is appended to train.log. Wait for its first signs with `engine.runs.follow`.

    Args:
        run_dir: from `prepare_run` or after `prepare_resume`.
        command: in place of `trainer_command(run_dir)`.
        variables: of its environment, besides `trainer_environment()`.

    Raises:
        UsageError: it cannot be used as a run (`integrity.fault_of`).
        StorageError: train.log cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with storing(run_dir.log_path):
        require_sound(run_dir)
        file = open_for_writing(run_dir.log_path, flags, below=record_root(run_dir.log_path))
        with os.fdopen(file, "ab") as log:
            process = subprocess.Popen(
                list(command or trainer_command(run_dir)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=True,
                env={**trainer_environment(), **(variables or {})},
            )
    if is_locked(run_dir.lock_path) is None:
        mark_starting(run_dir, identity_of(process.pid))  # it may live on without us before it has the lock
    return process


def log_tail(run_dir: RunDir, lines: int = 12, limit: int = 64 * 1024) -> list[str]:
    """The last lines of train.log; what a progress bar overwrote is left out."""
    try:
        text = read_tail(run_dir.log_path, limit, below=record_root(run_dir.log_path))[0].decode(errors="replace")
    except OSError:
        return []
    shown = [line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")]
    return [line for line in shown if line][-lines:]


def logout_warning() -> str | None:
    """A sentence when this host ends every process of a user who logs out (systemd's KillUserProcesses)."""
    if shutil.which("loginctl") is None or shutil.which("busctl") is None:
        return None
    manager = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
    if _output(["busctl", "get-property", *manager, "KillUserProcesses"]) != "b true":
        return None
    if _output(["loginctl", "show-user", getpass.getuser(), "-p", "Linger", "--value"]) == "yes":
        return None
    return (
        "This host ends all processes of a user at logout (KillUserProcesses): the training would end with your "
        "session. Allow it to stay with: loginctl enable-linger"
    )


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
