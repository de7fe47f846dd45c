"""`--dry-run`: everything is checked and shown, nothing is trained and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from engine.text import printable, shell_line
from tui import output
from tui.preflight import Preflight, preflight

if TYPE_CHECKING:
    from engine.config import RunConfig


def dry_run(config: RunConfig, arguments: Sequence[str], *, restart: bool) -> int:
    """Show what a run with `config` would do; the lines are the result, so they go to stdout.

    Raises:
        LoraSmithError: what would stop the run; nothing was shown then.
    """
    known = preflight(config, restart=restart, progress=output.counter("reading pictures"))
    recognition = known.recognition
    warnings = [f"warning: {sentence}" for sentence, _step in known.captions.warnings()]
    _section("Model", [f"{recognition.family}, {recognition.path}", *recognition.reasons])
    _section("Pictures", [*known.pictures.lines(), known.captions.about_trigger(), *warnings])
    _section("Steps", known.plan.lines())
    _section("Settings", known.settings)
    _section("Memory", _memory(known))
    _section("Result", [str(known.directory / f"{known.config.saving.output_name}.safetensors")])
    typed = [argument for argument in arguments if argument != "--dry-run"]
    output.result("Nothing was trained or written. To train:")
    output.result(f"  {shell_line(('lorasmith', *typed))}")
    return ExitCode.DONE


def _memory(known: Preflight) -> list[str]:
    """The plan for the card at hand; without one the training computes on the CPU."""
    from engine.memory.planner import plan
    from tui import planned

    gpu = planned.used_card(known.config)
    if gpu is None:
        return ["The training computes on the CPU. `lorasmith plan` shows what it would need of a card."]
    return planned.lines(plan(known.config, known.recognition, known.plan, gpu), gpu)


def _section(title: str, lines: Sequence[str]) -> None:
    output.result(title)
    for line in lines:
        output.result(f"  {printable(line)}")
