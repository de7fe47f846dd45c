"""`lorasmith runs`: the runs of this user, and those below the working directory."""

from __future__ import annotations

from pathlib import Path

import click

from engine.exit_codes import ExitCode
from engine.runs import KnownRun, find_runs
from engine.runs.state import moment
from engine.text import printable
from tui.shell import output


@click.command("runs")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> int:
    """List the runs, the newest first."""
    runs = find_runs([Path.cwd()])
    if as_json:
        output.json_result({"runs": [_record(run) for run in runs]})
        return ExitCode.DONE
    if not runs:
        output.message("No run is known here.")
    width = max((len(printable(run.title)) for run in runs), default=0)
    for run in runs:
        state = run.state
        steps = f"{state.step}/{state.max_train_steps}" if state.max_train_steps else str(state.step)
        output.result(
            f"{printable(run.title):{width}}  {state.state:8}  {steps:>11}  {moment(state.updated)}  "
            f"{printable(run.run_dir.path)}"
        )
    return ExitCode.DONE


def _record(run: KnownRun) -> dict[str, object]:
    state = run.state
    return {
        "name": run.name, "path": str(run.run_dir.path), "state": state.state, "detail": state.detail, "pid": state.pid,
        "step": state.step, "epoch": state.epoch, "max_train_steps": state.max_train_steps, "created": run.created,
        "updated": state.updated, "exit_code": state.exit_code, "archived": run.archived,
        "title": run.title, "note": run.remarks.note,
    }  # fmt: skip
