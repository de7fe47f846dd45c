"""The checkpoints of one run: saved at an interval and at every stop, two kept, restored exactly."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig, digest
from engine.errors import UsageError, storing
from engine.runs.events import StateSavedEvent
from engine.runs.states import saved_states, state_path
from engine.training.changes import Changes
from engine.training.optimizer_probe import load_optimizer
from engine.training.recovery import Recovery
from engine.training.session import Session
from engine.training.statefile import load_tree, save_tree
from engine.training.train_state import Progress, TrainState

KEPT = 2
_FEWER_BITS = ("torch.optim.adamw.AdamW", "bitsandbytes.optim.adamw.AdamW8bit")
_HYPERPARAMETERS = ("lr", "initial_lr", "betas", "eps", "weight_decay", "momentum")


class CheckpointStore:
    """The checkpoints of one run on disk.

    Args:
        config: the settings at the start; a checkpoint of other settings is restored with a warning.
        inputs: digest of the run's inputs; likewise.
    """

    def __init__(self, session: Session, config: RunConfig, inputs: str) -> None:
        self.session, self.directory = session, session.run.checkpoints
        self._digest, self._inputs = digest(config), inputs

    def paths(self) -> list[Path]:
        """Saved checkpoints, the newest first."""
        return saved_states(self.directory)

    def save(self, state: TrainState) -> None:
        """Save `state` and remove all but the newest two; rank 0 only.

        Raises:
            StorageError: no space or no permission; the older checkpoints are intact.
        """
        if not self.session.is_main:
            return
        with storing(self.directory, "Making"):
            self.directory.mkdir(parents=True, exist_ok=True)
        path = state_path(self.directory, state.step)
        size = save_tree(path, {"digest": self._digest, "inputs": self._inputs, **state.tree()})
        self.session.events.emit(StateSavedEvent(path=str(path), step=state.step, bytes=size))
        self.session.events.sync()
        for old in self.paths()[KEPT:]:
            self.session.remove_file(old)

    def save_if_new(self, state: TrainState) -> None:
        """Save `state` unless the newest checkpoint is of the same step."""
        if self.paths()[:1] != [state_path(self.directory, state.step)]:
            self.save(state)

    def load(self, state: TrainState, changes: Changes, *, quiet: bool = False) -> bool:
        """Restore `state` and its settings from the newest readable checkpoint; False when there is none.

        Raises:
            UsageError: the checkpoint belongs to a LoRA of another shape, or to another optimizer.
        """
        damaged: list[Path] = []
        for path in self.paths():
            tree = load_tree(path)
            if tree is None:
                self.session.warn("bad_state", f"The state {path.name} is damaged and not used.")
                damaged.append(path)
                continue
            self._restore(tree, path, state, changes)
            self._put_aside(damaged)
            if not quiet:
                self.session.log(f"Resumed at step {state.step} from {path.name}.")
            return True
        if damaged:
            self._put_aside(damaged)
            self.session.warn("no_state", "No saved state is readable: the training starts over.")
        return False

    def _put_aside(self, damaged: list[Path]) -> None:
        """Rename damaged files, so that they do not count among the two that are kept."""
        for path in damaged if self.session.is_main else []:
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))

    def _restore(self, tree: dict[str, Any], path: Path, state: TrainState, changes: Changes) -> None:
        adapter: list[torch.Tensor] = tree["adapter"]
        _require_same_kind(tree, path, state)
        changed = self._report_differences(tree)
        with torch.no_grad():
            for parameter, value in zip(state.parameters, adapter, strict=True):
                parameter.copy_(value)
            for constant, value in zip(state.constants, tree.get("constants", []), strict=True):
                constant.copy_(value)
        state.recovery = Recovery(**tree["recovery"])
        state.progress = Progress.read(tree["progress"])
        if earlier := tree["progress"].get("changes"):
            changes.adopt_earlier(earlier, tree["progress"].get("replaced", {}))
        changes.restore_settings()
        groups = state.built.optimizer.param_groups
        fresh = [{key: group.get(key) for key in _HYPERPARAMETERS} for group in groups]
        new_moments = tree["optimizer_kind"] != state.optimizer_kind
        if new_moments:
            self.session.log("AdamW's moments start over in eight bits.")
        else:
            load_optimizer(state.built.optimizer, state.layout.as_joined(tree["optimizer"]))
        if state.schedule is not None and tree["schedule"] is not None:
            state.schedule.load_state_dict(tree["schedule"])
            if new_moments:
                for group, rate in zip(groups, state.schedule.get_last_lr(), strict=True):
                    group["lr"] = rate
        if changed and not new_moments:
            _use_new_settings(state, changes.base, fresh)
        if state.scaler is not None and tree["scaler"] is not None:
            state.scaler.load_state_dict(tree["scaler"])
        self.session.step = state.step

    def _report_differences(self, tree: dict[str, Any]) -> bool:
        """Warn of changes since the checkpoint was saved; returns whether the settings changed."""
        if tree["digest"] != self._digest:
            self.session.warn(
                "settings_changed",
                "The run's settings were changed since the state was saved: from here on the new ones "
                "count, and the result is not that of an uninterrupted run.",
                once=True,
            )
        if self._inputs and tree.get("inputs", self._inputs) != self._inputs:
            self.session.warn(
                "inputs_changed",
                "Images, captions or model files changed since the state was saved: the result is not that of a run "
                "without an interruption.",
                once=True,
            )
        return bool(tree["digest"] != self._digest)


def _require_same_kind(tree: dict[str, Any], path: Path, state: TrainState) -> None:
    """Refuse a checkpoint of another LoRA or another optimizer; AdamW may become the eight-bit one."""
    saved = [tuple(old.shape) for key in ("adapter", "constants") for old in tree.get(key, [])]
    if saved != [tuple(new.shape) for new in (*state.parameters, *state.constants)]:
        raise UsageError(
            f"The state {path.name} belongs to a LoRA of another shape: ranks, modules or init_lora_weights were "
            "changed since.",
            "Undo the change in the run's .toml, or begin a new run.",
            code="state-of-other-lora",
        )
    if tree.get("modules") not in (None, [module.target.kohya_name for module in state.network.modules]):
        raise UsageError(
            f"The state {path.name} belongs to a LoRA of other layers: the settings that choose them were changed "
            "since.",
            "Undo the change in the run's .toml, or begin a new run.",
            code="state-of-other-lora",
        )
    if tree.get("groups") != state.group_names:
        raise UsageError(
            f"The state {path.name} has other groups of learning rates: rates by block or by name, or LoRA+, were "
            "switched on or off since.",
            "Undo the change in the run's .toml, or begin a new run with network.network_weights.",
            code="state-of-other-groups",
        )
    kinds = (tree["optimizer_kind"], state.optimizer_kind)
    if kinds[0] != kinds[1] and kinds != _FEWER_BITS:
        raise UsageError(
            f"The state {path.name} belongs to the optimizer {kinds[0]}, and the run's .toml now asks for {kinds[1]}.",
            "Undo the change, or begin a new run with network.network_weights.",
            code="state-of-other-optimizer",
        )


def _use_new_settings(state: TrainState, base: RunConfig, fresh: list[dict[str, Any]]) -> None:
    """Use the new settings' learning rates and hyperparameters with the checkpoint's optimizer statistics.

    Args:
        base: the settings at the start of the run, as they are now.
        fresh: hyperparameters of each group before the checkpoint was read.
    """
    halved = 0.5**state.recovery.halvings
    for own, group, new in zip(state.groups, state.built.optimizer.param_groups, fresh, strict=True):
        group.update({key: new[key] for key in _HYPERPARAMETERS[2:] if new[key] is not None})
        before, after = (values.get("initial_lr") or values["lr"] for values in (group, new))
        if before and after:
            at_start, current = (own.rate(config.training) for config in (base, state.config))
            changed = current / at_start if at_start else 1.0
            state.scale_rate(own, after * changed * halved / before)
