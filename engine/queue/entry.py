"""One entry of a queue: a run that waits, trains or has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from engine.runs.values import count, file_name, number, seconds, text

WAITING, HELD, RUNNING = "waiting", "held", "running"
FINISHED, FAILED, STOPPED = "finished", "failed", "stopped"
STATES = (RUNNING, WAITING, HELD, FINISHED, FAILED, STOPPED)
ENDED = (FINISHED, FAILED, STOPPED)
LONGEST_LIST = 1000
"""Words of a command, cards of a run."""


@dataclass(frozen=True)
class Reason:
    """Why an entry failed: an error as exit.json has it."""

    code: str = ""
    title: str = ""
    message: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.message)


@dataclass(frozen=True)
class Entry:
    """One run of a queue. What it trains is in its configuration, a file of its own."""

    id: str
    """Four digits or more, never used twice in a queue."""
    name: str
    """The run's `output_name`."""
    run_dir: str
    order: float
    """The place among those that wait: the lowest is next."""
    state: str = WAITING
    command_line: tuple[str, ...] = ()
    """What starts the same run from a shell, for its meta.json."""
    device: str = "auto"
    """`memory.device`."""
    processes: int = 1
    """`training.num_processes`: the cards that it takes."""
    added: float = 0.0
    started: float | None = None
    """When its run directory was first prepared; None before."""
    ended: float | None = None
    tries: int = 0
    """How often its trainer was started."""
    losses: int = 0
    """How often in a row it was lost without a new step."""
    lost_step: int = -1
    """The highest step at which it was lost."""
    cards: tuple[str, ...] = ()
    """The GPUs that it occupies while it runs: UUIDs, or their numbers."""
    node: str = ""
    """The machine on which it runs or ran."""
    reason: Reason = field(default_factory=Reason)

    @property
    def has_ended(self) -> bool:
        """True when nothing happens to it by itself any more."""
        return self.state in ENDED

    def as_json(self) -> dict[str, Any]:
        """The record of the entry's file."""
        return asdict(self)


def entry_of(record: Mapping[str, Any]) -> Entry | None:
    """The entry of a record; None where it is none. Values of another type count as missing."""
    values: dict[str, Any] = {
        key: value for key, kind in _KINDS.items() if (value := kind(record.get(key))) is not None
    }
    if not {"id", "name", "run_dir"} <= values.keys() or values.get("state", WAITING) not in STATES:
        return None
    return Entry(**{"order": 0.0, **values})


def _words(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > LONGEST_LIST:
        return None
    return tuple(value) if all(isinstance(word, str) for word in value) else None


def _whole(value: Any) -> int | None:
    return -1 if value == -1 else count(value)


def _identifier(value: Any) -> str | None:
    return value if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 12 else None


def _reason(value: Any) -> Reason | None:
    if not isinstance(value, Mapping):
        return None
    return Reason(**{key.name: entry for key in fields(Reason) if (entry := text(value.get(key.name)))})


_KINDS: dict[str, Callable[[Any], Any]] = {
    "id": _identifier, "name": file_name, "run_dir": text, "order": number, "state": text, "command_line": _words,
    "device": text, "processes": count, "added": seconds, "started": seconds, "ended": seconds,
    "tries": count, "losses": count, "lost_step": _whole, "cards": _words, "node": text, "reason": _reason,
}  # fmt: skip
