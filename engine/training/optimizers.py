"""Optimizers by Kohya's names, from torch and other libraries."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.optimizers import (
    check_training,
    defaults_of,
    is_schedule_free,
    missing_package,
    no_such_optimizer,
    optimizer_settings,
    require_allowed_module,
    sets_its_own_rate,
    source_of,
)
from engine.config.training import TrainingTable
from engine.errors import UsageError


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


def check_optimizer(training: TrainingTable) -> None:
    """Raise UsageError for an unknown optimizer, or one that cannot be imported."""
    check_training(training)
    _optimizer_class(training.optimizer_type)


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
    parameters = inspect.signature(optimizer_class).parameters
    if "lr" in parameters and parameters["lr"].default is inspect.Parameter.empty:
        extra["lr"] = groups[0]["lr"]  # bitsandbytes' SGD has no default; each group has its own
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
