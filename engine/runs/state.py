"""The state of a run: what it has written (state.json, exit.json), and what is true (the lock)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import StorageError, storing
from engine.reading import refuse_links
from engine.runs.identity import host, identity_of, is_alive
from engine.runs.integrity import fault_of
from engine.runs.layout import RunDir, read_record, record_bytes, record_root, write_record
from engine.runs.lock import is_locked
from engine.runs.tail import latest_step
from engine.runs.values import MAX_PID, count, local_time, number, seconds, text

LIVE = ("starting", "running", "paused", "stopping")
ENDED = ("finished", "stopped", "failed")
STATES = (*LIVE, *ENDED, "lost", "unknown", "damaged")
"""lost: killed, without an exit record. unknown: last written on another machine. damaged: see `integrity.fault_of`."""


@dataclass(frozen=True)
class RunState:
    """The state of a run at one moment."""

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
    """Writes state.json for the trainer: cheap enough for every step, and robust against a full disk.

    Safe to use from a heartbeat thread. Written when the state or the phase changes, with `force`, otherwise at most
    once in `interval` seconds.

    Args:
        pid: the process that holds the lock; None: this one.
    """

    def __init__(self, run_dir: RunDir, pid: int | None = None, *, interval: float = 1.0) -> None:
        self.failures = 0
        self._path = run_dir.state_path
        self._interval = interval
        self._written = 0.0
        self._mutex = threading.Lock()
        before = _record(run_dir.state_path)
        self._record: dict[str, Any] = {
            "step": 0, "epoch": 0, "max_train_steps": None, "phase": "", **before,
            **identity_of(pid or os.getpid()), "state": "starting",
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
        try:  # no fsync: after a power failure the lock is more reliable than this file
            refuse_links(temporary.parent, record_root(temporary))
            temporary.unlink(missing_ok=True)  # a link there would be followed
            temporary.write_text(json.dumps(self._record), encoding="ascii")
            temporary.replace(self._path)
        except OSError:
            self.failures += 1
            with suppress(OSError):
                temporary.unlink()


def mark_starting(run_dir: RunDir, identity: dict[str, object]) -> None:
    """Record that the process `identity` is about to train; keeps step and epoch of an earlier part of the run."""
    before = _record(run_dir.state_path)
    record = {"step": 0, "epoch": 0, "max_train_steps": None, "phase": "", **before, **identity, "state": "starting"}
    write_record(run_dir.state_path, {**record, "updated": round(time.time(), 3)})


def mark_unstarted(run_dir: RunDir) -> None:
    """Record that a run is prepared, and that this process does not start it."""
    with storing(run_dir.state_path):
        run_dir.state_path.unlink(missing_ok=True)


def write_exit(run_dir: RunDir, state: str, exit_code: int, step: int, **details: Any) -> None:
    """Write exit.json: the process ended regularly. `details`: code, title, message and hint of an error.

    The reserve is deleted first, so that this works on a full disk.

    Raises:
        StorageError: it cannot be written all the same.
    """
    assert state in ENDED, state
    with suppress(OSError):
        run_dir.reserve_path.unlink(missing_ok=True)
    record = {"state": state, "exit_code": int(exit_code), "step": step, "time": round(time.time(), 3), **details}
    try:
        write_record(run_dir.exit_path, record)
    except StorageError:  # works on a disk that cannot sync or rename; half a record is read as none
        with storing(run_dir.exit_path):
            run_dir.exit_path.write_bytes(record_bytes(record))


def read_exit(run_dir: RunDir) -> dict[str, Any] | None:
    """How the run ended; None when it has not, or was killed."""
    value = read_record(run_dir.exit_path)
    code = count(value.get("exit_code"), 256)
    if code is None or value.get("state") not in ENDED:
        return None
    texts = {key: entry for key in ("code", "title", "message", "hint") if (entry := text(value.get(key)))}
    return {"state": value["state"], "exit_code": code, "step": count(value.get("step")) or 0, **texts}


def _record(path: Path) -> dict[str, Any]:
    """The valid values of state.json."""
    value = read_record(path)
    kinds: dict[str, Callable[[Any], Any]] = {
        "state": text, "phase": text, "boot_id": text, "host": text, "step": count, "epoch": count,
        "max_train_steps": count, "updated": seconds, "process_start": number,
    }  # fmt: skip
    record = {key: entry for key, kind in kinds.items() if (entry := kind(value.get(key))) is not None}
    pid = count(value.get("pid"), MAX_PID)
    return {**record, "pid": pid} if pid is not None else record


def true_state(run_dir: RunDir) -> RunState:
    """The true state of a run: from the lock, then exit.json, then the last writer of state.json.

    Never raises, whatever the files contain: unreadable ones count as missing, and a directory that cannot be used as
    a run is "damaged".
    """
    record = _record(run_dir.state_path)
    if fault := fault_of(run_dir):
        return _state(record, "damaged", fault)
    holder = is_locked(run_dir.lock_path)
    written = record.get("state", "")
    if holder is not None:
        live = written if written in LIVE else "stopping" if written in ENDED else "starting"
        return _state(record, live, f"its trainer is process {holder.pid}", pid=holder.pid)
    ending = read_exit(run_dir)
    if ending is not None:
        state, step = ending["state"], ending["step"]
        detail = ending.get("message") or f"{state} at step {step}"
        return _state({**record, "step": step}, state, detail, exit_code=ending["exit_code"])
    if is_alive(record):
        return _state(record, written if written in LIVE else "starting", f"its trainer is process {record['pid']}")
    if not record and run_dir.meta and not run_dir.events_path.exists():
        return _state(record, "stopped", "it is prepared, and was not started yet")
    record = _with_newest_step(run_dir, record)
    where = record.get("host", text(run_dir.meta.get("host")))
    if where is not None and where != host():
        detail = f"it ran on {where}; last update {moment(record.get('updated'))}"
        return _state(record, "unknown", detail)
    detail = f"the process stopped unexpectedly; last update {moment(record.get('updated'))}"
    return _state(record, "lost", detail)


def _with_newest_step(run_dir: RunDir, record: dict[str, Any]) -> dict[str, Any]:
    """Step and time from the event log where newer: state.json is written once a second, each step is logged."""
    event = latest_step(run_dir.events_path)
    written = record.get("updated")
    if event is None or (written is not None and written >= event.time):
        return record
    values = {"step": event.step, "epoch": event.epoch}
    newer = {key: value for key, value in values.items() if value is not None}
    return {**record, **newer, "updated": event.time}


def with_detail(state: RunState) -> str:
    """State and detail, without the word twice: "finished at step 30", "failed: ..."."""
    return state.detail if state.detail.startswith(f"{state.state} at ") else f"{state.state}: {state.detail}"


def _state(record: dict[str, Any], state: str, detail: str, **more: Any) -> RunState:
    values = {key: record.get(key) for key in ("pid", "max_train_steps", "updated")}
    counts = {key: record.get(key, 0) for key in ("step", "epoch")}
    return RunState(state, detail, **{**values, **counts, "phase": record.get("phase", ""), **more})


def moment(when: object) -> str:
    """A time as text, in the local zone."""
    then = local_time(when)
    return "unknown" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", then)
