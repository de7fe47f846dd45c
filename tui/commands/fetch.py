"""`lorasmith fetch WHAT`: bring a model from the Hugging Face hub into the local cache."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import printable, size_text
from tui import output
from tui.words.download import progress_text

if TYPE_CHECKING:
    from engine.models.fetch import Progress

LINE_SECONDS = 10.0
"""Between two lines where stderr is no terminal."""


@click.command("fetch", short_help="Download a model from the Hugging Face hub into the local cache.")
@click.argument("what")
@click.option("--yes", is_flag=True, help="Do not ask before the download.")
def command(what: str, yes: bool) -> int:
    """Download WHAT from the Hugging Face hub into the local cache, and print where it is.

    WHAT is owner/name of a model (only the files that are needed), owner/name/FILE.safetensors, t5-tokenizer (which
    FLUX needs), or blip, blip2, florence2, wd14 (which make captions).

    A download that was ended goes on where it was. HF_HOME says where the cache is, HF_TOKEN is for models behind a
    licence.
    """
    from engine.models.fetch import fetch, make_plan

    plan = make_plan(what)
    if not plan.missing:
        output.narrate(f"{plan.repository} is here already: {size_text(plan.size)}.")
    else:
        for line in plan.lines():
            output.narrate(line)
        if not yes and not _agreed():
            output.narrate("Nothing was downloaded.")
            return ExitCode.STOPPED
    teller = _Teller()
    try:
        path = fetch(plan, teller)
    except KeyboardInterrupt:
        teller.end()
        output.narrate("Interrupted. What has come is kept; the same command goes on from there.")
        return ExitCode.INTERRUPTED
    finally:
        teller.end()
    output.result(path)
    return ExitCode.DONE


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here: there is no terminal.", "Add --yes to download without asking.")
    return click.confirm("Download?", default=True, err=True)


class _Teller:
    """One line that is drawn over in a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._over = output.is_terminal(sys.stderr)
        self._said = time.monotonic()
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        """Say how far it is."""
        if self._over:
            line = progress_line(progress)[: output.width(sys.stderr) - 1]
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
            self._drawn = True
        elif time.monotonic() - self._said > LINE_SECONDS or progress.done == progress.total:
            self._said = time.monotonic()
            output.narrate(progress_line(progress))

    def end(self) -> None:
        """Leave the line behind."""
        if self._drawn:
            output.narrate("")
            self._drawn = False


def progress_line(progress: Progress) -> str:
    """How far it is, and the file that comes now."""
    return f"{progress_text(progress)}, {printable(progress.name)}"
