"""The state that training changes, and its form in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.config.changes import EffectiveConfig, unchanged
from engine.config.rates import RateGroup, by_component
from engine.training.flat_update import update_layout
from engine.training.groups import rate_groups
from engine.training.optimizers import build_optimizer
from engine.training.prepare import Prepared
from engine.training.recovery import Recovery
from engine.training.schedules import build_schedule, steps_per_update

_DECAY = 0.98


@dataclass
class Progress:
    """The progress of a run. Data order and random numbers follow from the seed and `step`."""

    step: int = 0
    """Updates made."""
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    applied: list[str] = field(default_factory=list)
    """The entries of `training.changes` that took effect."""

    @classmethod
    def read(cls, tree: dict[str, Any]) -> Progress:
        """From a saved state; keys of earlier versions are ignored."""
        return cls(**{key: tree[key] for key in cls.__dataclass_fields__ if key in tree})

    @property
    def loss_average(self) -> float | None:
        """Exponential average of the loss over about 50 steps, without start-up bias."""
        return self.loss_sum / self.loss_weight if self.loss_weight else None

    def average(self, loss: float) -> None:
        """Add the loss of a step."""
        self.loss_sum = _DECAY * self.loss_sum + (1 - _DECAY) * loss
        self.loss_weight = _DECAY * self.loss_weight + (1 - _DECAY)


class TrainState:
    """Everything that changes while a run trains, in its state before the first step.

    Raises:
        UsageError: the optimizer or the schedule does not take its settings.
    """

    def __init__(self, prepared: Prepared) -> None:
        training, accelerator = prepared.config.training, prepared.accelerator
        self.config: EffectiveConfig = unchanged(prepared.config)
        """The current settings: `Changes` replaces them."""
        self.plan = prepared.plan
        """The current length: `Changes` replaces it."""
        self.progress, self.recovery = Progress(), Recovery()
        self.network, self._components = prepared.network, prepared.model.trainable
        self._is_half = prepared.precision != "no"
        self.parameters = self.network.parameters()
        self.constants = self.network.constants()
        self.groups: list[RateGroup] = [*rate_groups(self.network, self.config)]
        """The optimizer's groups."""
        self.layout = update_layout(self.network, self.config, prepared.layer_dtype)
        self.built = build_optimizer(training.optimizer_type, training.optimizer_args, self.layout.groups)
        self.steps_per_update = steps_per_update(training)
        self.schedule = build_schedule(training, self.built, self.plan.max_train_steps * self.steps_per_update)
        self.optimizer = accelerator.prepare_optimizer(self.built.optimizer)
        self.scaler = accelerator.scaler
        self.forget_recordings: Callable[[], None] = lambda: None
        """Gives back what steps were recorded in: called before another phase, which may need its memory, and when the
        kernels of a step are chosen anew."""
        self.weights_consistent = False
        """Whether the weights match `step`: not during a restore and during the optimizer's step."""

    @property
    def step(self) -> int:
        """Updates made."""
        return self.progress.step

    @property
    def epoch(self) -> int:
        """The epoch of the last update, from 1; before the first update 1."""
        return self.plan.place(max(0, self.step - 1))[0]

    @property
    def components(self) -> list[str]:
        """The components that have adapters."""
        return list(dict.fromkeys(group.component for group in self.groups))

    @property
    def optimizer_kind(self) -> str:
        """The optimizer's class with its module."""
        return self.built.description.partition("(")[0]

    def tree(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        return {
            "place": {"updates_per_epoch": self.plan.updates_per_epoch, "shift": self.plan.shift},
            "progress": asdict(self.progress),
            "recovery": asdict(self.recovery),
            "optimizer_kind": self.optimizer_kind,
            "adapter": [parameter.detach() for parameter in self.parameters],
            **({"constants": [constant.detach() for constant in self.constants]} if self.constants else {}),
            **self._layout(),
            "optimizer": self.layout.by_parameter(self.built.optimizer.state_dict()),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def _layout(self) -> dict[str, Any]:
        """`modules` and `groups`, for a restore."""
        layout = {"modules": self.modules, "groups": self.group_names}
        return {key: names for key, names in layout.items() if names is not None}

    @property
    def modules(self) -> list[str] | None:
        """Kohya's names of the modules, where settings choose them; None: those that the parts have anyway."""
        if self.network.selection.is_usual:
            return None
        return [module.target.kohya_name for module in self.network.modules]

    @property
    def group_names(self) -> list[str] | None:
        """Names of the optimizer's groups; None: one for each part."""
        by_part = all(group == RateGroup(group.component) for group in self.groups)
        return None if by_part else [group.name for group in self.groups]

    def train(self, mode: bool = True) -> None:
        """Switch dropouts on or off, the adapter's too, and schedule-free weights between training and inference."""
        if not mode:
            self.forget_recordings()
            self.layout.release()
        for component in self._components.values():
            component.train(mode)
        # In training a LoRA computes in the base's number format, else in float32.
        self.network.rely_on_autocast(mode and self._is_half)
        if self.built.schedule_free:
            (self.built.optimizer.train if mode else self.built.optimizer.eval)()  # type: ignore[attr-defined]

    def zero_grad(self) -> None:
        """Drop the gradients."""
        self.layout.clear()

    def rates(self) -> dict[str, float]:
        """Current learning rate of each group, including Prodigy's own factor."""
        return {
            own.name: float(group["lr"] or 0.0) * float(group.get("d", 1.0))
            for own, group in zip(self.groups, self.built.optimizer.param_groups, strict=True)
        }

    def rate_factors(self) -> dict[str, float]:
        """Factor in the rate of each group that the optimizer found; empty where it finds none."""
        groups = zip(self.groups, self.built.optimizer.param_groups, strict=True)
        return {own.name: float(group["d"]) for own, group in groups if "d" in group}

    def rates_text(self) -> str:
        """The rates in words; of a part with several groups the lowest and the highest."""
        return ", ".join(
            f"{part} {min(rates):.3g}"
            + (f" to {max(rates):.3g}" if max(rates) > min(rates) else "")
            + (f" ({len(rates)} groups)" if len(rates) > 1 else "")
            for part, rates in by_component(self.rates()).items()
        )

    def scale_rate(self, which: RateGroup, factor: float) -> None:
        """Multiply a group's learning rate, now and in the rest of the schedule."""
        index = self.groups.index(which)
        group = self.built.optimizer.param_groups[index]
        for key in ("lr", "initial_lr"):
            if group.get(key) is not None:
                group[key] *= factor
        if self.schedule is not None:
            self.schedule.base_lrs[index] *= factor
