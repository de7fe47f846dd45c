"""The directory of a queue: its entries, their order, its switch, and what a person may change of them."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import write_text
from engine.errors import UsageError, storing
from engine.paths import expanded, user_state
from engine.queue.entry import ENDED, FAILED, HELD, RUNNING, STATES, STOPPED, WAITING, Entry, Reason, entry_of
from engine.queue.journal import Journal
from engine.reading import open_for_writing, read_json, read_text
from engine.runs.layout import MAX_RECORD, write_record
from engine.text import plural, printable, shell_line

if TYPE_CHECKING:
    from engine.config import RunConfig

VARIABLE = "LORASMITH_QUEUE"
"""Environment variable: the directory of the queue."""
PLACES = ("first", "last", "up", "down")
_mutex = threading.RLock()


def queue_directory(typed: str | None = None) -> Path:
    """The queue that is typed, else that of the environment, else the user's own."""
    written = typed or os.environ.get(VARIABLE, "")
    return expanded(written).absolute() if written else user_state() / "queue"


@dataclass(frozen=True)
class NewEntry:
    """A run to be added: everything about it was checked."""

    config: RunConfig
    """With absolute paths and an output directory."""
    command_line: tuple[str, ...] = ()


class Queue:
    """A queue's directory. Several processes may change it; each change is made under its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path / "journal.jsonl")
        self._cache: dict[str, tuple[tuple[int, int, int], Entry | None]] = {}
        """Of each file: inode, time and size, and what it held then. Each write makes a new file."""

    @property
    def private(self) -> Path:
        """The folder of the process that starts the runs: its lock and its log."""
        return self.path / ".runner"

    @property
    def paused_path(self) -> Path:
        """Exists while nothing new is to be started."""
        return self.path / "paused"

    @property
    def paused(self) -> bool:
        """Whether nothing new is started."""
        return os.path.lexists(self.paused_path)

    def config_path(self, entry: Entry) -> Path:
        """The full configuration of an entry."""
        return self.path / f"{entry.id}.toml"

    def entries(self) -> list[Entry]:
        """All entries: running, then those that wait in their order, then those that have ended, the newest first."""
        return sorted(self._read(), key=_rank)

    def _read(self) -> Iterator[Entry]:
        try:
            paths = sorted(path for path in self.path.iterdir() if path.suffix == ".json")
        except FileNotFoundError:
            return
        for path in paths:
            with suppress(FileNotFoundError):  # removed meanwhile
                stat = path.lstat()
                seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                cached = self._cache.get(path.name)
                entry = cached[1] if cached is not None and cached[0] == seen else self._entry_in(path)
                self._cache[path.name] = seen, entry
                if entry is not None:
                    yield entry

    def _entry_in(self, path: Path) -> Entry | None:
        try:
            record = read_json(path, MAX_RECORD, below=self.path)
        except (OSError, ValueError):
            return None
        entry = entry_of(record) if isinstance(record, dict) else None
        return entry if entry is not None and entry.id == path.stem else None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the queue's lock: between reading an entry and writing it, nobody else writes.

        Raises:
            StorageError: the directory cannot be made or written.
        """
        with _mutex:
            with storing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                self.private.mkdir(exist_ok=True)
                file = open_for_writing(self.private / "mutex", os.O_RDWR | os.O_CREAT, below=self.path)
            try:
                with suppress(OSError):  # a network file system without locks
                    fcntl.lockf(file, fcntl.LOCK_EX)
                yield
            finally:
                os.close(file)

    def write(self, entry: Entry) -> None:
        """Write an entry's file; call it while `changing`."""
        write_record(self.path / f"{entry.id}.json", entry.as_json())

    def change(self, entry: Entry, function: Callable[[Entry], Entry]) -> Entry | None:
        """Change the present state of an entry; None where it was removed meanwhile."""
        with self.changing():
            present = next((other for other in self._read() if other.id == entry.id), None)
            if present is None:
                return None
            new = function(present)
            if new != present:
                self.write(new)
            return new

    def note(self, what: str, entry: Entry, sentence: str, node: str = "") -> None:
        """Write a line about an entry into the journal."""
        self.journal.write(what, sentence, entry=entry.id, name=entry.name, node=node)

    # What a person does

    def add(self, new: Sequence[NewEntry]) -> list[Entry]:
        """Add runs at the end.

        Raises:
            UsageError: another entry that has not ended goes to the same place; nothing was added.
            StorageError: they cannot be written.
        """
        from engine.config.write import dump_toml

        with self.changing():
            present = list(self._read())
            taken = {entry.run_dir: entry for entry in present if not entry.has_ended}
            clashes = [taken[item.config.saving.output_dir] for item in new if item.config.saving.output_dir in taken]
            if clashes:
                raise UsageError(
                    "\n".join(f"{entry.run_dir} is the place of {title(entry)} in the queue." for entry in clashes),
                    "Choose another --name or --output_dir, or remove that entry.",
                    code="queue-place-taken",
                )
            number = max([self._last_number(), *(int(entry.id) for entry in present)])
            order = max((entry.order for entry in present), default=0.0)
            added = [_entry(item, number + place, float(int(order) + place)) for place, item in enumerate(new, 1)]
            write_text(self.private / "last", f"{number + len(added)}\n")
            for entry, item in zip(added, new, strict=True):
                heading = f"Entry {entry.id} of the queue, as it was checked when it was added."
                write_text(self.config_path(entry), dump_toml(item.config, heading))
                self.write(entry)
                self.note("added", entry, f"added as {entry.id}")
        return added

    def _last_number(self) -> int:
        try:
            return int(read_text(self.private / "last", 20, below=self.path))
        except (OSError, ValueError):
            return 0

    def pick(self, words: Sequence[str]) -> list[Entry]:
        """The entries that are meant: each by its number, its name, or an unambiguous part of its name.

        Raises:
            UsageError: none or several match.
        """
        entries = self.entries()
        return [_pick(entries, word) for word in words]

    def hold(self, entries: Sequence[Entry]) -> None:
        """Do not start these.

        Raises:
            UsageError: one of them does not wait.
        """
        for entry in entries:
            if entry.state == RUNNING:
                raise UsageError(
                    f"{title(entry)} is running; only what waits can be held.",
                    f"To end it with everything saved: {_stop_line(entry)}\n"
                    f"Later {_line('retry', entry)} continues it.",
                    code="queue-entry-running",
                )
            self._require(entry, (WAITING, HELD), "can be held")
        for entry in entries:
            self._step(entry, (WAITING,), HELD, "held", "held")

    def release(self, entries: Sequence[Entry]) -> None:
        """Let held entries wait again.

        Raises:
            UsageError: one of them has ended.
        """
        for entry in entries:
            self._require(entry, (WAITING, HELD, RUNNING), "can be released")
        for entry in entries:
            self._step(entry, (HELD,), WAITING, "released", "waits again")

    def retry(self, entries: Sequence[Entry]) -> None:
        """Let failed and stopped entries wait again; they continue from their last state where there is one.

        Raises:
            UsageError: one of them has not failed and was not stopped.
        """
        for entry in entries:
            self._require(entry, (FAILED, STOPPED), "can be tried again")
        for entry in entries:
            self._step(
                entry, (FAILED, STOPPED), WAITING, "requeued", "waits for another try",
                losses=0, lost_step=-1, reason=Reason(), ended=None,
            )  # fmt: skip

    def remove(self, entries: Sequence[Entry]) -> None:
        """Take entries out of the queue; the directories of their runs stay.

        Raises:
            UsageError: one of them is running; nothing was removed.
        """
        with self.changing():
            present = {entry.id: entry for entry in self._read()}
            running = [entry for entry in entries if present.get(entry.id, entry).state == RUNNING]
            if running:
                raise UsageError(
                    f"{title(running[0])} is running.",
                    f"End it first, with everything saved: {_stop_line(running[0])}",
                    code="queue-entry-running",
                )
            for entry in entries:
                with storing(self.path, "Removing from"):
                    (self.path / f"{entry.id}.json").unlink(missing_ok=True)
                    self.config_path(entry).unlink(missing_ok=True)
                self.note("removed", entry, f"removed while it was {entry.state}")

    def move(self, entry: Entry, place: str) -> int:
        """Move an entry among those that wait; returns its new place, from 1.

        Args:
            place: "first", "last", "up", "down", or a number from 1.

        Raises:
            UsageError: it does not wait, or there is no such place.
        """
        with self.changing():
            entries = [other for other in self.entries() if other.state in (WAITING, HELD)]
            self._require(entry, (WAITING, HELD), "can be moved")
            index = next((number for number, other in enumerate(entries) if other.id == entry.id), None)
            if index is None:
                raise UsageError(f"{title(entry)} does not wait any more.", code="queue-entry-not-waiting")
            target = _target(place, index, len(entries))
            moved = entries.pop(index)
            before = entries[target - 1].order if target else None
            after = entries[target].order if target < len(entries) else None
            order = _between(before, after)
            if order is None:  # no number is left between the two
                entries.insert(target, moved)
                for number, other in enumerate(entries, 1):
                    self.write(replace(other, order=float(number)))
            elif target != index:
                self.write(replace(moved, order=order))
            self.note("moved", entry, f"moved to place {target + 1}")
        return target + 1

    def set_paused(self, paused: bool) -> None:
        """Start nothing new, or start again.

        Raises:
            StorageError: it cannot be written.
        """
        with self.changing():
            if paused == self.paused:
                return
            if paused:
                write_text(self.paused_path, "Nothing new is started: `lorasmith queue start` removes this file.\n")
                self.journal.write("queue-paused", "paused: nothing new is started")
            else:
                with storing(self.paused_path, "Removing"):
                    self.paused_path.unlink(missing_ok=True)

    def _require(self, entry: Entry, states: Sequence[str], what: str) -> None:
        if entry.state not in states:
            words = " or ".join(dict.fromkeys(states))
            raise UsageError(
                f"{title(entry)} is {entry.state}; only what is {words} {what}.",
                _NEXT.get(entry.state, ""),
                code="queue-entry-not-waiting" if WAITING in states else "queue-entry-not-ended",
            )

    def _step(self, entry: Entry, before: Sequence[str], state: str, what: str, sentence: str, **values: Any) -> None:
        def changed(present: Entry) -> Entry:
            return replace(present, state=state, **values) if present.state in before else present

        if entry.state in before and self.change(entry, changed) is not None:
            self.note(what, entry, sentence)


_NEXT = {
    FAILED: "`lorasmith queue retry` lets it wait again.",
    STOPPED: "`lorasmith queue retry` lets it wait again.",
    RUNNING: "`lorasmith stop` ends it with everything saved.",
}


def title(entry: Entry) -> str:
    """An entry as messages name it: "0007 anna"."""
    return f"{entry.id} {printable(entry.name)}"


def summary(entries: Sequence[Entry]) -> str:
    """ "2 waiting, 1 running"; empty without entries."""
    counts = {state: sum(entry.state == state for entry in entries) for state in STATES}
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number)


def _rank(entry: Entry) -> tuple[int, float, str]:
    if entry.state in ENDED:
        return (2, -(entry.ended or 0.0), entry.id)
    return (0 if entry.state == RUNNING else 1, entry.order, entry.id)


def _pick(entries: Sequence[Entry], word: str) -> Entry:
    number = f"{int(word):04d}" if word.isascii() and word.isdecimal() else word
    for group in (
        [entry for entry in entries if entry.id == number],
        [entry for entry in entries if entry.name == word],
        [entry for entry in entries if word and word in entry.name],
    ):
        if len(group) == 1:
            return group[0]
        if group:
            raise UsageError(
                f"{plural(len(group), 'entry')} of the queue match {printable(word)}.",
                f"Name one by its number: {', '.join(title(entry) for entry in group[:8])}",
                code="queue-entry-ambiguous",
            )
    known = ", ".join(title(entry) for entry in entries[:8])
    raise UsageError(
        f"The queue has no entry {printable(word)}.",
        f"It has {known}." if known else "It is empty.",
        code="queue-entry-missing",
    )


def _target(place: str, index: int, length: int) -> int:
    moves = {"first": 0, "last": length - 1, "up": max(0, index - 1), "down": min(length - 1, index + 1)}
    if place in moves:
        return moves[place]
    if place.isascii() and place.isdecimal() and 1 <= int(place) <= length:
        return int(place) - 1
    raise UsageError(
        f"There is no place {printable(place)}.",
        f"Choose {', '.join(PLACES)}, or a number from 1 to {length}.",
        code="queue-place-missing",
    )


def _between(before: float | None, after: float | None) -> float | None:
    """A number between two; None where there is none."""
    if before is None or after is None:
        return 0.0 if before is None and after is None else (after - 1 if before is None else before + 1)  # type: ignore[operator]
    middle = (before + after) / 2
    return middle if before < middle < after else None


def _entry(item: NewEntry, number: int, order: float) -> Entry:
    config = item.config
    processes = config.training.num_processes
    return Entry(
        f"{number:04d}",
        config.saving.output_name,
        config.saving.output_dir,
        order,
        command_line=item.command_line,
        device=config.memory.device,
        processes=processes if isinstance(processes, int) else 1,  # "auto": in a queue each run takes one card
        added=round(time.time(), 3),
    )


def _stop_line(entry: Entry) -> str:
    return shell_line(("lorasmith", "stop", entry.run_dir))


def _line(command: str, entry: Entry) -> str:
    return shell_line(("lorasmith", "queue", command, entry.id))
