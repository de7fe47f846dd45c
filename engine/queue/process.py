"""The queue's process, as others see it: whether it runs, and how it is started."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from engine.errors import UsageError, storing
from engine.queue.store import Queue
from engine.runs.identity import host
from engine.runs.launch import start_session, tail_of
from engine.runs.layout import read_record
from engine.runs.lock import is_locked
from engine.runs.values import text
from engine.text import printable

THIS_MACHINE = "this machine"
START_SECONDS = 60.0
"""Within them the process holds its lock, or has ended with a message."""


@dataclass(frozen=True)
class Runner:
    """The process that works on a queue."""

    pid: int
    host: str
    place: str
    """Where its runs train: "this machine", or the cluster's address; empty while it starts."""


def running(queue: Queue) -> Runner | None:
    """The process that works on the queue; None without one."""
    holder = is_locked(queue.private / "lock")
    if holder is None:
        return None
    record = read_record(queue.private / "runner.json")
    is_its_own = record.get("pid") == holder.pid
    return Runner(holder.pid, holder.host, (text(record.get("place")) or "") if is_its_own else "")


def runner_command(queue: Queue, *, cards: int | None = None, cluster: str | None = None) -> list[str]:
    """The command line of the queue's process."""
    options = [] if cards is None else ["--cards", str(cards)]
    options += [] if cluster is None else ["--on", cluster]
    return [sys.executable, "-P", "-m", "engine.queue", str(queue.path), *options]


def start_runner(queue: Queue, *, cards: int | None = None, cluster: str | None = None) -> Runner:
    """Start the queue's process in a session of its own, and wait until it works.

    Args:
        cards: the number of cards to use, or of runs at a time without any; None: all, or one run.
        cluster: the address of a Ray cluster.

    Raises:
        UsageError: it ended at once, or another one works on the queue.
        StorageError: its log cannot be written.
    """
    with storing(queue.path):
        queue.private.mkdir(parents=True, exist_ok=True)
    log = queue.private / "log"
    process = start_session(runner_command(queue, cards=cards, cluster=cluster), log)
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        runner = running(queue)
        if runner is not None and runner.pid == process.pid and runner.place:
            return runner
        if process.poll() == 0:  # there was nothing to do
            return Runner(process.pid, host(), cluster or THIS_MACHINE)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    lines = tail_of(log, 3)
    raise UsageError(
        "The queue's process did not start" + (f": {printable(' '.join(lines))}" if lines else "."),
        f"Its log is {printable(log)}.",
        code="queue-not-started",
    )
