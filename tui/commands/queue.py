"""`lorasmith queue`: many runs, one after the other, on this machine or on a Ray cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import plural, printable
from tui.commands.run_options import run_options
from tui.shell import output
from tui.texts import _

if TYPE_CHECKING:
    from engine.queue import Queue

_queue_option = click.option(
    "--queue", "directory", metavar="DIR", help=_("The queue's directory. Without it: LORASMITH_QUEUE, else your own.")
)
_FOLLOW_SECONDS = 0.5


def _queue(directory: str | None) -> Queue:
    from engine.queue import Queue, queue_directory

    return Queue(queue_directory(directory))


def _cards(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    """A number of cards from 1; None for "all"."""
    if value.lower() == "all":
        return None
    if not (value.isascii() and value.isdecimal() and 1 <= int(value) <= 10_000):
        raise click.BadParameter(f"{value} is neither a number from 1 nor all.", ctx, param)
    return int(value)


@click.group("queue")
def command() -> None:
    """Train many runs, one after the other or one on each card, here or on a Ray cluster.

    \b
    lorasmith queue add --preset sd15-realistic --images DIR --model FILE --name anna \\
        --grid training.unet_lr=1e-4,2e-4 --grid network.network_dim=16,32
    lorasmith queue start --detach
    lorasmith queue list

    ENTRY is an entry's number, or an unambiguous part of its name.
    """


@command.command("add")
@click.option(
    "--preset", "presets", metavar="NAME|FILE", multiple=True, required=True, help="A preset or file; repeatable."
)
@click.option("--images", metavar="DIR", help="The folder of images.")
@run_options
@click.option(
    "--grid",
    metavar="TABLE.KEY=VALUE,…",
    multiple=True,
    help="A run for each value; repeatable: each with every other.",
)
@click.option(
    "--on-oom",
    type=click.Choice(["retry", "stop"]),
    help="When memory runs out: continue with the next remedy (the default), or stop.",
)
@_queue_option
def add(presets: tuple[str, ...], grid: tuple[str, ...], directory: str | None, **options: Any) -> int:
    """Add a run with the options of `lorasmith --preset`, or one for each preset and each value of --grid.

    Everything is checked now. Where something is wrong with a run, none is added.
    """
    from engine.queue import running
    from tui.setup.queueing import new_entries

    queue = _queue(directory)
    new, remarks = new_entries(presets, grid, **options)
    for remark in remarks:
        output.message(remark)
    entries = queue.add(new)
    for entry in entries:
        output.result(f"{entry.id}  {printable(entry.name)}")
    output.message(f"{plural(len(entries), 'run')} added to {printable(queue.path)}.")
    if running(queue) is None:
        output.message("Start the queue with:\n  lorasmith queue start --detach")
    return ExitCode.DONE


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@_queue_option
def list_entries(as_json: bool, directory: str | None) -> int:
    """List the entries: what runs, what waits in its order, and what has ended."""
    from tui.text.queue import lines, record

    queue = _queue(directory)
    if as_json:
        output.json_result(record(queue))
        return ExitCode.DONE
    for line in lines(queue):
        output.result(line)
    return ExitCode.DONE


@command.command("start")
@click.argument("entries", metavar="[ENTRY]...", nargs=-1)
@click.option("--detach", is_flag=True, help="Return as soon as the queue's process works.")
@click.option(
    "--cards", callback=_cards, metavar="N|all", default="all", help="Cards to use, or runs at a time without any."
)
@click.option("--on", "cluster", metavar="ADDRESS", help="Train on a Ray cluster: ray://HOST:PORT, HOST:PORT or auto.")
@click.option("--unless-paused", is_flag=True, help="Do nothing where the queue is paused: for a start at boot.")
@_queue_option
def start(
    entries: tuple[str, ...],
    detach: bool,
    cards: int | None,
    cluster: str | None,
    unless_paused: bool,
    directory: str | None,
) -> int:
    """Start the queue, or continue a paused one; with ENTRY let held entries wait again.

    Its process outlives the terminal, and so does every training. Without --detach its journal is shown until it ends.
    """
    from engine.queue import running, start_runner

    queue = _queue(directory)
    if unless_paused and queue.paused:
        output.message("The queue is paused; nothing is started.")
        return ExitCode.DONE
    queue.release(queue.pick(entries))
    queue.journal.skip()
    queue.set_paused(False)
    runner = running(queue)
    if runner is None:
        runner = start_runner(queue, cards=cards, cluster=cluster)
    elif cluster is not None and runner.place != cluster:
        raise UsageError(
            f"The queue already runs on {runner.place or 'this machine'}.",
            "Pause it, and start it there when nothing runs any more.",
            code="queue-is-running",
        )
    if detach:
        output.message(f"The queue works as process {runner.pid} on {runner.place or 'this machine'}.")
        return ExitCode.DONE
    return _follow(queue, runner.pid)


def _follow(queue: Queue, pid: int) -> int:
    """Show the journal until the queue's process ends; Ctrl-C ends only the showing."""
    try:
        output.message(f"The queue works as process {pid}; it continues if this terminal closes.")
        from engine.queue import running
        from tui.text.queue import journal_line

        while True:
            is_running = running(queue) is not None
            for line in queue.journal.poll():
                output.result(journal_line(line))
            if not is_running:
                break
            time.sleep(_FOLLOW_SECONDS)
    except KeyboardInterrupt:
        output.message("\nThe queue continues. To let it start nothing new: lorasmith queue pause")
        return ExitCode.INTERRUPTED
    failed = any(entry.state == "failed" for entry in queue.entries())
    return ExitCode.TRAINING_FAILED if failed else ExitCode.DONE


@command.command("pause")
@click.argument("entries", metavar="[ENTRY]...", nargs=-1)
@_queue_option
def pause(entries: tuple[str, ...], directory: str | None) -> int:
    """Start nothing new; with ENTRY, hold only these.

    What runs continues: `lorasmith stop RUN` ends it with everything saved.
    """
    queue = _queue(directory)
    if entries:
        held = queue.pick(entries)
        queue.hold(held)
        output.message(f"Held: {', '.join(printable(entry.name) for entry in held)}. lorasmith queue start ENTRY …")
        return ExitCode.DONE
    queue.set_paused(True)
    running = [entry for entry in queue.entries() if entry.state == "running"]
    output.message("The queue starts nothing new.")
    if running:
        output.message(f"{plural(len(running), 'run')} will continue to the end; `lorasmith stop RUN` ends a run.")
    return ExitCode.DONE


@command.command("move")
@click.argument("entry")
@click.argument("place", metavar="first|last|up|down|N")
@_queue_option
def move(entry: str, place: str, directory: str | None) -> int:
    """Move ENTRY among those that wait."""
    queue = _queue(directory)
    (chosen,) = queue.pick([entry])
    number = queue.move(chosen, place)
    output.message(f"{printable(chosen.name)} is number {number} of those that wait.")
    return ExitCode.DONE


@command.command("remove")
@click.argument("entries", metavar="ENTRY...", nargs=-1, required=True)
@_queue_option
def remove(entries: tuple[str, ...], directory: str | None) -> int:
    """Remove entries from the list; the files of their runs stay."""
    queue = _queue(directory)
    chosen = queue.pick(entries)
    queue.remove(chosen)
    output.message(f"Removed: {', '.join(printable(entry.name) for entry in chosen)}.")
    return ExitCode.DONE


@command.command("retry")
@click.argument("entries", metavar="[ENTRY]...", nargs=-1)
@click.option("--failed", is_flag=True, help="All failed entries.")
@_queue_option
def retry(entries: tuple[str, ...], failed: bool, directory: str | None) -> int:
    """Let failed or stopped entries wait again: they continue from their last saved state where there is one."""
    queue = _queue(directory)
    if failed == bool(entries):
        raise UsageError(
            "Either entries or --failed.", "Write lorasmith queue retry ENTRY, or --failed.", code="queue-entry-not-set"
        )
    chosen = [entry for entry in queue.entries() if entry.state == "failed"] if failed else queue.pick(entries)
    queue.retry(chosen)
    output.message(f"{plural(len(chosen), 'entry')} will be tried again.")
    return ExitCode.DONE
