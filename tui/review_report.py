"""What the review shows: everything that is known about a run before its start, gathered and put into words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.config.form import fields, shown, unit
from engine.errors import DataError, LoraSmithError, ModelError, UsageError
from engine.text import plural, printable, size_text
from tui.draft import STEP_OF, Draft
from tui.planned import lines, used_card
from tui.screens.steps import STEPS, position
from tui.texts import _

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.config import RunConfig
    from engine.dataset.pool import Progress
    from engine.hardware import Gpu
    from engine.models.base import Recognition
    from engine.runs import RunDir, RunState
    from tui.outlook import Forecast, Outlook
    from tui.preflight import Preflight

_KEY = re.compile(r"\b(?:model|dataset|network|training|memory|sampling|saving)\.[a-z_]+")
_REQUIRED = {
    "model.pretrained_model_name_or_path": _("No model is chosen."),
    "dataset.train_data_dir": _("No pictures are chosen."),
    "saving.output_name": _("The run has no name."),
}


@dataclass(frozen=True)
class Report:
    """A run that can start."""

    known: Preflight
    outlook: Outlook
    gpu: Gpu | None
    """Where it computes; None on the CPU."""
    logout: str | None
    """Why the training would end with the session; None where it would not."""
    unfinished: tuple[RunDir, RunState] | None
    """An unfinished run in its place, which is resumed or put away first."""
    usual: frozenset[str] = frozenset()
    """Those of `known.changes` that come from the preset alone: no mistake of the person."""


class LiveRunError(UsageError):
    """A run is going on where the new one would go."""

    def __init__(self, error: LoraSmithError, run_dir: RunDir) -> None:
        super().__init__(error.message, _("Watch it, or choose another name."))
        self.run_dir = run_dir


def gather(config: RunConfig, forecast: Forecast, progress: Progress, preset: RunConfig | None = None) -> Report:
    """Ask everything that can be asked before the start. Blocks: call it in a worker.

    Args:
        config: as drafted.
        forecast: what was measured before.
        progress: called with (read, total) images.
        preset: the same run without a changed parameter.

    Raises:
        LiveRunError: a run is going on in its place.
        LoraSmithError: what the person must mend.
    """
    from engine.runs import RunDir, true_state
    from engine.runs.launch import logout_warning
    from engine.runs.layout import default_output_dir
    from engine.runs.prepare import absolute_paths
    from tui.preflight import preflight

    run_dir = RunDir(default_output_dir(absolute_paths(config)))
    state = true_state(run_dir) if run_dir.is_run else None
    unfinished = None
    try:
        known = preflight(config, progress=progress)
    except UsageError as error:
        if state is None:
            raise
        if state.live:
            raise LiveRunError(error, run_dir) from error
        known = preflight(config, restart=True, progress=progress)
        unfinished = (run_dir, state)
    outlook = forecast.outlook_of(known.config, known.recognition, known.plan, known.need, known.num_prompts)
    usual = frozenset(_changes(preset, known.recognition) if preset is not None else ())
    return Report(known, outlook, used_card(known.config), logout_warning(), unfinished, usual)


def _changes(preset: RunConfig, recognition: Recognition) -> list[str]:
    from tui.preflight import settle

    try:
        return settle(preset, recognition)[1]
    except UsageError:  # a contradiction that the person's own values resolve
        return []


def missing(draft: Draft) -> tuple[str, str] | None:
    """(sentence, step) of the first thing that every run needs and this draft lacks."""
    for key, sentence in _REQUIRED.items():
        given = draft.get(key) or (key == "dataset.train_data_dir" and draft.get("dataset.dataset_config"))
        if not given:
            return sentence, STEP_OF[key]
    return None


def step_to_mend(error: LoraSmithError) -> str:
    """The step where what the error says can be mended."""
    found = _KEY.search(f"{error.message} {error.hint}")
    if isinstance(error, ModelError):
        return "model"
    if isinstance(error, DataError):
        return "captions" if "caption" in error.message.lower() else "folders"
    if found is not None:
        return STEP_OF.get(found[0], "parameters")
    about_place = "--" in error.hint or error.message.startswith("The name ")
    return "parameters" if isinstance(error, UsageError) and not about_place else "folders"


def warnings(report: Report) -> list[str]:
    """What one should know before the start, the weightiest first."""
    known, said = report.known, []
    if report.unfinished is not None:
        run_dir, state = report.unfinished
        said.append(
            _("{0} holds an unfinished run ({1}, step {2}): the start asks what becomes of it.").format(
                printable(run_dir.path), state.state, state.step
            )
        )
    if known.disk_warning:
        said.append(known.disk_warning)
    said += [change for change in known.changes if change not in report.usual]
    if known.pictures.rejected:
        count = len(known.pictures.rejected)
        said.append(_("{0} cannot be used and set aside, see below.").format(plural(count, "file")))
    for sentence, step in known.captions.warnings():
        said.append(_("{0} Fix it in the step {1}.").format(sentence, STEPS[position(step)].title))
    if report.logout:
        said.append(report.logout)
    return said


def plan_vram(report: Report, cancelled: Callable[[], bool]) -> list[str]:
    """What the run needs of its card, in words. Blocks, the first time up to some minutes: call it in a worker.

    Raises:
        PlanCancelled: `cancelled` said so.
    """
    from engine.memory.planner import plan

    known = report.known
    try:
        found = plan(known.config, known.recognition, known.plan, report.gpu, cancelled=cancelled)
    except LoraSmithError as error:
        return [_("VRAM: not known. {0}").format(error.message)]
    return lines(found, report.gpu)


def _vram(report: Report) -> list[str]:
    """What is known while the plan is not."""
    if report.gpu is None:
        return [_("VRAM: none is used, the training computes on the CPU.")]
    gpu = report.gpu
    has = _("{0} has {1}, of which {2} are free").format(printable(gpu.name), size_text(gpu.total), size_text(gpu.free))
    return [_("VRAM: {0}; what the run needs is being planned.").format(has)]


def sections(report: Report, draft: Draft, vram: Sequence[str] = ()) -> list[tuple[str, list[str]]]:
    """Titles with their lines; `vram` from `plan_vram`, when it is there."""
    known, outlook = report.known, report.outlook
    recognition = known.recognition
    model = f"{recognition.family}, {recognition.dtype}, {size_text(recognition.size)}: {recognition.path}"
    length = [*known.plan.lines(), outlook.time(), *known.need.lines(known.directory)]
    usual = [change for change in known.changes if change in report.usual]
    result = known.directory / f"{known.config.saving.output_name}.safetensors"
    return [
        (_("Result"), [str(result), known.captions.about_trigger()]),
        (_("Length"), length),
        (_("Model"), [model, *recognition.reasons]),
        (_("Pictures"), known.pictures.lines()),
        (_("Memory"), [known.precision, *(vram or _vram(report))]),
        *([(_("Notes"), usual)] if usual else []),
        (_("Settings that differ from the defaults (• from the preset {0} too)").format(draft.preset),
         list(settings(known.config, draft))),
    ]  # fmt: skip


def settings(config: RunConfig, draft: Draft) -> list[str]:
    """Every setting that is not the default, with what the preset says where that was changed."""
    lines, base = [], draft.base()
    for key, facts in fields().items():
        value = getattr(getattr(config, facts.table), facts.name)
        if value == facts.default and key not in draft.values:
            continue
        line = f"{key} = {shown(facts, value)} {unit(facts, value)}".rstrip()
        if key in draft.values and key not in STEP_OF:
            preset = shown(facts, getattr(getattr(base, facts.table), facts.name))
            line = "• " + line + _(" (preset: {0})").format(preset)
        lines.append(line)
    return lines
