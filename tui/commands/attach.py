"""`lorasmith attach [RUN]`: watch a run that is training, or see how it ended."""

from __future__ import annotations

import click

from engine.exit_codes import ExitCode
from engine.runs import RunDir, resolve, resolve_live
from engine.runs.follow import follow, skip_history
from tui import start
from tui.commands.run import show_results
from tui.setup.user_config import IMAGE_MODES
from tui.shell import event_printer as printers
from tui.shell import foreground, output


@click.command("attach")
@click.argument("run", required=False)
@click.option("--plain", is_flag=True, help="Plain lines instead of the screen.")
@click.option("--no-mouse/--mouse", default=None, help="Leave the mouse to the terminal.")
@click.option("--low-bandwidth/--full-bandwidth", default=None, help="For slow lines: few updates, no images.")
@click.option("--ascii/--unicode", "ascii_only", default=None, help="Draw charts and bars in ASCII.")
@click.option("--images", type=click.Choice(IMAGE_MODES), help="How images are drawn.")
def command(
    run: str | None,
    plain: bool,
    no_mouse: bool | None,
    low_bandwidth: bool | None,
    ascii_only: bool | None,
    images: str | None,
) -> int:
    """Show RUN: its directory, or a part of its name; without it the run that is training. Leaving or Ctrl-C does not
    stop it.

    Where no screen can be shown, and with --plain, its events are printed as lines.
    """
    run_dir = resolve(run) if run is not None else resolve_live()
    if plain or start.refusal() is not None:
        return _follow(run_dir, plain)
    mouse = None if no_mouse is None else not no_mouse
    return start.show(run_dir, images=images, mouse=mouse, low_bandwidth=low_bandwidth, ascii_only=ascii_only)


def _follow(run_dir: RunDir, plain: bool) -> int:
    printer = printers.printer(run_dir, plain=plain)
    follower, history = skip_history(run_dir)
    printer.show_history(history)
    try:
        ending = follow(run_dir, printer, follower=follower)
    except KeyboardInterrupt:
        printer.close()
        output.message("The training continues.")
        return ExitCode.DONE
    printer.close()
    code = foreground.conclude(run_dir, ending)
    show_results(run_dir, printer)
    return code
