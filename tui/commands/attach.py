"""`lorasmith attach RUN`: watch a run that goes on elsewhere, or see how it ended."""

from __future__ import annotations

import click

from engine.exit_codes import ExitCode
from engine.runs import resolve
from engine.runs.follow import follow, skip_history
from tui import foreground, narrators, output
from tui.commands.run import show_results


@click.command("attach")
@click.argument("run")
@click.option("--plain", is_flag=True, help="Plain lines, no bar.")
def command(run: str, plain: bool) -> int:
    """Follow RUN: its directory, or a part of its name. Ctrl-C leaves it alone."""
    run_dir = resolve(run)
    teller = narrators.narrator(run_dir, plain=plain)
    follower, history = skip_history(run_dir)
    teller.tell_history(history)
    try:
        ending = follow(run_dir, teller, follower=follower)
    except KeyboardInterrupt:
        teller.close()
        output.narrate("Left alone; the training goes on.")
        return ExitCode.DONE
    teller.close()
    code = foreground.conclude(run_dir, ending)
    show_results(run_dir, teller)
    return code
