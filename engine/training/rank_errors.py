"""What each rank of a run leaves behind when it fails, for the process that reports the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.exit_codes import ExitCode
from engine.runs.layout import RunDir, read_record, write_record
from engine.runs.values import count, number, text


@dataclass(frozen=True)
class RankError:
    """The error that ended a rank."""

    rank: int
    state: str
    """"failed", or "stopped" where the images changed."""
    exit_code: ExitCode
    details: Mapping[str, str]
    """Code, title, message and hint."""
    when: float
    """Seconds since 1970."""

    @property
    def is_expected(self) -> bool:
        """Whether the sentence is for the person who trains. Other errors often follow from the end of another rank."""
        return self.details.get("code") != "unexpected"


def write_rank_error(run: RunDir, rank: int, state: str, exit_code: ExitCode, details: Mapping[str, str]) -> None:
    """Write it.

    Raises:
        StorageError: no space or no permission.
    """
    record = {"state": state, "exit_code": int(exit_code), "time": time.time(), "details": dict(details)}
    write_record(_path(run, rank), record)


def take_rank_errors(run: RunDir) -> list[RankError]:
    """Read and delete what the ranks wrote: what explains the end first."""
    errors = []
    for path in sorted(run.private.glob("rank-*.json")):
        error = _parsed(path.stem.partition("-")[2], read_record(path))
        path.unlink(missing_ok=True)
        if error is not None:
            errors.append(error)
    return sorted(errors, key=lambda error: (not error.is_expected, error.when))


def _path(run: RunDir, rank: int) -> Path:
    return run.private / f"rank-{rank}.json"


def _parsed(rank: str, record: Mapping[str, Any]) -> RankError | None:
    state, code, when = record.get("state"), count(record.get("exit_code"), 255), number(record.get("time"))
    details = record.get("details")
    if state not in ("failed", "stopped") or not rank.isdecimal() or not isinstance(details, dict) or when is None:
        return None
    texts = {key: text(details.get(key)) or "" for key in ("code", "title", "message", "hint")}
    if code not in {int(known) for known in ExitCode} or not texts["message"]:
        return None
    return RankError(int(rank), str(state), ExitCode(code), texts, when)
