"""Where a run stands: what it says itself (state.json, exit.json), and what is true (the lock)."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.atomic import read_json
from engine.errors import StorageError, storing
from engine.runs.identity import host, is_alive, own_identity
from engine.runs.layout import RunDir, record_bytes, write_record
from engine.runs.lock import is_locked
from engine.runs.tail import latest_step

LIVE = ("starting", "running", "paused", "stopping")
ENDED = ("finished", "stopped", "failed")
STATES = (*LIVE, *ENDED, "lost", "unknown")
"""lost: dead without a word. unknown: it was last written on another machine."""


@dataclass(frozen=True)
class RunState:
    """What is known about a run at this moment."""

    state: str
    detail: str
    """One sentence for a person."""
    pid: int | None = None
    step: int = 0
    epoch: int = 0
    max_train_steps: int | None = None
    phase: str = ""
    updated: float | None = None
    """Seconds since 1970 of the last sign of life."""
    exit_code: int | None = None

    @property
    def live(self) -> bool:
        """True while a trainer works on it here."""
        return self.state in LIVE


class StateWriter:
    """The trainer's pen for state.json: cheap enough for every step, and no full disk stops it.

    Safe to use from a heartbeat thread. Written when the state or the phase changes, with `force`, otherwise at most
    once in `interval` seconds.
    """

    def __init__(self, run_dir: RunDir, *, interval: float = 1.0) -> None:
        self.failures = 0
        self._path = run_dir.state_path
        self._interval = interval
        self._written = 0.0
        self._mutex = threading.Lock()
        known = _record(run_dir.state_path)
        self._record: dict[str, Any] = {
            "step": 0, "epoch": 0, "max_train_steps": None, "phase": "", **known, **own_identity(), "state": "starting"
        }  # fmt: skip

    @property
    def pid(self) -> int:
        """This process, as state.json names it."""
        return int(self._record["pid"])

    def update(self, *, force: bool = False, **fields: Any) -> None:
        """Change some of state, step, epoch, max_train_steps, phase."""
        assert fields.get("state", "starting") in STATES
        with self._mutex:
            self._update(force, fields)

    def _update(self, force: bool, fields: dict[str, Any]) -> None:
        changed = any(self._record.get(key) != fields[key] for key in ("state", "phase") if key in fields)
        self._record.update(fields)
        now = time.monotonic()
        if not (force or changed or now - self._written >= self._interval):
            return
        self._written = now
        self._record["updated"] = round(time.time(), 3)
        temporary = self._path.with_name(".state.json.tmp")
        try:  # no fsync: after a power cut the lock says more than this file
            temporary.write_text(json.dumps(self._record), encoding="ascii")
            temporary.replace(self._path)
        except OSError:
            self.failures += 1
            with suppress(OSError):
                temporary.unlink()


def mark_starting(run_dir: RunDir, identity: dict[str, object]) -> None:
    """Say that the process `identity` is about to train; keeps step and epoch of an earlier part of the run."""
    known = _record(run_dir.state_path)
    record = {"step": 0, "epoch": 0, "max_train_steps": None, "phase": "", **known, **identity, "state": "starting"}
    write_record(run_dir.state_path, {**record, "updated": round(time.time(), 3)})


def write_exit(run_dir: RunDir, state: str, exit_code: int, step: int, **details: Any) -> None:
    """Write exit.json: the run ended by its own decision. `details`: title, message, hint of an error.

    The reserve is given up first, so that a full disk does not hide how the run ended.

    Raises:
        StorageError: even so, it cannot be written.
    """
    assert state in ENDED, state
    with suppress(OSError):
        run_dir.reserve_path.unlink(missing_ok=True)
    record = {"state": state, "exit_code": int(exit_code), "step": step, "time": round(time.time(), 3), **details}
    try:
        write_record(run_dir.exit_path, record)
    except StorageError:  # a disk that cannot sync or rename may still take it, and half of it is read as none
        with storing(run_dir.exit_path):
            run_dir.exit_path.write_bytes(record_bytes(record))


def read_exit(run_dir: RunDir) -> dict[str, Any] | None:
    """How the run ended; None when it has not, or not by its own decision."""
    value = read_json(run_dir.exit_path)
    return value if isinstance(value, dict) and isinstance(value.get("exit_code"), int) else None


def _record(path: Path) -> dict[str, Any]:
    value = read_json(path)
    return value if isinstance(value, dict) else {}


def true_state(run_dir: RunDir) -> RunState:
    """What is true about a run: the lock, then exit.json, then who wrote state.json last, and where."""
    record = _record(run_dir.state_path)
    holder = is_locked(run_dir.lock_path)
    said = str(record.get("state", ""))
    if holder is not None:
        live = said if said in LIVE else "stopping" if said in ENDED else "starting"
        return _state(record, live, f"trains in process {holder.pid}", pid=holder.pid)
    ending = read_exit(run_dir)
    if ending is not None:
        state = str(ending.get("state"))
        detail = str(ending.get("message") or f"{state} at step {ending.get('step')}")
        step = int(ending.get("step") or 0)
        return _state({**record, "step": step}, state, detail, exit_code=ending["exit_code"])
    if is_alive(record):
        return _state(record, said if said in LIVE else "starting", f"process {record['pid']} works on it")
    record = _with_newest_step(run_dir, record)
    where = record.get("host", run_dir.meta.get("host"))
    if where is not None and where != host():
        detail = f"it ran on {where}; last sign of life {moment(record.get('updated'))}"
        return _state(record, "unknown", detail)
    detail = f"its process ended without a word; last sign of life {moment(record.get('updated'))}"
    return _state(record, "lost", detail)


def _with_newest_step(run_dir: RunDir, record: dict[str, Any]) -> dict[str, Any]:
    """Step and time of the event log where that is newer: state.json is written once a second, each step is logged."""
    event = latest_step(run_dir.events_path)
    told, written = (event or {}).get("time"), record.get("updated")
    if event is None or not isinstance(told, (int, float)):
        return record
    if isinstance(written, (int, float)) and written >= told:
        return record
    return {**record, **{key: event[key] for key in ("step", "epoch") if key in event}, "updated": told}


def _state(record: dict[str, Any], state: str, detail: str, **known: Any) -> RunState:
    values = {key: record.get(key) for key in ("pid", "max_train_steps", "updated")}
    counts = {key: int(record.get(key) or 0) for key in ("step", "epoch")}
    return RunState(state, detail, **{**values, **counts, "phase": str(record.get("phase") or ""), **known})


def moment(seconds: object) -> str:
    """A time as a person reads it, in the local zone."""
    if not isinstance(seconds, (int, float)):
        return "unknown"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
