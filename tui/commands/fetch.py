"""`lorasmith fetch WHAT`: bring a model from the Hugging Face hub into the local cache."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import printable, size_text
from tui.shell import output
from tui.text.download import progress_text

if TYPE_CHECKING:
    from engine.families.fetch import Progress

LINE_SECONDS = 10.0
"""Between two lines where stderr is no terminal."""


@click.command("fetch", short_help="Download a model from the Hugging Face hub into the local cache.")
@click.argument("what")
@click.option("--yes", is_flag=True, help="Do not ask before the download.")
def command(what: str, yes: bool) -> int:
    """Download WHAT from the Hugging Face hub into the local cache, and print where it is.

    WHAT is owner/name of a model (only the files that are needed), owner/name/FILE.safetensors, t5-tokenizer (which
    FLUX needs), or blip, blip2, florence2, wd14 (which make captions).

    An interrupted download continues where it ended. HF_HOME sets the place of the cache, HF_TOKEN is for models
    behind a licence.
    """
    from engine.families.fetch import fetch, make_plan

    plan = make_plan(what)
    if not plan.missing:
        output.message(f"{plan.repository} is here already: {size_text(plan.size)}.")
    else:
        for line in plan.lines():
            output.message(line)
        if not yes and not _confirmed():
            output.message("Nothing was downloaded.")
            return ExitCode.STOPPED
    printer = _ProgressPrinter()
    try:
        path = fetch(plan, printer)
    except KeyboardInterrupt:
        printer.end()
        output.message("Interrupted. What was downloaded is kept; the same command continues from there.")
        return ExitCode.INTERRUPTED
    finally:
        printer.end()
    output.result(path)
    return ExitCode.DONE


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            "There is no terminal to confirm the download in.",
            "Add --yes to download without asking.",
            code="download-not-confirmed",
        )
    return click.confirm("Download?", default=True, err=True)


class _ProgressPrinter:
    """One line that is redrawn in a terminal; elsewhere a line every few seconds."""

    def __init__(self) -> None:
        self._over = output.is_terminal(sys.stderr)
        self._printed_at = time.monotonic()
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        """Print the progress."""
        if self._over:
            line = progress_line(progress)[: output.width(sys.stderr) - 1]
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._drawn = True
        elif time.monotonic() - self._printed_at > LINE_SECONDS or progress.done == progress.total:
            self._printed_at = time.monotonic()
            output.message(progress_line(progress))

    def end(self) -> None:
        """End the redrawn line."""
        if self._drawn:
            output.message("")
            self._drawn = False


def progress_line(progress: Progress) -> str:
    """The progress, and the file that is being downloaded."""
    return f"{progress_text(progress)}, {printable(progress.name)}"
