"""Runs on this machine: a trainer for each card, in a session of its own, which outlives the queue's process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from engine.queue.cards import Cards, Place
from engine.queue.entry import Entry
from engine.runs.begin import start
from engine.runs.follow import SILENT_SECONDS
from engine.runs.identity import host
from engine.runs.layout import RunDir
from engine.runs.state import RunState, true_state


class LocalMachine:
    """Starts trainers here.

    Args:
        cards: what this machine has room for.
    """

    place = "this machine"
    outlives_runner = True
    """A trainer continues when the queue's process ends."""

    def __init__(self, cards: Cards) -> None:
        self._cards = cards
        self._children: list[subprocess.Popen[bytes]] = []

    def refusal(self, entry: Entry) -> str:
        """Why there will never be room for it; empty where there can be."""
        return self._cards.refusal(entry)

    def kind(self, entry: Entry) -> str:
        """Entries of a kind wait for each other: none overtakes an earlier one of its kind."""
        return "gpu" if self._cards.uses_gpu(entry) else "cpu"

    def room(self, entry: Entry, running: Sequence[Entry]) -> Place | None:
        """Where the entry can train now; None where everything is occupied."""
        return self._cards.room(entry, running)

    def start(self, entry: Entry, run_dir: RunDir, place: Place) -> str:
        """Launch the trainer of a prepared run; returns the machine's name."""
        self._children.append(start(run_dir, variables=dict(place.variables)))
        return host()

    def state(self, entry: Entry, run_dir: RunDir) -> RunState | None:
        """The state of a run; None while it cannot be determined."""
        self._children = [child for child in self._children if child.poll() is None]  # leaves no zombie processes
        return state_here(run_dir)

    def node(self, entry: Entry, run_dir: RunDir) -> str:
        """The machine on which it is."""
        return entry.node

    def close(self) -> None:
        """Leave the trainers alone."""


def state_here(run_dir: RunDir) -> RunState | None:
    """The true state; None while a run on another machine, whose lock cannot be seen here, still shows life."""
    state = true_state(run_dir)
    if state.state == "unknown" and state.updated is not None and time.time() - state.updated < SILENT_SECONDS:
        return None
    return state
