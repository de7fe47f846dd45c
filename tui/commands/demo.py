"""`lorasmith demo`: the main job on the shipped base and images, with images before and after."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from engine.exit_codes import ExitCode
from engine.runs.contact import Samples, collect
from engine.text import duration, printable
from tui.commands.run import prepare, print_what_now, show_results
from tui.display import halfblocks
from tui.setup import configuration
from tui.setup.demo import DEMO
from tui.shell import event_printer as printers
from tui.shell import foreground, output
from tui.shell.event_printer import EventPrinter

COLUMNS = 32
DIRECTORY = "demo/results_current"


@click.command("demo", short_help="Train a character on the shipped model, in minutes.")
@click.option("--output_dir", metavar="DIR", help="Where the files go. Without it: ./demo/results_current.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
def command(output_dir: str | None, overrides: tuple[str, ...]) -> int:
    """Train a character on the tiny shipped model, and show its samples before and after."""
    config = configuration.read(DEMO, overrides, output_dir=output_dir or DIRECTORY)
    run_dir = prepare(config, restart=True)
    printer = printers.printer(run_dir)
    started = time.monotonic()
    code = foreground.train(run_dir, printer)
    if code == ExitCode.DONE:
        show_images(collect(printer.samples, run_dir))
        for line in summary(printer, time.monotonic() - started):
            output.message(line)
    show_results(run_dir, printer)
    print_what_now(run_dir, code)
    return code


def summary(printer: EventPrinter, seconds: float) -> list[str]:
    """Validation loss and time, in words."""
    lines = []
    losses = [(event.step, event.loss) for event in printer.validations if event.loss is not None]
    if 1 < len(losses) == len(printer.validations):
        (first, before), (last, after) = losses[0], losses[-1]
        change = (after / before - 1) * 100
        lines.append(f"Validation loss: {before:.4f} at step {first} -> {after:.4f} at step {last} ({change:+.0f} %)")
    return [*lines, f"Time: {duration(seconds)}"]


def show_images(samples: Samples) -> None:
    """Print the first and last samples side by side, as half blocks, where stdout is a terminal that can show them."""
    colours = halfblocks.depth()
    if not sys.stdout.isatty() or colours is None or len(samples.steps) < 2:
        return
    first, last = samples.steps[0], samples.steps[-1]
    columns = min(COLUMNS, (output.width(sys.stdout) - 2) // 2)
    for index, prompt in sorted(samples.prompts.items()):
        before, after = (samples.images.get((index, step)) for step in (first, last))
        if before is None or after is None or columns < 4:
            continue
        lines = halfblocks.side_by_side(_lines(before, columns, colours), _lines(after, columns, colours))
        output.result(f"\n{printable(prompt)}\n{'before':{columns}}  after")
        output.result("\n".join(lines))


def _lines(path: Path, columns: int, colours: halfblocks.Depth) -> list[str]:
    from engine.dataset.decoding import opened

    with opened(path) as (_, image):
        return halfblocks.render(image, columns, colours)
