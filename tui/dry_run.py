"""`--dry-run`: everything is checked and shown, nothing is trained and nothing written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from tui import output
from tui.preflight import preflight

if TYPE_CHECKING:
    from engine.config import RunConfig


def dry_run(config: RunConfig, arguments: Sequence[str], *, restart: bool) -> int:
    """Show what a run with `config` would do; the lines are the result, so they go to stdout.

    Raises:
        LoraSmithError: what would stop the run; nothing was shown then.
    """
    known = preflight(config, restart=restart, progress=output.counter("reading pictures"))
    recognition = known.recognition
    _section("Model", [f"{recognition.family}, {recognition.path}", *recognition.reasons])
    _section("Pictures", known.pictures.lines())
    _section("Steps", known.plan.lines())
    _section("Settings", known.settings)
    _section("Result", [str(known.directory / f"{known.config.saving.output_name}.safetensors")])
    typed = [argument for argument in arguments if argument != "--dry-run"]
    output.result(f"Nothing was trained or written. To train: lorasmith {shlex.join(typed)}")
    return ExitCode.DONE


def _section(title: str, lines: Sequence[str]) -> None:
    from engine.text import printable

    output.result(title)
    for line in lines:
        output.result(f"  {printable(line)}")
