"""The queue's process: `python -m engine.queue DIR [--cards N] [--on ADDRESS]`. Starts runs until nothing waits."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engine.errors import LoraSmithError, UsageError
from engine.exit_codes import ExitCode
from engine.queue.runner import Machines, QueueRunner
from engine.queue.store import Queue
from engine.runs.layout import write_record
from engine.runs.lock import RunLock
from engine.text import printable


def main(arguments: list[str]) -> int:
    """Work on a queue; what happens is in its journal, errors of the start on the standard error output."""
    parser = argparse.ArgumentParser(prog="python -m engine.queue", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--cards", type=int, help="the number of cards to use, or of runs at a time without any")
    parser.add_argument("--on", metavar="ADDRESS", help="a Ray cluster: ray://HOST:PORT, HOST:PORT or auto")
    options = parser.parse_args(arguments)
    queue = Queue(options.directory.absolute())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return _work(queue, options.cards, options.on)
    except LoraSmithError as error:
        print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr, flush=True)
        return error.exit_code


def _end(number: int, _: FrameType | None) -> NoReturn:
    """End at once: everything is on disk, and trainers of this machine continue."""
    os._exit(128 + number)


def _work(queue: Queue, cards: int | None, cluster: str | None) -> int:
    with queue.changing():
        lock = _lock(queue)
    machines = _machines(queue, cards, cluster)
    with lock:
        where = f"on {machines.place} as process {os.getpid()}"
        write_record(queue.private / "runner.json", {"place": machines.place, "pid": os.getpid()})
        queue.journal.write("queue-started", f"started {where}")
        QueueRunner(queue, machines).run(lock.release)
        machines.close()
    return ExitCode.DONE


def _lock(queue: Queue) -> RunLock:
    try:
        return RunLock(queue.private / "lock")
    except UsageError as error:
        if error.code != "run-is-live":
            raise
        raise UsageError(
            f"Another process already works on the queue {printable(queue.path)}.",
            "`lorasmith queue list` shows it.",
            code="queue-is-running",
        ) from None


def _machines(queue: Queue, cards: int | None, cluster: str | None) -> Machines:
    if cluster is None:
        from engine.queue.cards import Cards
        from engine.queue.local import LocalMachine

        return LocalMachine(Cards.here(cards))
    from engine.queue.ray_tasks import RayCluster

    return RayCluster(cluster, cards)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
