"""The length of a run in steps and in epochs, and what a longer one needs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.text import duration, plural
from tui.setup.draft import EPOCHS, STEPS
from tui.texts import _

MORE_EPOCHS = 3
"""Proposed on top of those that a run has."""


@dataclass(frozen=True)
class RunLength:
    """The length of a finished run, in the unit that it was set in."""

    in_epochs: bool
    steps: int
    """Made so far."""
    epochs: int | None = None
    """That the run has; None where it is not known, or the run was set in steps."""
    updates_per_epoch: int | None = None
    seconds_per_step: float | None = None

    @property
    def key(self) -> str:
        """The setting that decides."""
        return EPOCHS if self.in_epochs else STEPS

    @property
    def question(self) -> str:
        """What is asked, and what the run has now."""
        if self.in_epochs:
            has = _("It has {0} now.").format(self._both(self.epochs)) if self.epochs else ""
            return f"{_('Epochs of the whole run:')} {has}".rstrip()
        return f"{_('Steps of the whole run:')} {_('It has {0} now.').format(self._both(self.steps))}"

    @property
    def proposed(self) -> str:
        """Some epochs more, or half as many steps more."""
        if self.in_epochs:
            return str(self.epochs + MORE_EPOCHS) if self.epochs else ""
        return str(self.steps + max(1, self.steps // 2))

    def meaning(self, number: int) -> list[str]:
        """A new length in both units, and how long the steps that are added take."""
        per_epoch = self.updates_per_epoch
        steps = number * per_epoch if self.in_epochs and per_epoch else None if self.in_epochs else number
        lines = [_("In all: {0}.").format(self._both(number))] if per_epoch else []
        if steps is not None and self.seconds_per_step is not None and steps > self.steps:
            more = steps - self.steps
            words = _("{0} more take about {1}, without samples, saves and measuring.")
            lines.append(words.format(plural(more, _("step")), duration(more * self.seconds_per_step)))
        return lines

    def _both(self, number: int) -> str:
        """ "3 epochs (150 steps)", "30 steps (0.6 epochs)"; the other unit only where it is known."""
        per_epoch = self.updates_per_epoch
        own = plural(number, _("epoch") if self.in_epochs else _("step"))
        if not per_epoch:
            return own
        if self.in_epochs:
            return f"{own} ({plural(number * per_epoch, _('step'))})"
        epochs = number / per_epoch
        other = (
            _("{0} epochs").format(f"{epochs:.1f}") if number % per_epoch else plural(number // per_epoch, _("epoch"))
        )
        return f"{own} ({other})"
