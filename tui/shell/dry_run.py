"""`--dry-run`: everything is checked and shown, nothing is trained and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from engine.text import printable, shell_line
from tui.setup.preflight import Preflight, preflight
from tui.shell import output
from tui.text.layers import layer_lines

if TYPE_CHECKING:
    from engine.config import RunConfig


def dry_run(config: RunConfig, arguments: Sequence[str], *, restart: bool) -> int:
    """Print what a run with `config` would do, on stdout.

    Raises:
        LoraSmithError: what would stop the run; then nothing was printed.
    """
    from engine.config.changes import changes_of

    checked = preflight(config, restart=restart, progress=output.counter("reading images"))
    recognition = checked.recognition
    warnings = [f"warning: {sentence}" for sentence, _step in checked.captions.warnings()]
    _section("Model", [f"{recognition.family}, {recognition.path}", *recognition.reasons])
    _section("Images", [*checked.images.lines(), checked.captions.trigger_line(), *warnings])
    changes = [f"{change.text} from step {change.step + 1} on" for change in changes_of(checked.config)]
    _section("Steps", [*checked.plan.lines(), *changes])
    _section("Layers", layer_lines(checked.run, checked.selection))
    _section("Settings", checked.settings)
    _section("Memory", _memory(checked))
    _section("Result", [str(checked.directory / f"{checked.config.saving.output_name}.safetensors")])
    typed = [argument for argument in arguments if argument != "--dry-run"]
    output.result("Nothing was trained or written. To train:")
    output.result(f"  {shell_line(('lorasmith', *typed))}")
    return ExitCode.DONE


def _memory(checked: Preflight) -> list[str]:
    """The plan for the card at hand; without one the training computes on the CPU."""
    from engine.estimate.planner import plan
    from tui.text import vram_text

    gpu = vram_text.used_card(checked.config)
    if gpu is None:
        return ["The training computes on the CPU. `lorasmith plan` shows what it would need of a card."]
    return vram_text.lines(plan(checked.run, checked.plan, gpu), gpu)


def _section(title: str, lines: Sequence[str]) -> None:
    output.result(title)
    for line in lines:
        output.result(f"  {printable(line)}")
