"""What a run writes, and at which step: checkpoints, LoRA files, measures, samples. After a restart nothing is written
a second time for the same step."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from engine.config.changes import EffectiveConfig
from engine.results.check_plan import CheckPlan
from engine.results.record import read_run
from engine.results.verdict import past_best
from engine.text import duration, percent, two_digits
from engine.training.changes import Changes
from engine.training.checkpoints import CheckpointStore
from engine.training.checks import Checks
from engine.training.evaluation import Evaluation
from engine.training.lora_files import LoraFiles
from engine.training.objective import Objective
from engine.training.prepare import Prepared
from engine.training.samples import Samples
from engine.training.session import Session
from engine.training.train_state import TrainState
from engine.training.written import WrittenOutputs

_MUCH_MORE = 1.5
"""Times the planned duration of measuring: beyond that a sentence explains it."""


@dataclass(frozen=True)
class Due:
    """What is to be written at one step; false if that is nothing."""

    state: bool = False
    epoch: int = 0
    """That ends with the step; 0 if none does."""
    file_of_epoch: bool = False
    file_of_step: bool = False
    checks: bool = False
    samples: bool = False

    def __bool__(self) -> bool:
        return self.state or self.file_of_epoch or self.file_of_step or self.checks or self.samples


class Outputs:
    """The outputs of one run, in the order checkpoint, LoRA, measures, samples at each step; rank 0 alone writes them.

    Args:
        prepared: the images and the model.
        state: the weights and the current settings.
        changes: the current prompts, and the step at which the run ends.
    """

    def __init__(
        self,
        session: Session,
        prepared: Prepared,
        state: TrainState,
        changes: Changes,
        checkpoints: CheckpointStore,
        objective: Objective,
    ) -> None:
        self.session, self.run = session, session.run
        self.state, self.changes, self.checkpoints = state, changes, checkpoints
        self.written = WrittenOutputs()
        self.evaluation = Evaluation(session, state)
        self.checks = Checks(prepared, objective, session.events.emit, session.progress("validate", "images"))
        self.files = LoraFiles(session, prepared, state, self.evaluation, self.written)
        self.samples = Samples(session, prepared, state, changes, self.evaluation, self.files, self.written)
        self._begun = time.perf_counter()
        """When this process began to train."""
        self._check_plan: CheckPlan | None = None
        """The last reported one."""

    @property
    def config(self) -> EffectiveConfig:
        """The current settings."""
        return self.state.config

    def resume(self) -> None:
        """Write the outputs of the restored step that an earlier process did not write."""
        self._begun = time.perf_counter()
        self.written.read(self.run, self.state.step)
        self.write(self.due())

    def due(self) -> Due:
        """What is to be written at this step; nothing on the other ranks."""
        if not self.session.is_main:
            return Due()
        saving, step = self.config.saving, self.state.step
        interval = saving.save_state_every_n_steps
        due = Due(state=step == 0 or bool(interval and step % interval == 0))
        if step == self.changes.last_step():
            return due
        epoch = self._ended_epoch()
        return replace(
            due,
            epoch=epoch,
            file_of_epoch=bool(saving.save_every_n_epochs and epoch and epoch % saving.save_every_n_epochs == 0),
            file_of_step=bool(saving.save_every_n_steps and step and step % saving.save_every_n_steps == 0),
            checks=self._checks_due(epoch),
            samples=self._samples_due(epoch),
        )

    def write(self, due: Due) -> None:
        """Write what is due at this step."""
        if due.state:
            self.checkpoints.save_if_new(self.state)
        if due.file_of_epoch:
            self.files.save_of_epoch(due.epoch)
        if due.file_of_step:
            self.files.save_of_step(self.state.step)
        if due.checks:
            self.check(due.epoch)
        if due.samples:
            self.samples.generate(due.epoch if self.config.sampling.sample_every_n_epochs else None)

    def write_final(self) -> None:
        """Write the final LoRA, its measures and samples, and the last checkpoint."""
        if not self.session.is_main:
            return
        self.checkpoints.save_if_new(self.state)
        self.files.save(self.run.lora_path())
        self._follow_plan()
        self.check()
        sampling = self.config.sampling
        if sampling.sample_every_n_steps or sampling.sample_every_n_epochs:
            self.samples.generate()
        if measured := self.evaluation.total_seconds("validate") + self.samples.measuring_seconds:
            steps = time.perf_counter() - self._begun - self.evaluation.total_seconds()
            self.session.log(
                f"Measuring took {duration(measured)} since this start, which adds {percent(measured / steps)} to the "
                f"time of the steps.{self._beyond_plan(steps)}"
            )

    def _beyond_plan(self, steps: float) -> str:
        """Why measuring took far more than planned; empty where it did not.

        Args:
            steps: seconds of the steps since this start.
        """
        planned = self._check_plan.share if self._check_plan is not None else 0.0
        measured = self.evaluation.total_seconds("validate") / steps
        if not planned or measured < _MUCH_MORE * planned:
            return ""
        return (
            f" Planned was {percent(planned)}: the passes of measuring took {two_digits(measured / planned)} times as "
            "long as the steps let expect, as happens with small images, or when other programs keep the machine busy."
        )

    def save_now(self) -> None:
        """Write a checkpoint and a LoRA of this step: when the run is stopped, or at the user's request."""
        if not self.session.is_main:
            return
        self.checkpoints.save_if_new(self.state)
        if self.state.step:
            self.files.save(self.run.lora_path(step=self.state.step))

    def sample_now(self) -> None:
        """Generate the samples of this step, at the user's request."""
        if self.session.is_main:
            self.samples.generate()

    def check(self, ended_epoch: int = 0) -> None:
        """Measure the weights if that is due and not done yet."""
        step, checks = self.state.step, self.checks
        if self._losses_due(ended_epoch) and not self.written.has("validation", step):
            with self.evaluation.phase("validate"):
                checks.losses(step, self.state.epoch)
        if checks.measures_due(step) and not self.written.has("measures", step):
            with self.evaluation.phase("validate"):
                checks.measures(step, self.state.epoch)

    def _checks_due(self, epoch: int) -> bool:
        self._follow_plan()
        return self._losses_due(epoch) or self.checks.measures_due(self.state.step)

    def _losses_due(self, epoch: int) -> bool:
        step = self.state.step
        return self.checks.loss_due(self.config, step, epoch) or step == self.state.plan.max_train_steps

    def _follow_plan(self) -> None:
        """Report the plan of checks for the current settings and length, if it is another one."""
        plan = self.checks.follow(self.config, self.state.plan)
        if plan is not None and plan.steps and plan != self._check_plan:
            self.session.log(plan.text)
        self._check_plan = plan

    def check_is_due(self) -> bool:
        """Whether the weights of this step are measured; called on every rank."""
        self.checks.follow(self.config, self.state.plan)
        return self.checks.measures_due(self.state.step)

    def past_best(self) -> str:
        """Why more training is not expected to give a better file; empty if it may."""
        return past_best(read_run(self.run).assessment)

    def _ended_epoch(self) -> int:
        """The epoch that ends with this step; 0 if none does."""
        epoch, inside = self.state.plan.place(self.state.step)
        return epoch - 1 if self.state.step and inside == 0 else 0

    def _samples_due(self, epoch: int) -> bool:
        sampling, step = self.config.sampling, self.state.step
        if step == 0:
            return sampling.sample_at_first and bool(sampling.sample_every_n_steps or sampling.sample_every_n_epochs)
        if sampling.sample_every_n_epochs:
            return bool(epoch and epoch % sampling.sample_every_n_epochs == 0)
        return bool(sampling.sample_every_n_steps and step % sampling.sample_every_n_steps == 0)

    def seconds_left(self) -> float:
        """Estimated seconds for the remaining saves, samples and measures."""
        state, config = self.state, self.config
        remaining, updates = state.plan.max_train_steps - state.step, state.plan.updates_per_epoch
        sampling, saving, training = config.sampling, config.saving, config.training
        intervals = {
            "sample": (sampling.sample_every_n_epochs or 0) * updates or sampling.sample_every_n_steps,
            "save": saving.save_every_n_steps or saving.save_every_n_epochs * updates,
            "validate": training.validate_every_n_steps or training.validate_every_n_epochs * updates,
        }
        return sum(
            self.evaluation.usual_seconds(phase) * (remaining // interval + 1)
            for phase, interval in intervals.items()
            if interval
        )
