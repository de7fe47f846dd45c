"""`lorasmith compare RUN RUN…`: what differs between runs, and which did better."""

from __future__ import annotations

import click

from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import printable
from tui.shell import output


@click.command("compare", short_help="Show two or more runs side by side.")
@click.argument("runs", metavar="RUN RUN...", nargs=-1)
@click.option("--html", metavar="FILE", help="Write the comparison, with the samples, as one HTML page.")
@click.option("--overwrite", is_flag=True, help="Replace any file that is there; an earlier page is always replaced.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(runs: tuple[str, ...], html: str | None, overwrite: bool, as_json: bool) -> int:
    """Show two to six runs side by side: the settings that differ, the best file of each with its measures, the
    validation losses by step, time and memory. With --html also the samples of equal prompts and seeds.
    """
    from engine.html_page.place import RESULTS, require_place
    from engine.results.compare_page import write_comparison
    from engine.results.comparison import compare, require_number
    from engine.results.record import read_run
    from engine.runs import resolve
    from tui.text.compare import shell_lines

    require_number(len(runs))
    run_dirs = [resolve(run) for run in runs]
    path = expanded(html) if html else None
    if path is not None:
        require_place(path, RESULTS, overwrite=overwrite)
    comparison = compare([read_run(run_dir) for run_dir in run_dirs])
    if as_json:
        output.json_result(comparison.as_json())
    else:
        for line in shell_lines(comparison, max(40, min(120, output.width_of_result()))):
            output.result(line)
    if path is not None:
        output.message(printable(write_comparison(comparison, path).sentence()))
    return ExitCode.DONE
