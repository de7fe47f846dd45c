"""The files of a run's loggers in `.run`, and whether they still run. Each logger is a process of its own."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs.layout import RunDir, read_record, write_record
from engine.runs.lock import is_locked

if TYPE_CHECKING:
    from engine.config.loggers import LoggingTable

MODULE = "engine.loggers"
"""`python -m` of this, with the run, a logger, and the number of the event with which this start began."""
WAIT_SECONDS = 30.0
"""How long an ended run waits for its loggers."""
_STAMP = re.compile(r"\d{14}(-\d{1,3})?")
_LOOK_SECONDS, _MOMENT = 0.2, 1.5


def record_path(run_dir: RunDir, name: str) -> Path:
    """What a logger has written so far, and what it needs to continue."""
    return run_dir.private / f"logger-{name}.json"


def lock_path(run_dir: RunDir, name: str) -> Path:
    """Held by a logger's process while it runs."""
    return run_dir.private / f"logger-{name}.lock"


def log_folder(run_dir: RunDir, logging: LoggingTable) -> Path:
    """`<logging_dir>/<prefix><time of the first start>`, as in the scripts (`train_util.prepare_accelerator`).

    Raises:
        StorageError: its name cannot be recorded.
    """
    parent = Path(logging.logging_dir) if logging.logging_dir else run_dir.path / "logs"
    prefix, record = logging.log_prefix or "", run_dir.private / "loggers.json"
    stamp = read_record(record).get("time")
    if not isinstance(stamp, str) or _STAMP.fullmatch(stamp) is None:
        first = time.strftime("%Y%m%d%H%M%S")
        names = [first, *(f"{first}-{number}" for number in range(2, 1000))]
        stamp = next((name for name in names if not (parent / f"{prefix}{name}").exists()), first)
        write_record(record, {"time": stamp})
    return parent / f"{prefix}{stamp}"


def running_loggers(run_dir: RunDir) -> list[str]:
    """The loggers of the run whose processes run."""
    locks = sorted(run_dir.private.glob(lock_path(run_dir, "*").name))
    return [path.stem.removeprefix("logger-") for path in locks if is_locked(path) is not None]


def wait_for_loggers(run_dir: RunDir, waits: Callable[[list[str]], None] = lambda _: None) -> None:
    """Let the loggers of an ended run write what is left, for at most `WAIT_SECONDS`.

    Args:
        waits: called once with their names if that takes longer than a moment.
    """
    names, begin, reported = running_loggers(run_dir), time.monotonic(), False
    while names and (waited := time.monotonic() - begin) < WAIT_SECONDS:
        if waited > _MOMENT and not reported:
            waits(names)
            reported = True
        time.sleep(_LOOK_SECONDS)
        names = running_loggers(run_dir)
