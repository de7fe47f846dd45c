"""The figures of a run before its start, as the review's cards show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.text import duration, plural, printable, size_text
from tui.texts import _

if TYPE_CHECKING:
    from engine.hardware import Gpu
    from tui.setup.forecast import Forecast
    from tui.setup.review_report import PlannedMemory, Report


@dataclass(frozen=True)
class Card:
    """What a card shows."""

    title: str
    figure: str
    """Short: a number with its unit."""
    text: str
    style: str = ""
    """Of the figure, as the style sheet names colours."""


CARDS = (_("Length"), _("Time"), _("Memory"), _("Disk"), _("Data"))


def cards(report: Report, vram: PlannedMemory | None) -> list[Card]:
    """The figures of a run, in the order of `CARDS`.

    Args:
        vram: None until it is planned.
    """
    checked, forecast = report.preflight, report.forecast
    plan, captions = checked.plan, checked.captions
    seconds, free = forecast.seconds, checked.need.free(checked.directory)
    images = checked.images.num_images
    with_trigger = captions.captioned - captions.without_trigger
    data = _("trigger {0} of {1}").format(with_trigger, captions.captioned)
    return [
        Card(CARDS[0], plural(plan.max_train_steps, _("step")), plural(plan.epochs, _("epoch"))),
        Card(CARDS[1], duration(seconds) if seconds is not None else _("unknown"),
             _time_text(forecast)),
        _memory_card(report.gpu, vram),
        Card(CARDS[3], size_text(checked.need.total), _("{0} free").format(size_text(free)),
             "$text-warning" if free < checked.need.total else ""),
        Card(CARDS[4], plural(images, _("image")), data if captions.captioned else _("no captions"),
             "$text-warning" if captions.without_trigger or not captions.captioned else ""),
    ]  # fmt: skip


def _time_text(forecast: Forecast) -> str:
    if forecast.seconds is None:
        return _("until it runs")
    if forecast.measuring < 1:
        return _("with samples")
    return _("{0} measuring").format(duration(forecast.measuring))


def _memory_card(gpu: Gpu | None, vram: PlannedMemory | None) -> Card:
    if gpu is None:
        return Card(CARDS[2], _("CPU"), _("no card is used"))
    has = _("of {0}").format(size_text(gpu.total)) if gpu.total is not None else printable(gpu.name)
    if vram is None:
        return Card(CARDS[2], _("planning …"), has)
    if vram.peak is None:
        return Card(CARDS[2], _("unknown"), has)
    fits = gpu.free is None or vram.peak <= gpu.free
    return Card(CARDS[2], size_text(vram.peak), has, "$text-success" if fits else "$text-warning")
