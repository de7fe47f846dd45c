"""Optimizers by Kohya's names, from torch and other libraries."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.optimizers import (
    check_rates,
    check_training,
    defaults_of,
    missing_package,
    no_such_optimizer,
    optimizer_settings,
    require_allowed_module,
    sets_its_own_rate,
    source_of,
)
from engine.config.training import TrainingTable, is_schedule_free
from engine.errors import UsageError
from engine.text import listing, printable
from engine.training.optimizer_probe import resumes_exactly


@dataclass(frozen=True)
class BuiltOptimizer:
    """An optimizer with its properties."""

    optimizer: torch.optim.Optimizer
    description: str
    """Kohya's form for the metadata: "torch.optim.adamw.AdamW(weight_decay=0.1)"."""
    schedule_free: bool
    """It needs `.train()` before steps and `.eval()` before saves, and no schedule."""
    relative_step: bool
    """Adafactor that sets its own learning rate."""


def check_optimizer(training: TrainingTable) -> str:
    """Check the optimizer; a class that is not in the table is tried out. Loads its library.

    Returns:
        A sentence, where a run with it may not resume exactly; else empty.

    Raises:
        UsageError: it is unknown, cannot be imported, does not take its settings, or cannot make a step here.
    """
    check_training(training)
    name = training.optimizer_type
    optimizer_class = _optimizer_class(name)
    if source_of(name) is not None:
        return ""
    settings = optimizer_settings(name, training.optimizer_args)
    _require_known_settings(name, optimizer_class, settings)

    def build(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        groups = [{"params": parameters, "lr": training.learning_rate}]
        return build_optimizer(name, training.optimizer_args, groups).optimizer

    try:
        exact = resumes_exactly(build)
    except UsageError:
        raise
    except Exception as error:  # whatever the library raises
        raise UsageError(
            f"training.optimizer_type: {name} cannot train here: {type(error).__name__}: {error}.",
            "Choose another one: it must step without a closure, on parameters in groups, and its state must be of "
            "tensors and plain values.",
            code="optimizer-not-usable",
        ) from None
    if exact:
        return ""
    return f"{name} keeps something outside its state: after a resume the weights may differ in their last digits."


def build_optimizer(name: str, arguments: Sequence[str], groups: list[dict[str, Any]]) -> BuiltOptimizer:
    """The optimizer for parameter `groups` ({"params", "lr"}).

    Args:
        arguments: `training.optimizer_args`.

    Raises:
        UsageError: unknown name, missing package (with the extra to install), or settings that it does not take.
    """
    optimizer_class = _optimizer_class(name)
    settings = optimizer_settings(name, arguments)
    extra: dict[str, Any] = {**defaults_of(name), **settings}
    relative_step = sets_its_own_rate(name, arguments)
    if relative_step:
        groups = [{**group, "lr": None} for group in groups]
    if optimizer_class is torch.optim.AdamW and not extra.get("foreach"):
        # Fused AdamW launches one kernel for all tensors.
        extra.setdefault("fused", True)
    check_rates(name, {group.get("name", ""): group["lr"] for group in groups if group["lr"]})
    _require_shapes(optimizer_class, groups)
    parameters = inspect.signature(optimizer_class).parameters
    if "lr" in parameters and parameters["lr"].default in (inspect.Parameter.empty, None) and not relative_step:
        extra["lr"] = groups[0]["lr"]  # where the class has no default; each group has its own
    try:
        optimizer = optimizer_class([{k: v for k, v in group.items() if k != "name"} for group in groups], **extra)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        allowed = ", ".join(list(parameters)[1:])
        raise UsageError(
            f"training.optimizer_args: {name} does not take these settings: {error}.",
            f"It takes: {allowed}.",
            code="optimizer-args-wrong",
        ) from None
    parts = ",".join(f"{key}={value}" for key, value in settings.items())
    module = optimizer_class.__module__
    description = f"{module}.{optimizer_class.__name__}" + (f"({parts})" if parts else "")
    return BuiltOptimizer(optimizer, description, is_schedule_free(name), relative_step)


def _require_known_settings(name: str, optimizer_class: type, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a class does not name: one with `**kwargs` would ignore them."""
    known = list(inspect.signature(optimizer_class).parameters.values())
    names = [parameter.name for parameter in known if parameter.kind is not parameter.VAR_KEYWORD][1:]
    if strange := [key for key in settings if key not in names]:
        raise UsageError(
            f"training.optimizer_args: {name} does not take these settings: {listing([*map(printable, strange)])}.",
            f"It takes: {', '.join(names)}.",
            code="optimizer-args-wrong",
        )


def _require_shapes(optimizer_class: type, groups: list[dict[str, Any]]) -> None:
    """Refuse parameters that are no matrices where the optimizer is for matrices only."""
    others = {parameter.ndim for group in groups for parameter in group["params"]} - {2}
    if optimizer_class is torch.optim.Muon and others:
        raise UsageError(
            "training.optimizer_type: Muon is for matrices only, and here it would train tensors of "
            f"{' and '.join(map(str, sorted(others)))} dimensions, as convolutions have.",
            "Choose AdamW; or unset network.conv_dim, where the model's other layers are all linear.",
            code="optimizer-needs-matrices",
        )


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    source = source_of(name)
    if source is not None:
        try:
            return getattr(importlib.import_module(source.module), source.class_name)  # type: ignore[no-any-return]
        except (ImportError, RuntimeError, AttributeError) as error:
            raise missing_package(name, source, str(error)) from None
    require_allowed_module(name)
    module_name, _, class_name = name.rpartition(".")
    try:
        optimizer_class = getattr(importlib.import_module(module_name or "torch.optim"), class_name, None)
    except ImportError as error:
        raise UsageError(
            f"training.optimizer_type: {name} cannot be loaded: {error}.",
            "Check the name.",
            code="optimizer-not-loadable",
        ) from None
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise no_such_optimizer(name)
    return optimizer_class
