"""A run in words: its state, progress, numbers and events, as the dashboard shows it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich.cells import set_cell_size
from textual.content import Content

from engine.config.rates import by_component
from engine.hardware import Gpu
from engine.runs import Event, RunState
from engine.runs.events import (
    ChangedEvent,
    ControlAckEvent,
    ErrorEvent,
    NoteEvent,
    OomEvent,
    RetryEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SavedEvent,
    StateSavedEvent,
    ValidationEvent,
    WarningEvent,
)
from engine.runs.history import RunHistory
from engine.runs.phase import Phase
from engine.runs.shortage import Shortage
from engine.runs.values import local_time
from engine.text import duration, printable, size_text
from tui.text.parts import part_title
from tui.text.rows import COLOURS, SIGNS, bar, step_words
from tui.texts import _
from tui.watching.machine import Machine

SIGN_OF_GONE = ("✗", _("the directory is gone"), "red")
COMMANDS = {
    "sample_now": _("Sample now"),
    "save_now": _("Save now"),
    "pause": _("Pause"),
    "continue": _("Continue"),
    "stop": _("Stop and save"),
    "set": _("Setting"),
}


def answer_text(answer: str) -> str:
    """The trainer's answer to a command, in words for a person."""
    if answer.removeprefix("refused: ") == "not possible in this phase":
        return _("not possible before the first step; try again when the training has begun")
    return printable(answer.removeprefix("done: "))


def phase_text(name: str) -> str:
    """The label of a phase, also of one of another version."""
    return _(printable(Phase.label_of(name)))


def heading(name: str, state: str, history: RunHistory, *, complete: bool = True) -> Content:
    """One line: name, state, phase."""
    symbol, word, colour = SIGNS.get(state, SIGN_OF_GONE)
    parts = []
    if not complete:
        parts.append(_("reading its history: step {0}").format(history.step))
    elif state in ("starting", "running", "stopping") and history.phase:
        parts.append(_with_number(phase_text(history.phase), history))
    if history.start_count > 1:
        parts.append(
            _("resumed {0} times").format(history.start_count - 1) if history.start_count > 2 else _("resumed once")
        )
    return Content.assemble(
        (printable(name), "bold"),
        "  ",
        (f" {symbol} {word} ", f"bold reverse {COLOURS.get(colour, '')}"),
        *(f" · {part}" for part in parts),
    )


def _with_number(phase: str, history: RunHistory) -> str:
    """The phase, with the number of its image while the training waits for it: "generating samples: 2 of 4 images"."""
    part = history.progress if history.phase in (Phase.SAMPLE, Phase.VALIDATE) else None
    return (
        phase if part is None else _("{0}: {1} of {2} images").format(phase, min(part.done + 1, part.total), part.total)
    )


def progress_lines(history: RunHistory, state: RunState, width: int, planned: int | None = None) -> Content:
    """Two lines: progress of the run or its phase, with the time left; progress of the epoch, with the speed.

    Args:
        planned: the number of steps in the run's settings, until the trainer has reported it.
    """
    cells = max(8, min(40, width - 62))
    total = history.max_train_steps or state.max_train_steps or planned
    part = history.progress if history.phase in (Phase.LOAD, Phase.CACHE) else None
    if part is not None:
        label, share = phase_text(history.phase).capitalize(), part.done / max(1, part.total)
        words = f"{part.done} of {part.total} {printable(part.unit)}"
    else:
        step = reached(history, state)
        label, share, words = _("Step"), step / total if total else 0, step_words(step, total)
    epoch = history.epoch if history.start_count else state.epoch
    epochs = _("{0} of {1}").format(epoch, history.epochs) if history.epochs else str(epoch)
    speeds = [
        words.format(number)
        for words, number in (
            (_("{0:.2f} img/s"), history.images_per_second),
            (_("{0:.2f} s/step"), history.seconds_per_step),
        )
        if number is not None
    ]
    left = time_left(history, state)
    if part is not None and state.live and part.per_second is not None and part.seconds_left is not None:
        speeds = [_("{0:.1f} {1}/s").format(part.per_second, printable(part.unit))]
        left = _("about {0} left").format(duration(part.seconds_left))
    return Content.assemble(
        set_cell_size(label, 8), bar(share, cells), f" {words} · {left}\n",
        set_cell_size(_("Epoch"), 8), bar(_epoch_share(history), cells), " ", " · ".join([epochs, *speeds]),
    )  # fmt: skip


def reached(history: RunHistory, state: RunState) -> int:
    """The newest step; where the event log is missing or empty, that of the state."""
    return history.step if history.start_count else state.step


def _epoch_share(history: RunHistory) -> float:
    if not history.updates_per_epoch or not history.epoch:
        return 0.0
    if history.max_train_steps and history.step >= history.max_train_steps:
        return 1.0
    return (history.step - (history.epoch - 1) * history.updates_per_epoch) / history.updates_per_epoch


def time_left(history: RunHistory, state: RunState) -> str:
    """The estimate, including samples, saves and measuring; or when there will be one. Of an ended run, how long it
    took."""
    if not state.live:
        seconds = history.worked.seconds
        return _("ended after {0}").format(duration(seconds)) if seconds >= 1 else _("ended")
    if state.state == "paused":
        return _("paused")
    if history.eta_seconds is not None:
        left = duration(history.eta_seconds)
        is_between = history.phase in (
            Phase.SAMPLE,
            Phase.VALIDATE,
            Phase.SAVE,
        )  # the estimate is that of the last step
        return _("{0} left at step {1}").format(left, history.step) if is_between else _("{0} left").format(left)
    if history.phase == Phase.CACHE:
        return _("time left: known after caching")
    return _("time left: known after the first step")


def facts(history: RunHistory, machine: Machine | None, device: str, processes: int) -> list[Content]:
    """Lines of learning rates, memory and saved files."""
    lines = [
        (
            _("Rates"),
            rates_text(history.rates),
        )
    ]
    lines.append((_("Trainer"), _trainer_memory(history.memory)))
    cards = machine.cards(device, processes) if machine else []
    lines += [(_("Card"), card_words(card)) for card in cards]
    if machine is not None and not cards:
        used = machine.memory_total - machine.memory_free
        lines.append(
            (_("Machine"), _("{0} of {1} memory used").format(size_text(used), size_text(machine.memory_total)))
        )
    lines.append((_("Saved"), _saved(history)))
    return [Content.assemble((set_cell_size(label, 8), "dim"), words) for label, words in lines if words]


def rates_text(rates: Mapping[str, float]) -> str:
    """The learning rates of the optimizer's groups: of a part with several, from the lowest to the highest."""
    texts = []
    for part, values in sorted(by_component(rates).items(), key=lambda pair: pair[0].startswith("text_encoder")):
        low, high = f"{min(values):.2e}", f"{max(values):.2e}"
        groups = _(" ({0} groups)").format(len(values)) if len(values) > 1 else ""
        texts.append(f"{part_title(part)} {low if low == high else f'{low} – {high}'}{groups}")
    return " · ".join(texts)


def _trainer_memory(memory: Mapping[str, float]) -> str:
    words = {"allocated_gib": _("allocated"), "reserved_gib": _("reserved"), "peak_gib": _("peak"),
             "resident_gib": _("of memory")}  # fmt: skip
    parts = [f"{memory[key]:.1f} GiB {word}" for key, word in words.items() if key in memory]
    if memory.get("alloc_retries"):
        parts.append(_("{0:.0f} allocation retries").format(memory["alloc_retries"]))
    return " · ".join(parts)


def card_words(card: Gpu) -> str:
    """Memory, use and temperature of a card; what the driver does not report is left out."""
    parts = [printable(card.name).removeprefix("NVIDIA ").removeprefix("GeForce ")]
    if card.used is not None and card.total is not None:
        parts.append(_("{0:.1f} of {1:.1f} GiB used").format(card.used / 2**30, card.total / 2**30))
    if card.utilization is not None:
        parts.append(_("busy {0} %").format(card.utilization))
    if card.temperature is not None:
        parts.append(f"{card.temperature} °C")
    return " · ".join(parts)


def _saved(history: RunHistory) -> str:
    parts = []
    if history.saved:
        event = next(reversed(history.saved.values()))
        name = printable(Path(event.path).name)
        parts.append(_("{0} at step {1}").format(name, "?" if event.step is None else event.step))
    if history.state_step is not None:
        parts.append(_("state at step {0}").format(history.state_step))
    return " · ".join(parts)


def event_lines(events: Sequence[Event]) -> list[Content]:
    """Events as lines; the samples of a step are one line."""
    lines = []
    for _step, group in groupby(events, lambda event: event.step if isinstance(event, SampleEvent) else event):
        members = list(group)
        if len(members) > 1 and isinstance(members[-1], SampleEvent):
            words = _("{0} samples, {1}").format(len(members), _at(members[-1].step))
            lines.append(_line(members[-1], "·", words, "dim"))
        else:
            lines += [line for event in members if (line := event_text(event)) is not None]
    return lines


def event_text(event: Event) -> Content | None:
    """One event as a line with its time; None for events that are not shown."""
    sign, words, style = _event_words(event)
    if not words:
        return None
    return _line(event, sign, words, style)


def _line(event: Event, sign: str, words: str, style: str) -> Content:
    then = local_time(event.time)
    moment = time.strftime("%H:%M:%S", then) if then else "--:--:--"
    return Content.assemble((f"{moment} ", "dim"), (f"{sign} {printable(words)}", style))


def _event_words(event: Event) -> tuple[str, str, str]:
    match event:
        case NoteEvent():
            return "·", event.text, ""
        case WarningEvent():
            return "!", event.text, "$text-warning"
        case OomEvent():
            return "✗", _("Out of memory at {0}").format(_at(event.step)) + f": {event.message}", "$text-error"
        case RetryEvent():
            return "▸", _("Continues: {0}").format(event.text), ""
        case ErrorEvent():
            hint = " ".join(event.hint.split("\n"))
            return "✗", f"{event.title}: {event.message} {hint}", "$text-error"
        case SavedEvent():
            return "✓", _("Saved and verified {0} ({1}), {2}").format(
                Path(event.path).name, size_text(event.bytes), _at(event.step)
            ), "$text-success"  # fmt: skip
        case StateSavedEvent():
            return "·", _("Full state saved, {0}").format(_at(event.step)), "dim"
        case SampleEvent():
            return "·", _("Sample of prompt {0}, {1}").format((event.index or 0) + 1, _at(event.step)), "dim"
        case ValidationEvent():
            return "●", _validation_words(event), ""
        case ChangedEvent():
            return "▸", event.text, ""
        case ControlAckEvent() if not event.repeats_change:
            return "▸", f"{COMMANDS.get(event.command, event.command)}: {answer_text(event.result)}", ""
        case RunStartedEvent():
            return "○", _("The trainer started: process {0}").format(event.pid or 0), ""
        case RunFinishedEvent():
            state = SIGNS.get(event.state, ("", event.state, ""))[1]
            return "■", _("{0} at {1}").format(state, _at(event.step)), ""
    return "", "", ""


def _validation_words(event: ValidationEvent) -> str:
    """The losses that were measured; a run without validation images has that of training images alone."""
    losses = (("loss", _("Validation loss {0}, {1}"), event.loss),
              ("train_loss", _("Loss on training images {0}, {1}"), event.train_loss))  # fmt: skip
    words, value = next(((words, value) for key, words, value in losses if key in event.data), ("", None))
    return words.format(_("not a number") if value is None else f"{value:.4f}", _at(event.step)) if words else ""


def _at(step: int | None) -> str:
    return _("step {0}").format(step or 0)


def oom_lines(oom: Shortage) -> list[str]:
    """What happened, where, and the numbers."""
    phase = phase_text(oom.phase or Phase.START)
    lines = [_("{0} ran out of memory at step {1}, while {2}.").format(
        printable(oom.device) or _("This machine"), oom.step, phase)]  # fmt: skip
    numbers = [
        (_("requested"), oom.requested),
        (_("free"), oom.free),
        (_("in all"), oom.total),
        (_("allocated by the training"), oom.allocated),
        (_("reserved by it"), oom.reserved),
    ]
    parts = [f"{size_text(value)} {word}" for word, value in numbers if value is not None]
    if parts:
        lines.append(" · ".join(parts))
    if oom.message:
        lines.append(printable(oom.message))
    return lines
