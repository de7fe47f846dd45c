"""`lorasmith resume RUN`: go on with a stopped, failed or lost run."""

from __future__ import annotations

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs import resolve
from tui import begin, foreground, narrators, output
from tui.commands.run import show_results


@click.command("resume")
@click.argument("run")
@click.option(
    "--set",
    "settings",
    metavar="TABLE.KEY=VALUE",
    multiple=True,
    help="Change a setting on the way; repeatable.",
)
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Continue although images, captions or model files changed since; the run names them.",
)
@click.option("--detach", is_flag=True, help="Return as soon as the training has started.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events, one JSON object a line.")
def command(run: str, settings: tuple[str, ...], accept_changes: bool, detach: bool, as_json: bool) -> int:
    """Go on with RUN from its last saved state."""
    run_dir = resolve(run)
    changes = _changes(settings)
    state = begin.prepare_again(run_dir, changes, accept_changes=accept_changes, say=output.narrate)
    output.narrate(f"{run_dir.path} was {state.state} at step {state.step}; the training continues.")
    teller = narrators.narrator(run_dir, json=as_json)
    code = foreground.train(run_dir, teller, detach=detach)
    if as_json:
        return code
    if detach and code == ExitCode.DONE:
        output.result(run_dir.path)
    else:
        show_results(run_dir, teller)
    return code


def _changes(settings: tuple[str, ...]) -> dict[str, object]:
    from engine.config.load import parse_value

    changes: dict[str, object] = {}
    for setting in settings:
        key, equals, written = setting.partition("=")
        if not equals:
            raise UsageError(f"--set {setting} has no value.", "Write --set table.key=value.")
        changes[key.strip()] = parse_value(written)
    return changes
