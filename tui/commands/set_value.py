"""`lorasmith set RUN key=value`: change a setting of a run that goes on."""

from __future__ import annotations

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs import request, resolve, true_state
from tui import output


@click.command("set")
@click.argument("run")
@click.argument("assignment", metavar="TABLE.KEY=VALUE")
def command(run: str, assignment: str) -> int:
    """Change a setting of RUN while it goes on."""
    from engine.config import load_config

    run_dir = resolve(run)
    state = true_state(run_dir)
    if not state.live:
        raise UsageError(f"The run {run_dir.path} is not going on ({state.state}).", "")
    config = load_config(str(run_dir.config_path), [assignment])
    table, _, key = assignment.partition("=")[0].strip().partition(".")
    value = getattr(getattr(config, table), key)
    request(run_dir, "set", {"key": f"{table}.{key}", "value": value})
    output.narrate(f"Asked {run_dir.path} to set {table}.{key} = {value}; its answer is among the events.")
    return ExitCode.DONE
