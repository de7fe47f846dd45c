"""The full training state: saved every some steps and at every stop, two kept, restored exactly."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.config import digest
from engine.errors import UsageError, storing
from engine.runs.states import newest_state, saved_states, state_path
from engine.training.recovery import Recovery
from engine.training.statefile import load_tree, save_tree

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan
    from engine.training.trainer import Trainer

KEPT = 2
_DECAY = 0.98
_FEWER_BITS = ("torch.optim.adamw.AdamW", "bitsandbytes.optim.adamw.AdamW8bit")
_HYPERPARAMETERS = ("lr", "initial_lr", "betas", "eps", "weight_decay", "momentum")


@dataclass
class Progress:
    """Where a run stands. The data order and every random stream follow from the seed and `step`."""

    step: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings changed while the run went on: dotted key -> value."""
    replaced: dict[str, Any] = field(default_factory=dict)
    """What the configuration said of those keys then. When it says something else since, its word is the later one."""

    @property
    def loss_average(self) -> float | None:
        """Exponential average of the loss over about 50 steps, without start-up bias."""
        return self.loss_sum / self.loss_weight if self.loss_weight else None

    def average(self, loss: float) -> None:
        """Take in the loss of a step."""
        self.loss_sum = _DECAY * self.loss_sum + (1 - _DECAY) * loss
        self.loss_weight = _DECAY * self.loss_weight + (1 - _DECAY)


class StateStore:
    """The states of one run on disk."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.directory = trainer.session.run.checkpoints
        self.config = trainer.config
        """As the run's .toml says, without what was changed while it went on."""
        self.digest = digest(trainer.config)

    def paths(self) -> list[Path]:
        """Saved states, the newest first."""
        return saved_states(self.directory)

    def save(self) -> None:
        """Save the state of this moment and remove all but the newest two.

        Raises:
            StorageError: no space or no permission; the older states are intact.
        """
        trainer = self.trainer
        if not trainer.team.leads:
            return
        with storing(self.directory, "Making"):
            self.directory.mkdir(parents=True, exist_ok=True)
        path = state_path(self.directory, trainer.step)
        size = save_tree(path, self._tree())
        trainer.session.events.emit("state_saved", path=str(path), step=trainer.step, bytes=size)
        trainer.session.events.sync()
        for old in self.paths()[KEPT:]:
            trainer.session.remove_old(old)

    def _tree(self) -> dict[str, Any]:
        trainer = self.trainer
        scaler = trainer.accelerator.scaler
        return {
            "digest": self.digest,
            "inputs": trainer.prepared.inputs,
            "place": {"updates_per_epoch": trainer.plan.updates_per_epoch, "shift": trainer.plan.shift},
            "progress": asdict(trainer.progress),
            "recovery": asdict(trainer.recovery),
            "optimizer_kind": trainer.built.description.partition("(")[0],
            "adapter": [parameter.detach() for parameter in trainer.parameters],
            "optimizer": trainer.built.optimizer.state_dict(),
            "schedule": None if trainer.schedule is None else trainer.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def restore_latest(self, *, quiet: bool = False) -> bool:
        """Go back to the newest readable state; False when there is none.

        Raises:
            UsageError: the state belongs to a LoRA of another shape.
        """
        damaged: list[Path] = []
        for path in self.paths():
            tree = load_tree(path)
            if tree is None:
                self.trainer.session.warn("bad_state", f"The state {path.name} is damaged and not used.")
                damaged.append(path)
                continue
            self._restore(tree, path)
            self._put_aside(damaged)
            if not quiet:
                self.trainer.session.say(f"Resumed at step {self.trainer.step} from {path.name}.")
            return True
        if damaged:
            self._put_aside(damaged)
            self.trainer.session.warn("no_state", "No saved state is readable: the training starts over.")
        return False

    def _put_aside(self, damaged: list[Path]) -> None:
        """Rename damaged states: they must not count as those that are kept."""
        for path in damaged if self.trainer.team.leads else []:
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))

    def _use_new_settings(self, fresh: list[dict[str, Any]]) -> None:
        """After the state of a run whose settings were changed: new rates and hyperparameters, old statistics."""
        trainer = self.trainer
        halved = 0.5**trainer.recovery.halvings
        in_file, in_force = (
            {name: one.training.rate_of(name) for name in trainer.groups} for one in (self.config, trainer.config)
        )
        for name, group, new in zip(trainer.groups, trainer.built.optimizer.param_groups, fresh, strict=True):
            group.update({key: new[key] for key in _HYPERPARAMETERS[2:] if new[key] is not None})
            before, after = (one.get("initial_lr") or one["lr"] for one in (group, new))
            if before and after:
                live = in_force[name] / in_file[name] if in_file[name] else 1.0
                trainer.scale_rate(name, after * live * halved / before)

    def _restore(self, tree: dict[str, Any], path: Path) -> None:
        trainer = self.trainer
        adapter: list[torch.Tensor] = tree["adapter"]
        if [tuple(old.shape) for old in adapter] != [tuple(new.shape) for new in trainer.parameters]:
            raise UsageError(
                f"The state {path.name} belongs to a LoRA of another shape: ranks or modules were changed since.",
                "Undo the change in the run's .toml, or begin a new run.",
            )
        kind = trainer.built.description.partition("(")[0]
        anew = (tree["optimizer_kind"], kind) == _FEWER_BITS
        if tree["optimizer_kind"] != kind and not anew:
            raise UsageError(
                f"The state {path.name} belongs to the optimizer {tree['optimizer_kind']}, and the run's .toml now "
                f"asks for {kind}.",
                "Undo the change, or begin a new run with network.network_weights.",
            )
        if tree["digest"] != self.digest:
            trainer.session.warn(
                "settings_changed",
                "The run's settings were changed since the state was saved: from here on the new ones "
                "count, and the result is not that of an uninterrupted run.",
                once=True,
            )
        inputs = trainer.prepared.inputs
        if inputs and tree.get("inputs", inputs) != inputs:
            trainer.session.warn(
                "inputs_changed",
                "Images, captions or model files changed since the state was saved: the result is not that of a run "
                "without an interruption.",
                once=True,
            )
        with torch.no_grad():
            for parameter, value in zip(trainer.parameters, adapter, strict=True):
                parameter.copy_(value)
        trainer.recovery = Recovery(**tree["recovery"])
        progress = self._with_changes(Progress(**tree["progress"]))
        fresh = [{key: group.get(key) for key in _HYPERPARAMETERS} for group in trainer.built.optimizer.param_groups]
        if anew:
            trainer.session.say("AdamW's moments start anew in eight bits.")
        else:
            trainer.built.optimizer.load_state_dict(tree["optimizer"])
        if trainer.schedule is not None and tree["schedule"] is not None:
            trainer.schedule.load_state_dict(tree["schedule"])
            for group, rate in zip(trainer.built.optimizer.param_groups, trainer.schedule.get_last_lr(), strict=True):
                group["lr"] = rate if anew else group["lr"]
        if tree["digest"] != self.digest and not anew:
            self._use_new_settings(fresh)
        if trainer.accelerator.scaler is not None and tree["scaler"] is not None:
            trainer.accelerator.scaler.load_state_dict(tree["scaler"])
        trainer.progress = progress
        trainer.session.step = trainer.step

    def _with_changes(self, progress: Progress) -> Progress:
        """Put in force again what was changed while the run went on, unless the configuration was changed later."""
        tables: dict[str, dict[str, Any]] = {}
        for key, value in list(progress.changes.items()):
            table, _, name = key.partition(".")
            now = getattr(getattr(self.config, table), name)
            if progress.replaced.get(key, now) == now:
                tables.setdefault(table, {})[name] = value
                continue
            del progress.changes[key], progress.replaced[key]
            self.trainer.session.say(f"{key} = {value}, set while the run went on, gives way to the .toml's {now}.")
        self.trainer.use(self.config.changed(**tables))
        return progress


def plan_from_here(plan: StepPlan, directory: Path, say: Callable[[str], None]) -> StepPlan:
    """`plan` for a run that goes on from the newest state in `directory`: where another batch size, or other pictures,
    changed how many updates an epoch has, it goes on at the same share of the same epoch."""
    state = newest_state(directory)
    place, step = (state.value("place"), state.step) if state else (None, None)
    if not place or step is None:
        return plan
    going_on = plan.going_on(step, place["updates_per_epoch"], place["shift"])
    if going_on.shift:
        epoch, inside = going_on.place(step)
        say(
            f"An epoch had another number of steps before: the run goes on at step {inside + 1} of "
            f"{plan.updates_per_epoch} in epoch {epoch}, and ends after step {going_on.max_train_steps}."
        )
    return going_on
