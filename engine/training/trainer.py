"""The training loop: prepare, load the last checkpoint, train step by step to the end. Independent of the model
family."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from engine.config import load_config
from engine.errors import LoraSmithError, TrainingError
from engine.families.registry import family_named
from engine.oom.spill import SpillWatch
from engine.out_of_memory import is_out_of_memory
from engine.runs.control import Command
from engine.runs.events import RunStartedEvent, StepEvent
from engine.runs.resume import last_saved_step
from engine.training.attention import CudnnAttention
from engine.training.batch_source import BatchShape
from engine.training.changes import Changes
from engine.training.checkpoints import CheckpointStore
from engine.training.exactness import DeterministicStep, device_abilities
from engine.training.first_values import set_first_values
from engine.training.graphs import CudaCapturer, why_not
from engine.training.kept_caches import keep_small_caches
from engine.training.loggers import start_loggers
from engine.training.memory_use import memory_in_use
from engine.training.oom import free_memory, shortage_of
from engine.training.outcome import Outcome
from engine.training.outputs import Outputs
from engine.training.plan_check import PlanCheck
from engine.training.prepare import Prepared, prepare
from engine.training.recovery import LIMIT
from engine.training.run_reader import RunReader
from engine.training.session import Session, Stopped, phase_of, stop_reason
from engine.training.step import TrainStep, objective_for
from engine.training.train_state import TrainState

PAUSE_SECONDS = 0.3


def train(session: Session, reader: RunReader | None = None) -> bool:
    """Train the run of `session`; True when it is complete, False when it was stopped with everything saved.

    Args:
        reader: of the run, if it was begun before.

    Raises:
        LoraSmithError: an error that the user has to fix.
    """
    session.state.update(state="starting", force=True)
    config = load_config(session.run.config_path)
    session.events.emit(RunStartedEvent(name=session.run.name, pid=session.pid, step=session.step))
    if session.is_main:
        start_loggers(session, config, session.events.last_seq)
    try:
        prepared = prepare(session, reader)
    except Stopped:
        session.log(f"Stopped before the first step ({session.stop_reason}).")
        return False
    return Trainer(session, prepared).run()


class Trainer:
    """Trains one run from its last checkpoint to its end."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        config, batches, self.device = prepared.config, prepared.batches, prepared.accelerator.device
        self.session, self.prepared, self.batches = session, prepared, batches
        self.ranks = prepared.ranks
        self.objective = objective = objective_for(config, prepared.model, self.device)
        self.state = TrainState(prepared)
        flags = family_named(prepared.recognition.family).spec.prompt_flags
        self.changes = Changes(session, self.state, batches, self.ranks, flags)
        self.checkpoints = CheckpointStore(session, config, prepared.inputs)
        self.outputs = Outputs(session, prepared, self.state, self.changes, self.checkpoints, objective)
        self.train_step = TrainStep(prepared, self.state, self.ranks, objective)
        half, strict, log = prepared.precision != "no", config.memory.deterministic, session.log
        masked, able = prepared.model.masks_attention, device_abilities(self.device)
        self.deterministic = DeterministicStep(self.device, strict, half=half, masked=masked, log=log)
        self.attention = CudnnAttention(self.device, able, half=half, in_any_order=not strict, log=log)
        self.spill = SpillWatch(lambda: torch.cuda.mem_get_info(self.device))
        self.unread: Outcome | None = None
        """The last update, where it is read late."""
        self.read_at = 0.0
        self.durations: deque[float] = deque(maxlen=50)
        self.commands: deque[Command] = deque()
        self._unshared: list[Command] = []
        """Commands that the other ranks do not know yet."""

    @property
    def step(self) -> int:
        """Number of updates made so far."""
        return self.state.step

    def run(self) -> bool:
        """Continue from the last checkpoint to the end; False when a stop was requested."""
        plan = self.changes.plan_at(last_saved_step(self.session.run))
        lengths = {key: getattr(plan, key) for key in ("max_train_steps", "epochs", "updates_per_epoch")}
        try:
            with self.session.phase("train", **lengths), self.train_step.loader:
                return self._loop()
        except Exception as error:
            if is_out_of_memory(error):
                self._save_before_exit(error)
            raise

    def _loop(self) -> bool:
        try:
            self.restore()
        except Stopped:
            self.session.log(f"Stopped before the first step ({self.session.stop_reason}).")
            return False
        self._use_graphs()
        if self.attention.wanted:
            self.attention.probe(self._forward_passes())
        self.outputs.resume()
        config = self.state.config
        kept = keep_small_caches(self.prepared, config, self.session.log)
        check = PlanCheck.of(self.session, self.prepared, config, kept) if self.session.is_main else None
        self.changes.apply_due()
        while self.step < self.state.plan.max_train_steps:
            if not self.advance():
                self.outputs.save_now()
                self.session.log(f"Stopped after step {self.step} ({self.session.stop_reason}); everything is saved.")
                return False
            self.changes.apply_due()
        self.outputs.write_final()
        if check is not None:
            check.report()
        return True

    def restore(self) -> None:
        """Continue from the last checkpoint; without one from the settings at the start."""
        if not self.checkpoints.load(self.state, self.changes):
            self.changes.restore_settings()
            set_first_values(self.session, self.prepared, self.state, self.ranks, self.objective)
        self.state.weights_consistent = True
        self.state.train()
        last = self.changes.last_step()
        self.session.state.update(state="running", step=self.step, max_train_steps=last, force=True)

    def advance(self) -> bool:
        """Execute pending commands, make one update, report it, write due outputs; False when a stop was requested.

        Where updates are read late, the one before is reported while this one computes. It is read at once if what
        follows depends on it.
        """
        if self._poll_commands() or not self._encode_missing():
            self._read()
            return False
        with self.attention.allowed_for(self.batches.shapes(self.step)):
            made = self.deterministic(self.train_step, self.state.zero_grad)
        self.state.zero_grad()
        self.state.progress.step += 1
        self.state.weights_consistent = True
        before, self.unread = self.unread, made
        if before is not None and self._finish(before):
            return True
        due = self.outputs.due()
        if (due or not self.train_step.reads_late or self.changes.are_due() or self._is_last()) and self._read():
            return True
        self.outputs.write(due)
        if self.state.config.training.early_stop:
            self._end_early()
        return True

    def _is_last(self) -> bool:
        return self.step >= self.state.plan.max_train_steps

    def _read(self) -> bool:
        """Finish the update that is not read yet, if there is one; True if the run was rolled back."""
        made, self.unread = self.unread, None
        return made is not None and self._finish(made)

    def _finish(self, made: Outcome) -> bool:
        """Read an update and report it; True if the run was rolled back, also behind a later update."""
        problem = self.state.recovery.problem_of(made.loss, made.grad_norm, scaled=self.state.scaler is not None)
        if problem:
            self.attention.give_up()
            self.state.forget_recordings()
            if self._skip(made, problem):
                return True
        self.session.step = made.step + 1
        now = time.perf_counter()
        self.durations.append(now - max(made.started, self.read_at))
        self.read_at = now
        if self.device.type == "cuda" and (text := self.spill.slow_step_warning(self.durations[-1])):
            self.session.warn("spill", text, once=True)
        self._report(made)
        return False

    def _use_graphs(self) -> None:
        """Launch steps as CUDA graphs, if the settings say so and the run allows it."""
        config, state = self.state.config, self.state
        model, encoders = self.prepared.model, self.batches.uncached_encoders
        if config.memory.cuda_graphs == "off":
            return
        reason = why_not(
            config,
            state.layout,
            device=self.device,
            updates=state.plan.max_train_steps - self.step,
            parts=[*(model.text_encoders[name] for name in encoders), list(model.trainable.values())[-1]],
            tokenises=bool(encoders) and not model.tokens([""], encoders),
        )
        if reason:
            self.session.log(f"Training steps are not launched as CUDA graphs: {reason}.")
        else:
            self.train_step.use_graphs(CudaCapturer(), self.session.log, exact=self.deterministic.is_exact)

    def _forward_passes(self) -> dict[BatchShape, Callable[[], object]]:
        """Each shape of a batch in the rest of the run, with the forward pass of the first one."""
        passes: dict[BatchShape, Callable[[], object]] = {}
        for step in range(self.step, self.state.plan.max_train_steps):
            for micro, shape in enumerate(self.batches.shapes(step)):
                passes.setdefault(shape, partial(self.train_step.loss, micro, step))
        return passes

    def _encode_missing(self) -> bool:
        """Encode images that the run needs from this update on and that were not encoded before the first step (the run
        was made longer); False when a stop was requested meanwhile."""
        latents = self.prepared.latents
        if latents is None or not latents.missing(self.batches.directions(self.step)):
            return True
        # Several ranks have to stop together, between two updates: see `_take_commands`.
        return latents.add(self.batches.items, self.batches.reached(self.step), stoppable=self.ranks.size == 1)

    def _skip(self, made: Outcome, what: str) -> bool:
        """Report a step that was skipped as its loss or gradients are not finite; after `LIMIT` in a row roll back.
        Returns whether the run was rolled back."""
        names = ", ".join(
            sorted({self.batches.items[i].image.path.name for b in self.batches.micro_batches(made.step) for i in b})
        )
        recovery = self.state.recovery
        rolled_back = recovery.count_bad()
        self.session.warn(
            "non_finite_loss",
            f"Step {made.step + 1} is skipped: {what} ({recovery.in_a_row} of {LIMIT} in a row). Images: {names}.",
        )
        if rolled_back:
            self._roll_back()
        return rolled_back

    def _roll_back(self) -> None:
        """Continue from the newest checkpoint with half the learning rate.

        Raises:
            TrainingError: the run was rolled back before, or there is no checkpoint.
        """
        state, recovery = self.state, self.state.recovery
        self.unread, state.weights_consistent = None, False
        recovery.roll_back(self.prepared.precision, state.rates())
        state.zero_grad()
        if self.session.copies is not None:
            self.session.copies.send()
        if not self.checkpoints.load(state, self.changes, quiet=True):
            raise TrainingError(
                "The loss is not finite, and there is no saved state to go back to.",
                "See the warnings before.",
                code="loss-not-finite-without-state",
            )
        state.recovery, state.weights_consistent = recovery, True
        for group in state.groups:
            state.scale_rate(group, 0.5)
        self.ranks.broadcast(None)  # a barrier: every rank has read the old checkpoint before it is replaced
        self.session.warn("went_back", f"Back to step {self.step} with half the learning rate: {state.rates_text()}.")
        self.checkpoints.save(state)

    def _report(self, made: Outcome) -> None:
        progress, step = self.state.progress, made.step + 1
        if math.isfinite(made.loss):
            progress.average(made.loss)
        epoch = self.state.plan.place(made.step)[0]
        seconds = statistics.median(self.durations)
        optional = {key: value for key, value in (("d", made.factors), ("norms", made.norms)) if value}
        images = sum(len(batch) for batch in self.batches.micro_batches(made.step)) * self.batches.num_processes
        self.session.events.emit(
            StepEvent(
                step=step,
                epoch=epoch,
                loss=made.loss,
                loss_average=progress.loss_average,
                lr=made.rates,
                grad_norm=made.grad_norm,
                images_per_second=images / seconds,
                seconds_per_step=seconds,
                eta_seconds=seconds * (self.state.plan.max_train_steps - step) + self.outputs.seconds_left(),
                memory=memory_in_use(self.device, self.session.peaks),
                **optional,
            )
        )
        self.session.state.update(step=step, epoch=epoch)

    def _end_early(self) -> None:
        """End the run, by a change of its length, if its newest files are no better than an older one."""
        if not self.outputs.check_is_due():
            return
        reason = self.ranks.broadcast(self.outputs.past_best() if self.session.is_main else "")
        if not reason or self.step + 1 >= self.state.plan.max_train_steps:
            return
        self.session.log(f"{reason} Early stop: {self.changes.request('training.max_train_steps', self.step + 1)}")

    def _save_before_exit(self, error: Exception) -> None:
        """Save the last good step, if memory ran out in the step after it and the weights are still those of that
        step."""
        shortage_of(self.session, error)
        if phase_of(error) not in ("train", "cache") or not self.state.weights_consistent or not self.session.is_main:
            return
        free_memory(error)
        self.state.zero_grad()
        try:
            if not self._read():
                self.checkpoints.save_if_new(self.state)
        except (LoraSmithError, MemoryError, RuntimeError) as second:
            self.session.log(f"The state of step {self.step} could not be saved: {second}")

    def _poll_commands(self) -> bool:
        """Execute the commands in the control box; True when the run has to stop."""
        if not self._take_commands():
            return False
        if self.commands:
            self._read()
        while self.commands:
            self._execute(self.commands.popleft())
        if self.session.stop_reason:
            self.session.state.update(state="stopping")
        return bool(self.session.stop_reason)

    def _take_commands(self, *, now: bool = False) -> bool:
        """Take rank 0's new commands, at most five times a second, and its reason to stop, to every rank.

        Rank 0 announces them with the loss of a step (`Ranks.combine`), so that a step costs no message more; before
        the next step they are exchanged.

        Args:
            now: exchange them, announced or not; on every rank.

        Returns:
            whether they were exchanged: what only rank 0 knows must not decide anything.
        """
        session, ranks = self.session, self.ranks
        self._unshared.extend(session.control.poll())
        if ranks.size > 1 and not (now or ranks.announced):
            ranks.announces = bool(self._unshared or session.stop_reason)
            return False
        ranks.announces = ranks.announced = False
        commands, session.stop_reason = ranks.broadcast((self._unshared, session.stop_reason))
        self._unshared = []
        self.commands.extend(commands)
        return True

    def _execute(self, command: Command) -> None:
        session = self.session
        if command.name == "stop":
            session.request_stop(stop_reason(command), command)
        elif command.name == "save_now":
            self.outputs.save_now()
            session.control.acknowledge(command, "done")
        elif command.name == "sample_now":
            self.outputs.sample_now()
            session.control.acknowledge(command, "done")
        elif command.name == "pause":
            session.control.acknowledge(command, "done")
            self._pause()
        elif command.name == "set":
            session.control.acknowledge(command, self.changes.request(command.value["key"], command.value["value"]))
        else:
            session.control.acknowledge(command, "refused: nothing to continue")

    def _pause(self) -> None:
        self.checkpoints.save(self.state)
        self.session.state.update(state="paused")
        while not self.session.stop_reason:
            while self.commands:
                command = self.commands.popleft()
                if command.name == "continue":
                    self.session.control.acknowledge(command, "done")
                    self.session.state.update(state="running")
                    return
                if command.name == "pause":
                    self.session.control.acknowledge(command, "done: the run was paused already")
                else:
                    self._execute(command)
            time.sleep(PAUSE_SECONDS)
            self._take_commands(now=True)
