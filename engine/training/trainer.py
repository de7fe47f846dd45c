"""The loop: prepare, restore, step by step to the end. It knows no family by name."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque

import torch
from pydantic import ValidationError

from engine.config import RunConfig, load_config
from engine.errors import TrainingError
from engine.memory.classify import is_out_of_memory
from engine.memory.spill import SpillWatch
from engine.runs.control import Command
from engine.training.exactness import Exactly
from engine.training.exhausted import rescue
from engine.training.loss import batch_loss
from engine.training.measured import PhasePeaks, PlanCheck
from engine.training.objectives import objective_for
from engine.training.optimizers import build_optimizer
from engine.training.outputs import Outputs
from engine.training.prepare import Prepared, prepare
from engine.training.processes import Helper, Team, require_processors, start_others
from engine.training.recovery import LIMIT, Recovery
from engine.training.schedules import build_schedule, steps_per_update
from engine.training.seeds import derive, generator
from engine.training.session import Session, Stopped
from engine.training.states import Progress, StateStore

PAUSE_SECONDS = 0.3


def train(session: Session) -> bool:
    """Train the run of `session`; True when it came to its end, False when it was stopped with everything saved.

    Raises:
        LoraSmithError: what the person must mend.
    """
    session.state.update(state="starting", force=True)
    config = load_config(session.run.config_path)
    if config.training.num_processes > 1 and not isinstance(session, Helper):
        require_processors(config)
        start_others(session, config.training.num_processes)
    session.events.emit("run_started", name=session.run.name, pid=os.getpid(), step=session.step)
    try:
        prepared = prepare(session)
    except Stopped:
        session.say(f"Stopped before the first step ({session.stop_reason}).")
        return False
    return Trainer(session, prepared).run()


class Trainer:
    """One run from its last state to its end."""

    def __init__(self, session: Session, prepared: Prepared) -> None:
        config = prepared.config
        self.session, self.prepared, self.config = session, prepared, config
        self.plan, self.feed, self.model, self.network = prepared.plan, prepared.feed, prepared.model, prepared.network
        self.accelerator = prepared.accelerator
        self.device = self.accelerator.device
        self.team = Team(self.accelerator)
        self.objective = objective_for(config.training, self.model, self.device)
        self.parameters = self.network.parameters()
        groups = self.network.parameter_groups()
        self.groups = [str(group["name"]) for group in groups]
        self.built = build_optimizer(config.training.optimizer_type, config.training.optimizer_args, groups)
        self.schedule_steps = steps_per_update(config.training)
        self.schedule = build_schedule(config.training, self.built, self.plan.max_train_steps * self.schedule_steps)
        self.optimizer = self.accelerator.prepare_optimizer(self.built.optimizer)
        self.recovery = Recovery()
        self.progress = Progress()
        self.states = StateStore(self)
        self.outputs = Outputs(self)
        self.durations: deque[float] = deque(maxlen=50)
        flash = prepared.precision != "no" and not config.model.apply_t5_attn_mask
        self.exactly = Exactly(self.device, config.memory.deterministic, flash, session.say)
        self.spill = SpillWatch(lambda: torch.cuda.mem_get_info(self.device))
        self.grad_norm = math.nan
        self.wishes: deque[Command] = deque()
        self.used_rates: dict[str, float] = {}
        self.whole = False
        """Whether the weights are those of `step`: not while a state is read or an update is applied."""

    @property
    def step(self) -> int:
        """Updates made so far."""
        return self.progress.step

    def run(self) -> bool:
        """Go on from the last state to the end; False when a stop was asked for."""
        plan = self.plan
        lengths = {key: getattr(plan, key) for key in ("max_train_steps", "epochs", "updates_per_epoch")}
        try:
            with self.session.phase("train", **lengths):
                return self._go_on()
        except Exception as error:
            if is_out_of_memory(error):
                rescue(self, error)
            raise

    def _go_on(self) -> bool:
        self.begin()
        check = PlanCheck.of(self.session, self.prepared) if self.team.leads else None
        while self.step < self.plan.max_train_steps:
            if not self.advance():
                self.outputs.on_stop()
                self.session.say(f"Stopped after step {self.step} ({self.session.stop_reason}); everything is saved.")
                return False
        self.outputs.at_end()
        if check is not None:
            check.tell()
        return True

    def begin(self) -> None:
        """Restore the last state, and give what is due there."""
        self.states.restore_latest()
        self.whole = True
        self.training_mode(True)
        last = self.plan.max_train_steps
        self.session.state.update(state="running", step=self.step, max_train_steps=last, force=True)
        self.outputs.resume()

    def advance(self) -> bool:
        """Obey the control box, make one update, tell it, give what is due; False when a stop was asked for."""
        if self._attend():
            return False
        started = time.perf_counter()
        loss = self.exactly(self._update, lambda: self.optimizer.zero_grad(set_to_none=True))
        if loss is not None:
            self.durations.append(time.perf_counter() - started)
            if self.device.type == "cuda" and (told := self.spill.sees(self.durations[-1])):
                self.session.warn("spill", told, once=True)
            self._report(loss)
            self.outputs.after_step()
        return True

    def training_mode(self, mode: bool) -> None:
        """Dropouts on or off, schedule-free weights for training or for use."""
        for component in self.model.trainable.values():
            component.train(mode)
        self.network.train(mode)
        # Outside autocast a layer must cast its own input where the base is in half precision.
        self.network.rely_on_autocast(mode and self.prepared.precision != "no")
        if self.built.schedule_free:
            (self.built.optimizer.train if mode else self.built.optimizer.eval)()  # type: ignore[attr-defined]

    def _update(self) -> float | None:
        """One optimizer update; returns the mean loss, None when the run went back to an older state."""
        batches = self.feed.micro_batches(self.step)
        training = self.config.training
        # Kohya divides the gradients of an epoch's last update by the number of batches that it should have had.
        whole = training.gradient_accumulation_steps if training.kohya_exact else len(batches)
        total = torch.zeros((), device=self.device)
        for micro, indices in enumerate(batches):
            loss = self._loss(micro, indices)
            self.accelerator.backward(loss / whole)
            total += loss.detach() / len(batches)
        value = self.team.mean(total)
        if math.isfinite(value):
            self.team.average_gradients(self.parameters)
            self._clip()
            finite, scaler = math.isfinite(self.grad_norm), self.accelerator.scaler
            if finite or scaler is not None:
                self._apply(finite)
            # With a scaler some overflowing gradients are normal: it skips the step and halves its scale.
            if self.recovery.overflow(finite) if scaler is not None else finite:
                self.recovery.good()
            elif self._skip(f"gradient norm {self.grad_norm}"):
                return None
        elif self._skip(f"loss {value}"):
            return None
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.whole = True
        self.session.step = self.step
        return value

    def _loss(self, micro: int, indices: list[int]) -> torch.Tensor:
        """Mean weighted loss of one micro-batch; all its random draws follow from the step's number."""
        seed, rank = self.config.training.seed, self.feed.rank
        draws = generator(seed, "step", self.step, micro, rank)
        torch.manual_seed(derive(seed, "dropout", self.step, micro, rank))
        batch = self.feed.load(indices, self.step, draws)
        return batch_loss(
            self.model,
            self.objective,
            batch,
            draws,
            live=self.feed.live,
            trained=self.groups,
            autocast=self.accelerator.autocast(),
        )

    def _clip(self) -> None:
        limit = self.config.training.max_grad_norm
        if limit > 0:
            norm = self.accelerator.clip_grad_norm_(self.parameters, limit)
            self.grad_norm = float(norm) if norm is not None else math.nan
        else:
            self.accelerator.unscale_gradients(self.optimizer)
            self.grad_norm = float(
                torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            )

    def _apply(self, finite: bool) -> None:
        """Step; with a scaler and gradients that are not finite, the scaler skips it, and so does the schedule."""
        self.used_rates = self.rates()
        self.whole = False
        self.optimizer.step()
        if not finite:
            return
        if self.schedule is not None:
            for _ in range(self.schedule_steps):
                self.schedule.step()
        if self.config.network.scale_weight_norms is not None:
            self.network.apply_max_norm(self.config.network.scale_weight_norms)

    def _skip(self, what: str) -> bool:
        """A step that is not a number: skip it; after some in a row go back. Returns whether the run went back."""
        names = ", ".join(
            sorted({self.feed.items[i].picture.path.name for b in self.feed.micro_batches(self.step) for i in b})
        )
        back = self.recovery.bad()
        self.session.warn(
            "non_finite_loss",
            f"Step {self.step + 1} is skipped: {what} ({self.recovery.in_a_row} of {LIMIT} in a row). "
            f"Pictures: {names}.",
        )
        if not back:
            return False
        self.whole = False
        self.recovery.go_back(self.prepared.precision, self.rates())
        self.optimizer.zero_grad(set_to_none=True)
        went_back = self.recovery
        if not self.states.restore_latest(quiet=True):
            raise TrainingError(
                "The loss is not finite, and there is no state to go back to.", "See the warnings before."
            )
        self.recovery, self.whole = went_back, True
        for name in self.groups:
            self.scale_rate(name, 0.5)
        self.team.share(None)  # all have read the old state before the new one replaces it
        self.session.warn("went_back", f"Back to step {self.step} with half the learning rate: {self.rates_text()}.")
        self.states.save()
        return True

    def rates(self) -> dict[str, float]:
        """Current learning rate of each group; Prodigy's own factor counts."""
        return {
            name: float(group["lr"] or 0.0) * float(group.get("d", 1.0))
            for name, group in zip(self.groups, self.built.optimizer.param_groups, strict=True)
        }

    def rates_text(self) -> str:
        """The rates in words."""
        return ", ".join(f"{name} {rate:.3g}" for name, rate in self.rates().items())

    def scale_rate(self, name: str, factor: float) -> None:
        """Multiply a group's learning rate, now and in the rest of the schedule."""
        index = self.groups.index(name)
        group = self.built.optimizer.param_groups[index]
        for key in ("lr", "initial_lr"):
            if group.get(key) is not None:
                group[key] *= factor
        if self.schedule is not None:
            self.schedule.base_lrs[index] *= factor

    def _report(self, loss: float) -> None:
        progress = self.progress
        if math.isfinite(loss):
            progress.average(loss)
        seconds = statistics.median(self.durations)
        epoch = self.feed.epoch(self.step - 1)
        pictures = sum(len(batch) for batch in self.feed.micro_batches(self.step - 1)) * self.feed.num_processes
        self.session.events.emit(
            "step",
            step=self.step,
            epoch=epoch,
            loss=loss,
            loss_average=progress.loss_average,
            lr=self.used_rates,
            grad_norm=self.grad_norm,
            images_per_second=pictures / seconds,
            seconds_per_step=seconds,
            eta_seconds=seconds * (self.plan.max_train_steps - self.step) + self.outputs.seconds_left(),
            memory=_memory(self.device, self.session.peaks),
        )
        self.session.state.update(step=self.step, epoch=epoch)

    def _attend(self) -> bool:
        """Obey the control box; True when the run shall stop."""
        self._take_wishes()
        while self.wishes:
            self._obey(self.wishes.popleft())
        if self.session.stop_reason:
            self.session.state.update(state="stopping")
        return bool(self.session.stop_reason)

    def _take_wishes(self) -> None:
        taken = (self.session.control.take(), self.session.stop_reason)
        commands, self.session.stop_reason = self.team.share(taken)
        self.wishes.extend(commands)

    def _obey(self, command: Command) -> None:
        session = self.session
        if command.name == "stop":
            session.ask_to_stop("asked to stop", command)
        elif command.name == "save_now":
            self.outputs.save_now()
            session.control.acknowledge(command, "done")
        elif command.name == "sample_now":
            self.outputs.sample()
            session.control.acknowledge(command, "done")
        elif command.name == "pause":
            session.control.acknowledge(command, "done")
            self._pause()
        elif command.name == "set":
            session.control.acknowledge(command, self._set(command.value["key"], command.value["value"]))
        else:
            session.control.acknowledge(command, "refused: nothing to continue")

    def _pause(self) -> None:
        self.states.save()
        self.session.state.update(state="paused")
        while not self.session.stop_reason:
            while self.wishes:
                command = self.wishes.popleft()
                if command.name == "continue":
                    self.session.control.acknowledge(command, "done")
                    self.session.state.update(state="running")
                    return
                if command.name == "pause":
                    self.session.control.acknowledge(command, "done: it is paused already")
                else:
                    self._obey(command)
            time.sleep(PAUSE_SECONDS)
            self._take_wishes()

    def _set(self, key: str, value: object) -> str:
        """Change a setting of the running run; it belongs to the state from now on."""
        table, _, name = key.partition(".")
        try:
            changed = self.config.changed(**{table: {name: value}})
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            return f"refused: {value!r} is given, allowed is {reason.removeprefix('Input should be ')}"
        rates = [{group: c.training.rate_of(group) for group in self.groups} for c in (self.config, changed)]
        if any(not one[group] for one in rates for group in self.groups):
            return f"refused: {key} cannot become 0 while the run goes on"
        moved = [group for group in self.groups if rates[0][group] != rates[1][group]]
        if key.endswith(("_lr", "learning_rate")) and (not moved or self.built.relative_step):
            why = "the optimizer sets its own rate" if self.built.relative_step else "no group trains with it"
            return f"refused: {key} = {value} changes nothing here, {why}"
        for group in moved:
            self.scale_rate(group, rates[1][group] / rates[0][group])
        self.progress.replaced.setdefault(key, getattr(getattr(self.states.config, table), name))
        self.progress.changes[key] = value
        self.use(changed)
        self.states.save()
        return f"{key} = {value} from step {self.step + 1} on"

    def use(self, config: RunConfig) -> None:
        """Go on with other settings of those that may change while the run goes on."""
        self.config = self.prepared.config = config


def _memory(device: torch.device, peaks: PhasePeaks | None) -> dict[str, float]:
    """Memory of this process in GiB: allocated, reserved and peak on a GPU, resident on the CPU."""
    if device.type != "cuda":
        import psutil

        return {"resident_gib": psutil.Process().memory_info().rss / 2**30}
    stats = torch.cuda.memory_stats(device)
    return {
        "allocated_gib": stats["allocated_bytes.all.current"] / 2**30,
        "reserved_gib": stats["reserved_bytes.all.current"] / 2**30,
        "peak_gib": (peaks.highest() if peaks else stats["allocated_bytes.all.peak"]) / 2**30,
        "alloc_retries": stats["num_alloc_retries"],
    }
