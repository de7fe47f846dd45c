"""`lorasmith demo`: the main job on the shipped base and pictures, with pictures before and after."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from engine.exit_codes import ExitCode
from engine.runs.contact import Samples, collect
from engine.text import duration, printable
from tui import configuration, foreground, halfblocks, narrators, output
from tui.commands.run import prepare, show_results
from tui.narrators import Narrator

COLUMNS = 32
DIRECTORY = "demo/results_current"


@click.command("demo", short_help="Train a character on the model that comes along, in minutes.")
@click.option("--output_dir", metavar="DIR", help="Where the files go. Without it: ./demo/results_current.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
def command(output_dir: str | None, overrides: tuple[str, ...]) -> int:
    """Train a character on a tiny model that comes along, and show what it drew before and draws after."""
    config = configuration.read(configuration.DEMO, overrides, output_dir=output_dir or DIRECTORY)
    run_dir = prepare(config, restart=True)
    teller = narrators.narrator(run_dir)
    begun = time.monotonic()
    code = foreground.train(run_dir, teller)
    if code == ExitCode.DONE:
        show_pictures(collect(teller.samples, run_dir))
        for line in summary(teller, time.monotonic() - begun):
            output.narrate(line)
    show_results(run_dir, teller)
    return code


def summary(teller: Narrator, seconds: float) -> list[str]:
    """Held-out loss and time, in words."""
    lines = []
    losses = [(event.get("step"), event.get("loss")) for event in teller.validations]
    if len(losses) > 1 and all(isinstance(loss, (int, float)) for _, loss in losses):
        (first, before), (last, after) = losses[0], losses[-1]
        change = (after / before - 1) * 100
        lines.append(f"Held-out loss: {before:.4f} at step {first} -> {after:.4f} at step {last} ({change:+.0f} %)")
    return [*lines, f"Time: {duration(seconds)}"]


def show_pictures(samples: Samples) -> None:
    """Before and after beside each other, as half blocks, where stdout is a terminal that can."""
    colours = halfblocks.depth()
    if not sys.stdout.isatty() or colours is None or len(samples.steps) < 2:
        return
    first, last = samples.steps[0], samples.steps[-1]
    columns = min(COLUMNS, (output.width(sys.stdout) - 2) // 2)
    for index, prompt in sorted(samples.prompts.items()):
        before, after = (samples.pictures.get((index, step)) for step in (first, last))
        if before is None or after is None or columns < 4:
            continue
        lines = halfblocks.side_by_side(_lines(before, columns, colours), _lines(after, columns, colours))
        output.result(f"\n{printable(prompt)}\n{'before':{columns}}  after")
        output.result("\n".join(lines))


def _lines(path: Path, columns: int, colours: halfblocks.Depth) -> list[str]:
    from engine.dataset.decoding import opened

    with opened(path) as (_, picture):
        return halfblocks.render(picture, columns, colours)
