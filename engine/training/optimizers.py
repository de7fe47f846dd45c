"""Optimizers by Kohya's names, each from the library that keeps it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine.errors import UsageError

_BNB = ("bitsandbytes.optim", "bitsandbytes", "cuda")
_LIBRARIES: dict[str, tuple[str, str, str, str]] = {
    # lower-case name: class, module, package, extra of this program
    "adamw": ("AdamW", "torch.optim", "torch", ""),
    "adamw8bit": ("AdamW8bit", *_BNB),
    "pagedadamw": ("PagedAdamW", *_BNB),
    "pagedadamw8bit": ("PagedAdamW8bit", *_BNB),
    "pagedadamw32bit": ("PagedAdamW32bit", *_BNB),
    "lion8bit": ("Lion8bit", *_BNB),
    "pagedlion8bit": ("PagedLion8bit", *_BNB),
    "sgdnesterov8bit": ("SGD8bit", *_BNB),
    "lion": ("Lion", "lion_pytorch", "lion-pytorch", "optimizers"),
    "sgdnesterov": ("SGD", "torch.optim", "torch", ""),
    "prodigy": ("Prodigy", "prodigyopt", "prodigyopt", "optimizers"),
    "adafactor": ("Adafactor", "transformers.optimization", "transformers", ""),
    "adamwschedulefree": ("AdamWScheduleFree", "schedulefree", "schedulefree", "optimizers"),
    "radamschedulefree": ("RAdamScheduleFree", "schedulefree", "schedulefree", "optimizers"),
    "sgdschedulefree": ("SGDScheduleFree", "schedulefree", "schedulefree", "optimizers"),
}


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


def check_optimizer(name: str, arguments: Sequence[str]) -> None:
    """Raise UsageError for an unknown name, a missing package or malformed settings, before anything is loaded."""
    _find(name)
    parse_arguments(arguments, "training.optimizer_args")


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
            extra.setdefault("warmup_init", True)
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


def parse_arguments(arguments: Sequence[str], where: str) -> dict[str, Any]:
    """Kohya's `key=value` strings; a value is a Python literal or else text.

    Raises:
        UsageError: one has no "=".
    """
    parsed: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"{where}: {text!r} has no value.", 'Write "key=value".')
        try:
            parsed[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[key.strip()] = value
    return parsed


def _find(name: str) -> type[torch.optim.Optimizer]:
    if name.lower().startswith("dadapt"):
        raise UsageError(
            f"training.optimizer_type: {name} is not supported.", "Prodigy is its successor: set Prodigy and rate 1."
        )
    if known := _LIBRARIES.get(name.lower()):
        class_name, module_name, package, extra = known
        try:
            return getattr(importlib.import_module(module_name), class_name)  # type: ignore[no-any-return]
        except (ImportError, RuntimeError, AttributeError) as error:
            hint = f'Install it: pip install "lorasmith[{extra}]", or choose AdamW.'
            raise UsageError(f"training.optimizer_type: {name} needs the package {package} ({error}).", hint) from None
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
