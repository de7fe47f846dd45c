"""Where a run stands: what it says itself (state.json, exit.json), and what is true (the lock)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.reading import refuse_links
from engine.runs.identity import host, is_alive, own_identity
from engine.runs.integrity import fault_of
from engine.runs.layout import RunDir, read_record, record_root, write_record
from engine.runs.lock import is_locked
from engine.runs.tail import latest_step
from engine.runs.values import MAX_PID, count, local_time, number, seconds, text

LIVE = ("starting", "running", "paused", "stopping")
ENDED = ("finished", "stopped", "failed")
STATES = (*LIVE, *ENDED, "lost", "unknown", "damaged")
"""lost: dead without a word. unknown: it was last written on another machine. damaged: see `integrity.fault_of`."""


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
            refuse_links(temporary.parent, record_root(temporary))
            temporary.unlink(missing_ok=True)  # a link that lies there would be written through
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
    run_dir.reserve_path.unlink(missing_ok=True)
    record = {"state": state, "exit_code": int(exit_code), "step": step, "time": round(time.time(), 3), **details}
    write_record(run_dir.exit_path, record)


def read_exit(run_dir: RunDir) -> dict[str, Any] | None:
    """How the run ended; None when it has not, or not by its own decision."""
    value = read_record(run_dir.exit_path)
    code = count(value.get("exit_code"), 256)
    if code is None or value.get("state") not in ENDED:
        return None
    words = {key: found for key in ("title", "message", "hint") if (found := text(value.get(key)))}
    return {"state": value["state"], "exit_code": code, "step": count(value.get("step")) or 0, **words}


def _record(path: Path) -> dict[str, Any]:
    """What state.json says, each value as it may be; what it may not be is left out."""
    value = read_record(path)
    kinds: dict[str, Callable[[Any], Any]] = {
        "state": text, "phase": text, "boot_id": text, "host": text, "step": count, "epoch": count,
        "max_train_steps": count, "updated": seconds, "process_start": number,
    }  # fmt: skip
    known = {key: found for key, kind in kinds.items() if (found := kind(value.get(key))) is not None}
    pid = count(value.get("pid"), MAX_PID)
    return {**known, "pid": pid} if pid is not None else known


def true_state(run_dir: RunDir) -> RunState:
    """What is true about a run: the lock, then exit.json, then who wrote state.json last, and where.

    Whatever the files hold, nothing is raised: what cannot be read counts as missing, and a directory that cannot be
    used as a run is "damaged".
    """
    record = _record(run_dir.state_path)
    if fault := fault_of(run_dir):
        return _state(record, "damaged", fault)
    holder = is_locked(run_dir.lock_path)
    said = record.get("state", "")
    if holder is not None:
        live = said if said in LIVE else "stopping" if said in ENDED else "starting"
        return _state(record, live, f"trains in process {holder.pid}", pid=holder.pid)
    ending = read_exit(run_dir)
    if ending is not None:
        state, step = ending["state"], ending["step"]
        detail = ending.get("message") or f"{state} at step {step}"
        return _state({**record, "step": step}, state, detail, exit_code=ending["exit_code"])
    if is_alive(record):
        return _state(record, said if said in LIVE else "starting", f"process {record['pid']} works on it")
    record = _with_newest_step(run_dir, record)
    where = record.get("host", text(run_dir.meta.get("host")))
    if where is not None and where != host():
        detail = f"it ran on {where}; last sign of life {moment(record.get('updated'))}"
        return _state(record, "unknown", detail)
    detail = f"its process ended without a word; last sign of life {moment(record.get('updated'))}"
    return _state(record, "lost", detail)


def _with_newest_step(run_dir: RunDir, record: dict[str, Any]) -> dict[str, Any]:
    """Step and time of the event log where that is newer: state.json is written once a second, each step is logged."""
    event = latest_step(run_dir.events_path)
    written = record.get("updated")
    if event is None or (written is not None and written >= event.time):
        return record
    newer = {key: found for key in ("step", "epoch") if (found := event.get(key)) is not None}
    return {**record, **newer, "updated": event.time}


def _state(record: dict[str, Any], state: str, detail: str, **known: Any) -> RunState:
    values = {key: record.get(key) for key in ("pid", "max_train_steps", "updated")}
    counts = {key: record.get(key, 0) for key in ("step", "epoch")}
    return RunState(state, detail, **{**values, **counts, "phase": record.get("phase", ""), **known})


def moment(when: object) -> str:
    """A time as a person reads it, in the local zone."""
    then = local_time(when)
    return "unknown" if then is None else time.strftime("%Y-%m-%d %H:%M:%S", then)
