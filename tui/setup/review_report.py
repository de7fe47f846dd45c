"""What the review shows: all checks of a run before its start, and their results in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config import RunConfig
from engine.config.change import CHANGES, RATE_KEYS, read_change
from engine.config.form import fields, unit, value_text
from engine.errors import LoraSmithError, ModelError, UsageError
from engine.text import plural, printable, size_text
from tui.screens.steps import STEPS, position
from tui.setup.draft import STEP_OF, Draft
from tui.setup.names import occupied
from tui.setup.preset_file import kept_notes
from tui.setup.user_config import effective_defaults
from tui.text.fields import KEY, change_text
from tui.text.layers import layer_lines
from tui.text.vram_text import lines, used_card
from tui.texts import _

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.hardware import Gpu
    from engine.runs import RunDir, RunState
    from engine.types import Progress, Recognition
    from tui.setup.forecast import Forecast, Forecaster
    from tui.setup.preflight import Preflight

_STEP_OF_CODE = {
    "caption-not-utf8": "captions",
    "caption-too-long": "captions",
    "caption-unreadable": "captions",
    "captions-unusable": "captions",
    "device-not-usable": "hardware",
    "folder-used-twice": "folders",
    "metadata-entry-empty": "captions",
    "name-not-possible": "folders",
    "name-too-long": "folders",
    "no-folder-of-images": "folders",
    "no-gpu": "hardware",
    "place-is-a-file": "folders",
    "run-damaged": "folders",
    "run-is-live": "folders",
    "run-unfinished": "folders",
    "settings-missing": "folders",
}
"""The step that fixes an error, where its class does not decide."""
_ABOUT_KEYS = ("config-invalid", "path-not-utf8", "path-of-windows")
"""Errors of any setting, which their messages name."""
_REQUIRED = {
    "model.pretrained_model_name_or_path": _("No model is chosen."),
    "dataset.train_data_dir": _("No images are chosen."),
    "saving.output_name": _("The run has no name."),
}


@dataclass(frozen=True)
class Report:
    """A run that can start."""

    preflight: Preflight
    forecast: Forecast
    gpu: Gpu | None
    """Where it computes; None on the CPU."""
    logout: str | None
    """Why the training would end with the session; None where it would not."""
    unfinished: tuple[RunDir, RunState] | None
    """An unfinished run in its directory, which is resumed or moved away first."""
    earlier: str = ""
    """What happens to a run of this name that has ended; empty where none is there."""
    usual: frozenset[str] = frozenset()
    """Those of `preflight.changes` that come from the preset alone: no mistake of the person."""
    unfit: str | None = None
    """Why the preset is not meant for the model; None where it is."""


class LiveRunError(UsageError):
    """A live run is in the directory of the new one."""

    def __init__(self, error: LoraSmithError, run_dir: RunDir) -> None:
        super().__init__(error.message, _("Watch it, or choose another name."), code="run-is-live")
        self.run_dir = run_dir


def gather(
    config: RunConfig,
    forecaster: Forecaster,
    progress: Progress,
    preset: RunConfig | None = None,
    preset_name: str = "",
) -> Report:
    """Make all checks before the start. Blocks: call it in a worker.

    Args:
        config: of the draft.
        forecaster: caches what was read before.
        progress: called with (read, total) images.
        preset: the same run without changed parameters.
        preset_name: of the preset.

    Raises:
        LiveRunError: a live run is in its directory.
        LoraSmithError: what the person must fix.
    """
    from engine.runs import RunDir, true_state
    from engine.runs.launch import logout_warning
    from engine.runs.layout import default_output_dir
    from engine.runs.prepare import absolute_paths
    from tui.setup.configuration import of_another_family
    from tui.setup.preflight import preflight

    run_dir = RunDir(default_output_dir(absolute_paths(config)))
    state = true_state(run_dir) if run_dir.is_run else None
    unfinished = None
    try:
        checked = preflight(config, progress=progress)
    except UsageError as error:
        if state is None:
            raise
        if state.live:
            raise LiveRunError(error, run_dir) from error
        checked = preflight(config, restart=True, progress=progress)
        unfinished = (run_dir, state)
    forecast = forecaster.forecast_of(checked.run, checked.plan, checked.need, checked.prompts, checked.images)
    usual = frozenset(_changes(preset, checked.recognition) if preset is not None else ())
    earlier = occupied(run_dir).sentence if unfinished is None else ""
    return Report(
        checked,
        forecast,
        used_card(checked.config),
        logout_warning(),
        unfinished,
        earlier,
        usual,
        of_another_family(preset_name, config),
    )


def _changes(preset: RunConfig, recognition: Recognition) -> tuple[str, ...]:
    from engine.families.resolved import resolve_run

    try:
        return resolve_run(preset, recognition).notes
    except UsageError:  # a contradiction that the person's own values resolve
        return ()


def missing(draft: Draft) -> tuple[str, str] | None:
    """(sentence, step) of the first thing that every run needs and this draft lacks."""
    for key, sentence in _REQUIRED.items():
        value = draft.get(key) or (key == "dataset.train_data_dir" and draft.get("dataset.dataset_config"))
        if not value:
            return sentence, STEP_OF[key]
    return None


def step_to_fix(error: LoraSmithError) -> str:
    """The step where the error can be fixed."""
    if error.code in _STEP_OF_CODE:
        return _STEP_OF_CODE[error.code]
    if error.code in _ABOUT_KEYS and (match := KEY.search(error.message)):
        return STEP_OF.get(match[0], "parameters")
    if isinstance(error, ModelError):
        return "model"
    return "parameters" if isinstance(error, UsageError) else "folders"


def warnings(report: Report) -> list[str]:
    """Warnings before the start, the most important first."""
    checked, sentences = report.preflight, []
    if report.unfinished is not None:
        run_dir, state = report.unfinished
        sentences.append(
            _("{0} has an unfinished run ({1}, step {2}): the start asks what to do with it.").format(
                printable(run_dir.path), state.state, state.step
            )
        )
    if report.unfit:
        sentences.append(report.unfit)
    if checked.disk_warning:
        sentences.append(checked.disk_warning)
    sentences += [change for change in checked.changes if change not in report.usual]
    if checked.images.rejected:
        count = len(checked.images.rejected)
        sentences.append(_("{0} cannot be used and will be left out, see below.").format(plural(count, "file")))
    for sentence, step in checked.captions.warnings():
        sentences.append(_("{0} Fix it in the step {1}.").format(sentence, STEPS[position(step)].title))
    if report.logout:
        sentences.append(report.logout)
    return sentences


@dataclass(frozen=True)
class PlannedMemory:
    """What the run needs of its card."""

    lines: list[str]
    peak: int | None = None
    """Bytes at the most; None where that is unknown."""


def plan_vram(report: Report, cancelled: Callable[[], bool]) -> PlannedMemory:
    """Plan the memory. Blocks, the first time up to a few minutes: call it in a worker.

    Raises:
        Cancelled: `cancelled` returned True.
    """
    from engine.estimate.planner import plan

    checked = report.preflight
    try:
        memory_plan = plan(checked.run, checked.plan, report.gpu, cancelled=cancelled)
    except LoraSmithError as error:
        return PlannedMemory([_("VRAM: unknown. {0}").format(error.message)])
    return PlannedMemory(lines(memory_plan, report.gpu), memory_plan.peak_bytes)


def _vram(report: Report) -> list[str]:
    """The card's memory, while the plan is not made yet."""
    if report.gpu is None:
        return [_("VRAM: none is used, the training computes on the CPU.")]
    gpu = report.gpu
    has = _("{0} has {1}, of which {2} are free").format(printable(gpu.name), size_text(gpu.total), size_text(gpu.free))
    return [_("VRAM: {0}; computing what the run needs.").format(has)]


def sections(report: Report, draft: Draft, vram: PlannedMemory | None = None) -> list[tuple[str, list[str]]]:
    """Titles with their lines; `vram` once it is planned."""
    checked, forecast = report.preflight, report.forecast
    recognition = checked.recognition
    model = f"{recognition.family}, {recognition.dtype}, {size_text(recognition.size)}: {recognition.path}"
    length = [
        *checked.plan.lines(),
        forecast.time(),
        *checked.need.lines(checked.directory),
        *filter(None, [checked.measuring]),
    ]
    usual = [change for change in checked.changes if change in report.usual]
    result = checked.directory / f"{checked.config.saving.output_name}.safetensors"
    layers = layer_lines(checked.run, checked.selection)
    changes = [change_text(text) for text in checked.config.training.changes]
    if any(read_change(text).key in RATE_KEYS for text in checked.config.training.changes):
        layers.append(_("These are the rates of the first step; they change during the training, see below."))
    return [
        (_("Result"), [str(result), checked.captions.trigger_line(), *filter(None, [report.earlier])]),
        (_("Length"), length),
        (_("Model"), [model, *recognition.reasons]),
        (_("Images"), [*checked.images.lines(), *_set_aside(report)]),
        (_("Layers"), layers),
        (_("Memory"), [checked.precision, *(vram.lines if vram is not None else _vram(report))]),
        *([(_("Changes during the training"), changes)] if changes else []),
        *([(_("Notes"), usual)] if usual else []),
        *from_file(draft),
        (_("Settings that differ from the defaults (• also from the preset {0})").format(draft.preset),
         list(settings(checked.config, draft))),
    ]  # fmt: skip


def from_file(draft: Draft) -> list[tuple[str, list[str]]]:
    """The section about keys of another program's file that mean something else here, or nothing."""
    notes = kept_notes(draft)
    return [(_("From the file {0}").format(Path(draft.preset).name), notes)] if notes else []


def set_aside_automatically(report: Report) -> bool:
    """Whether the program set images aside for validation automatically."""
    return report.preflight.config.sets_aside and bool(report.preflight.num_validation)


def could_set_aside(report: Report) -> bool:
    """Whether the program would set images aside, if the share of validation images were not 0."""
    from engine.dataset.auto_validation import FEWEST_IMAGES

    unset = report.preflight.config.changed(dataset={"validation_split": None})
    trained = report.preflight.images.num_images >= FEWEST_IMAGES
    return report.preflight.config.dataset.validation_split == 0 and unset.sets_aside and trained


def _set_aside(report: Report) -> list[str]:
    if set_aside_automatically(report):
        return [_("v: train on these as well; then no validation loss is measured.")]
    if report.preflight.config.sets_aside:
        from engine.dataset.auto_validation import FEWEST_IMAGES

        return [_("No validation images: {0} images or more are needed for that.").format(FEWEST_IMAGES)]
    return [_("v: set a few images aside for validation.")] if could_set_aside(report) else []


def settings(config: RunConfig, draft: Draft) -> list[str]:
    """Every setting that is not the default, with the preset's value where that was changed, and marked where it comes
    from the person's own file."""
    lines, base = [], draft.base()
    own = effective_defaults(draft.preset)
    for key, facts in fields().items():
        value = getattr(getattr(config, facts.table), facts.name)
        in_preset = getattr(getattr(base, facts.table), facts.name)
        if key == CHANGES and value:  # in a part of its own
            continue
        if value == facts.default and (key in STEP_OF or value == in_preset):
            continue
        line = f"{_(facts.title)}: {value_text(facts, value)} {unit(facts, value)}".rstrip()
        if value != in_preset and key not in STEP_OF:
            source = _(" (your default: {0})") if key in own else _(" (preset: {0})")
            line = "• " + line + source.format(value_text(facts, in_preset))
        elif value == in_preset and key in own:
            line += _(" (your default)")
        lines.append(line)
    return lines
