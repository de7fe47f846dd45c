"""`lorasmith report RUN --html [FILE]`: a run as one HTML page."""

from __future__ import annotations

import click

from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import printable
from tui.shell import output


@click.command("report", short_help="Write a run's verdicts, samples and curves as one HTML page.")
@click.argument("run", metavar="RUN")
@click.option(
    "--html", metavar="[FILE]", is_flag=False, flag_value="", default="",
    help="Where the page goes. Without FILE: NAME_report.html in the run's directory.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace any file that is there; an earlier report is always replaced.")
def command(run: str, html: str, overwrite: bool) -> int:
    """Write RUN as one HTML page: the recommended file and why, all files with their measures, the samples, curves,
    settings, and how to use the file.

    The page needs no network and no other file, and can be sent to others: it holds the samples, and no training
    image.
    """
    from engine.html_page.place import RESULTS, require_place
    from engine.results.record import read_run
    from engine.results.report import write_report
    from engine.runs import resolve

    run_dir = resolve(run)
    path = expanded(html) if html else run_dir.report_path
    require_place(path, RESULTS, overwrite=overwrite)
    page = write_report(read_run(run_dir), path)
    output.message(printable(page.sentence()))
    output.result(path)
    return ExitCode.DONE
