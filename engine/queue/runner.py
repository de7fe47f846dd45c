"""The loop of the queue's process: it starts what waits where there is room, and records how it ended.

It is the only writer of what happens to a running entry. Everything that it needs is in the queue's directory and in
the run directories, so that it can be killed at any moment: the next process takes over what runs, and resumes what is
lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from engine.errors import LoraSmithError, StorageError
from engine.queue.cards import Place
from engine.queue.entry import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Entry, Reason
from engine.queue.store import Queue, summary
from engine.runs.begin import prepare_to_resume
from engine.runs.events import ControlAckEvent, RunStartedEvent, read_events
from engine.runs.launch import log_tail
from engine.runs.layout import RunDir
from engine.runs.prepare import prepare_run
from engine.runs.resume import last_saved_step
from engine.runs.state import RunState, read_exit, true_state
from engine.runs.values import seconds
from engine.text import plural, printable

MOST_LOSSES = 3
"""How often a run that makes no new step is resumed."""
LOOK_SECONDS = 1.0
_CLOCK_SECONDS = 0.01
"""meta.json has its time in milliseconds."""


class Machines(Protocol):
    """Where the runs of a queue train: this machine, or a cluster."""

    place: str
    outlives_runner: bool

    def refusal(self, entry: Entry) -> str:
        """Why there will never be room for an entry; empty where there can be."""

    def kind(self, entry: Entry) -> str:
        """Entries of a kind wait for each other."""

    def room(self, entry: Entry, running: Sequence[Entry]) -> Place | None:
        """Where an entry can train now; None where everything is occupied."""

    def start(self, entry: Entry, run_dir: RunDir, place: Place) -> str:
        """Start the trainer of a prepared run; returns the name of the machine, empty where it is not known yet."""

    def state(self, entry: Entry, run_dir: RunDir) -> RunState | None:
        """The state of a run; None while it cannot be determined, or while it waits for a machine."""

    def node(self, entry: Entry, run_dir: RunDir) -> str:
        """The machine on which it is; empty where it is not known."""

    def close(self) -> None:
        """The queue's process ends."""


class QueueRunner:
    """Works on a queue until nothing is left to do."""

    def __init__(self, queue: Queue, machines: Machines) -> None:
        self.queue, self.machines = queue, machines
        self._adopting = True
        self._reported = ""

    def run(self, release: Callable[[], None] = lambda: None) -> None:
        """Start, watch and record runs; returns when nothing runs, and nothing waits or the queue is paused.

        Args:
            release: frees the lock of the queue's process. It is called while nobody can add an entry, who would then
                believe that it is started.
        """
        while True:
            self.look()
            with suppress(StorageError), self.queue.changing():
                if self._is_idle():
                    self.queue.journal.write("queue-ended", f"ended: {summary(self.queue.entries()) or 'empty'}")
                    release()
                    return
            time.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look at everything."""
        try:
            for entry in self.queue.entries():
                if entry.state == RUNNING:
                    self._follow(entry)
            self._adopting = False
            if not self.queue.paused:
                self._fill()
            self._reported = ""
        except StorageError as error:  # a full disk: the trainings continue, and it is tried again
            if str(error) != self._reported:
                self._reported = str(error)
                print(error, flush=True)

    def _is_idle(self) -> bool:
        states = [entry.state for entry in self.queue.entries()]
        return RUNNING not in states and (WAITING not in states or self.queue.paused)

    # Starting

    def _fill(self) -> None:
        """Start what there is room for, in order; whatever does not fit stops those of its kind behind it."""
        blocked: set[str] = set()
        for entry in self.queue.entries():
            if entry.state != WAITING or (kind := self.machines.kind(entry)) in blocked:
                continue
            if refusal := self.machines.refusal(entry):
                self._end(entry, FAILED, Reason("queue-no-room", "Queue", refusal, "Add it again with other settings."))
                continue
            running = [other for other in self.queue.entries() if other.state == RUNNING]
            place = self.machines.room(entry, running)
            if place is None:
                blocked.add(kind)
            else:
                self._start(entry, place)

    def _start(self, entry: Entry, place: Place) -> None:
        """Prepare and launch a waiting entry. Its record comes first, so that a restart knows of the run."""

        def begun(present: Entry) -> Entry:
            if present.state != WAITING:  # held or moved away meanwhile
                return present
            return replace(present, state=RUNNING, cards=place.cards, started=present.started or round(time.time(), 3))

        now = self.queue.change(entry, begun)
        if now is not None and now.state == RUNNING:
            self._launch(now, place)

    def _launch(self, entry: Entry, place: Place) -> None:
        run_dir = RunDir(Path(entry.run_dir))
        try:
            is_own = _is_own(entry, run_dir)
            resumed = is_own and _can_continue(run_dir)
            if resumed:
                prepare_to_resume(run_dir)
            else:
                self._prepare(entry, restart=is_own)
            node = self.machines.start(entry, run_dir, place)
        except LoraSmithError as error:
            return self._end(entry, FAILED, Reason(**error.details))
        text = f"resumed from step {last_saved_step(run_dir)}" if resumed else "started"
        where = ", ".join(filter(None, [_cards_text(place), node]))
        self._change(entry, tries=entry.tries + 1, node=node)
        self.queue.note("resumed" if resumed else "started", entry, f"{text}{f' on {where}' if where else ''}", node)

    def _prepare(self, entry: Entry, *, restart: bool) -> None:
        from engine.config import load_config
        from engine.hardware import versions

        config = load_config(self.queue.config_path(entry))
        started = round(time.time(), 3)
        prepare_run(config, command_line=entry.command_line, versions=versions(), restart=restart)
        self._change(entry, started=started)

    # Watching

    def _follow(self, entry: Entry) -> None:
        run_dir = RunDir(Path(entry.run_dir))
        if not _is_own(entry, run_dir):
            if self._adopting:  # an earlier process was killed before it had prepared the run
                self._change(entry, state=WAITING, cards=())
            else:
                self._end(entry, FAILED, Reason("run-missing", "Run", f"{entry.run_dir} was removed or replaced."))
            return
        state = self.machines.state(entry, run_dir)
        if state is None:
            return
        if state.live:
            self._note_place(entry, run_dir, state)
        elif state.state == "finished":
            self._end(entry, FINISHED, Reason(), state)
        elif state.state == "damaged":
            self._end(entry, FAILED, Reason("run-damaged", "Run", state.detail), state)
        elif state.state == "failed":
            self._end(entry, FAILED, _reason(run_dir), state)
        elif state.state == "stopped":
            self._stopped(entry, run_dir, state)
        else:
            self._lost(entry, run_dir, state, f"{state.detail.rstrip('.')}.")

    def _note_place(self, entry: Entry, run_dir: RunDir, state: RunState) -> None:
        if self._adopting:
            self.queue.note("adopted", entry, f"is running at step {state.step}", entry.node)
        node = self.machines.node(entry, run_dir)
        if node and node != entry.node:
            moved = f"moved from {entry.node} to {node}" if entry.node else f"is on {node}"
            self._change(entry, node=node)
            self.queue.note("placed", entry, f"{moved}, at step {state.step}", node)

    def _stopped(self, entry: Entry, run_dir: RunDir, state: RunState) -> None:
        """A person's stop is final; one by a signal comes from a machine that shuts down."""
        reason = _reason(run_dir)
        if reason:  # its images changed, for example
            self._end(entry, FAILED, reason, state)
        elif _stop_was_requested(run_dir) or state.exit_code is None:
            self._end(entry, STOPPED, Reason(), state)
        else:
            self._lost(entry, run_dir, state, "It was ended by a signal, with everything saved.")

    def _lost(self, entry: Entry, run_dir: RunDir, state: RunState, why: str) -> None:
        """Resume a lost run from its last state, a few times where it makes no progress."""
        losses = 1 if state.step > entry.lost_step else entry.losses + 1
        self.queue.note("lost", entry, f"lost at step {state.step}: {why}", entry.node)
        if losses > MOST_LOSSES:
            message = f"Lost {plural(losses, 'time')} without a new step."
            last = "".join(f" {printable(line)}" for line in log_tail(run_dir, 1))
            hint = f"The end of its log, {printable(run_dir.log_path)}, may show why.{last}"
            return self._end(entry, FAILED, Reason("run-lost", "Run", message, hint), state)
        reached = max(state.step, entry.lost_step)
        self._change(entry, losses=losses, lost_step=reached, state=WAITING, cards=())

    def _end(self, entry: Entry, state: str, reason: Reason, run: RunState | None = None) -> None:
        self._change(entry, state=state, reason=reason, cards=(), ended=round(time.time(), 3))
        at = f" at step {run.step}" if run is not None else ""
        why = f": {reason.message}" if reason else ""
        self.queue.note(state, entry, f"{state}{at}{why}", entry.node)

    def _change(self, entry: Entry, **values: object) -> Entry | None:
        return self.queue.change(entry, lambda present: replace(present, **values))  # type: ignore[arg-type]


def _is_own(entry: Entry, run_dir: RunDir) -> bool:
    """Whether the run in the entry's place was prepared for it, and is not another one of that name."""
    created = seconds(run_dir.meta.get("created"))
    return created is not None and entry.started is not None and created >= entry.started - _CLOCK_SECONDS


def _can_continue(run_dir: RunDir) -> bool:
    """A lost run continues in any case; a failed one without a later state starts over, with its images as they are
    now."""
    state = true_state(run_dir).state
    return state != "damaged" and (state != "failed" or last_saved_step(run_dir) > 0)


def _reason(run_dir: RunDir) -> Reason:
    ending = read_exit(run_dir) or {}
    return Reason(**{key: str(ending.get(key, "")) for key in ("code", "title", "message", "hint")})


def _stop_was_requested(run_dir: RunDir) -> bool:
    """Whether the last process of a run was asked to stop by a command."""
    requested = False
    for event in read_events(run_dir.events_path):
        if isinstance(event, RunStartedEvent):
            requested = False
        elif isinstance(event, ControlAckEvent) and event.command == "stop":
            requested = True
    return requested


def _cards_text(place: Place) -> str:
    return plural(len(place.cards), "card") + " " + ", ".join(place.cards) if place.cards else ""
