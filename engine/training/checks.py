"""The checks of a run: when and with which probes its weights are measured, and the events with the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from engine.config.changes import EffectiveConfig
from engine.dataset.arithmetic import StepPlan
from engine.results.check_plan import CheckPlan, plan_checks
from engine.runs.events import Event, MeasuresEvent, ValidationEvent
from engine.training.measuring import Meter, disable_adapter
from engine.training.objective import Objective
from engine.training.prepare import Prepared

Emit = Callable[[Event], None]
"""Appends an event."""


class Checks:
    """Measures the run by a plan that is updated when its settings or its length change.

    Args:
        prepared: the images and the model.
        emit: writes an event.
        report: the progress of a check, in images.
    """

    def __init__(
        self, prepared: Prepared, objective: Objective, emit: Emit, report: Callable[[int, int], None]
    ) -> None:
        self._prepared, self._objective, self._emit, self._report = prepared, objective, emit, report
        self._plan: CheckPlan | None = None
        self._meter: Meter | None = None
        self._of: tuple[EffectiveConfig, StepPlan] | None = None

    def follow(self, config: EffectiveConfig, length: StepPlan) -> CheckPlan | None:
        """Update the plan of checks to these settings and this length, and return it."""
        if self._of is None or config is not self._of[0] or length is not self._of[1]:
            probes = self._prepared.probes
            validation = sum(probe.is_validation for probe in probes)
            plan = plan_checks(config, length, validation=validation, training=len(probes) - validation)
            if plan is None:
                self._meter = None
            elif self._meter is None or plan.scope != self._meter.scope:
                self._meter = Meter(self._prepared, self._objective, plan.scope, self._report)
            self._of, self._plan = (config, length), plan
        return self._plan

    def loss_due(self, config: EffectiveConfig, step: int, epoch: int) -> bool:
        """Whether the losses are due: at the start, at every check, and, if the user chose the validation images, at
        the configured interval.

        Args:
            epoch: the epoch that ends with this step; 0 when none does.
        """
        training = config.training
        if step == 0 or self.measures_due(step):
            return True
        if config.sets_aside:
            return False
        if training.validate_every_n_steps:
            return step % training.validate_every_n_steps == 0
        return bool(epoch and training.validate_every_n_epochs and epoch % training.validate_every_n_epochs == 0)

    def measures_due(self, step: int) -> bool:
        """Whether a check is due."""
        return self._plan is not None and step in self._plan.steps

    def losses(self, step: int, epoch: int) -> None:
        """Emit the losses of this step, if there are images to measure them on."""
        if self._meter is None:
            return
        started, passes = time.perf_counter(), self._meter.passes
        losses = self._meter.losses()
        if losses and step == 0 and self._prepared.config.network.network_weights:
            with disable_adapter(self._prepared.network):  # without network_weights step 0 is the base model
                base = self._meter.losses()
            losses |= {f"base_{key}": base[key] for key in ("loss", "train_loss") if key in base}
        if losses:
            seconds = time.perf_counter() - started
            passes = self._meter.passes - passes
            self._emit(ValidationEvent(step=step, epoch=epoch, **_by_timestep(losses), passes=passes, seconds=seconds))

    def measures(self, step: int, epoch: int) -> None:
        """Emit how much the weights of this step changed the model's predictions."""
        if self._meter is not None:
            passes = self._meter.passes
            measures = self._meter.measures()
            self._emit(MeasuresEvent(step=step, epoch=epoch, **measures, passes=self._meter.passes - passes))


def _by_timestep(losses: Mapping[str, float]) -> dict[str, Any]:
    """The result of `Meter.losses` as fields of a `ValidationEvent`, in the same order."""
    fields: dict[str, Any] = {}
    for key, value in losses.items():
        name, _, timestep = key.partition("loss_t")
        if timestep:
            fields.setdefault(f"{name}losses_by_timestep", {})[int(timestep)] = value
        else:
            fields[key] = value
    return fields
