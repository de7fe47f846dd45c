"""`lorasmith stop RUN`: ask a run to finish its step, save and end."""

from __future__ import annotations

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs import request, resolve, true_state
from engine.runs.follow import follow, skip_history
from engine.runs.state import with_detail
from engine.text import printable
from tui.shell import output


@click.command("stop")
@click.argument("run")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
def command(run: str, wait: bool) -> int:
    """Ask RUN to finish its step, save everything and end."""
    run_dir = resolve(run)
    state = true_state(run_dir)
    if not state.live:
        raise UsageError(f"The run {run_dir.path} is not running ({with_detail(state)}).", code="run-not-live")
    follower, _ = skip_history(run_dir)
    request(run_dir, "stop")
    output.message(f"Asked {run_dir.path} to stop (process {state.pid}).")
    if not wait:
        return ExitCode.DONE
    ending = follow(run_dir, lambda _: None, follower=follower)
    output.message(printable(with_detail(ending.state)))
    return ExitCode.DONE if ending.exit_code in (ExitCode.DONE, ExitCode.STOPPED) else ending.exit_code
