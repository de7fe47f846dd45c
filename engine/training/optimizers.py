"""Optimizers by Kohya's names, each from the library that keeps it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.optimizers import SOURCES, check_training, missing_package, parse_arguments, require_known_module
from engine.config.training import TrainingTable
from engine.errors import UsageError


@dataclass(frozen=True)
class BuiltOptimizer:
    """An optimizer and what the rest of the loop must know about it."""

    optimizer: torch.optim.Optimizer
    description: str
    """Kohya's form for the metadata: "torch.optim.adamw.AdamW(weight_decay=0.1)"."""
    schedule_free: bool
    """It needs `.train()` and `.eval()` around steps and saves, and no schedule."""
    relative_step: bool
    """Adafactor that sets its own rate."""


def check_optimizer(training: TrainingTable) -> None:
    """Raise UsageError for an unknown optimizer, or one that cannot be loaded, before anything else is."""
    check_training(training)
    _find(training.optimizer_type)


def build_optimizer(name: str, arguments: Sequence[str], groups: list[dict[str, Any]]) -> BuiltOptimizer:
    """The optimizer for parameter `groups` ({"params", "lr"}).

    Raises:
        UsageError: unknown name, missing package (names the extra), or settings that it does not take.
    """
    kind = name.lower()
    optimizer_class = _find(name)
    settings = parse_arguments(arguments, "training.optimizer_args")
    extra: dict[str, Any] = dict(settings)
    relative_step = kind == "adafactor" and bool(settings.get("relative_step", True))
    if kind == "adafactor":
        extra.setdefault("relative_step", True)
        if relative_step:
            groups = [{**group, "lr": None} for group in groups]
    elif kind.startswith("sgdnesterov"):
        extra.setdefault("momentum", 0.9)
        extra.setdefault("nesterov", True)
    elif optimizer_class is torch.optim.AdamW:
        # 8-bit Adam launches a kernel for each tensor; fused AdamW one for all.
        extra.setdefault("fused", True)
    try:
        optimizer = optimizer_class([{k: v for k, v in group.items() if k != "name"} for group in groups], **extra)
    except (TypeError, ValueError) as error:
        allowed = ", ".join(list(inspect.signature(optimizer_class).parameters)[1:])
        raise UsageError(
            f"training.optimizer_args: {name} does not take these settings: {error}.", f"It takes: {allowed}."
        ) from None
    parts = ",".join(f"{key}={value}" for key, value in settings.items())
    module = optimizer_class.__module__
    description = f"{module}.{optimizer_class.__name__}" + (f"({parts})" if parts else "")
    return BuiltOptimizer(optimizer, description, kind.endswith("schedulefree"), relative_step)


def _find(name: str) -> type[torch.optim.Optimizer]:
    source = SOURCES.get(name.lower())
    if source is not None:
        try:
            return getattr(importlib.import_module(source.module), source.class_name)  # type: ignore[no-any-return]
        except (ImportError, RuntimeError, AttributeError) as error:
            raise missing_package(name, source, str(error)) from None
    require_known_module(name)
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name or "torch.optim"), class_name, None)
    except ImportError as error:
        raise UsageError(f"training.optimizer_type: {name} cannot be loaded: {error}.", "Check the name.") from None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise UsageError(
            f"training.optimizer_type: there is no optimizer {name!r}.",
            "AdamW, AdamW8bit, Lion, Prodigy, Adafactor, AdamWScheduleFree, or a class of torch.optim.",
        )
    return found
