"""Optimizers by Kohya's names: which library has them, and how their settings are written. Loads none of them."""

from __future__ import annotations

import ast
import importlib.util
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.config.training import TrainingTable
from engine.errors import UsageError
from engine.text import printable


@dataclass(frozen=True)
class Source:
    """Where an optimizer comes from."""

    class_name: str
    module: str
    package: str
    extra: str = ""
    """The extra of this program that installs the package."""


def _bitsandbytes(class_name: str) -> Source:
    return Source(class_name, "bitsandbytes.optim", "bitsandbytes", "cuda")


SOURCES = {
    "adamw": Source("AdamW", "torch.optim", "torch"),
    "adamw8bit": _bitsandbytes("AdamW8bit"),
    "pagedadamw": _bitsandbytes("PagedAdamW"),
    "pagedadamw8bit": _bitsandbytes("PagedAdamW8bit"),
    "pagedadamw32bit": _bitsandbytes("PagedAdamW32bit"),
    "lion8bit": _bitsandbytes("Lion8bit"),
    "pagedlion8bit": _bitsandbytes("PagedLion8bit"),
    "sgdnesterov8bit": _bitsandbytes("SGD8bit"),
    "lion": Source("Lion", "lion_pytorch", "lion-pytorch", "optimizers"),
    "sgdnesterov": Source("SGD", "torch.optim", "torch"),
    "prodigy": Source("Prodigy", "prodigyopt", "prodigyopt", "optimizers"),
    "adafactor": Source("Adafactor", "transformers.optimization", "transformers"),
    "adamwschedulefree": Source("AdamWScheduleFree", "schedulefree", "schedulefree", "optimizers"),
    "radamschedulefree": Source("RAdamScheduleFree", "schedulefree", "schedulefree", "optimizers"),
    "sgdschedulefree": Source("SGDScheduleFree", "schedulefree", "schedulefree", "optimizers"),
}
"""By lower-case name; any other name is a class of torch.optim, or a dotted path."""


LIBRARIES = (
    "torch.optim", "bitsandbytes.optim", "transformers.optimization", "torchao.optim", "lion_pytorch", "prodigyopt",
    "schedulefree", "prodigyplus", "dadaptation", "pytorch_optimizer", "adabelief_pytorch", "came_pytorch", "heavyball",
)  # fmt: skip
"""Modules, with those below them, that a configuration may name in a dotted path: importing a module runs it."""
ALLOW = "LORASMITH_OPTIMIZER_MODULES"
"""The environment variable with further module names, separated by commas. A preset cannot set it."""


def require_known_module(name: str) -> None:
    """Refuse an optimizer from a module that the person has not allowed: it would be run when it is imported.

    Raises:
        UsageError: says how to allow it.
    """
    module, dot, _ = name.rpartition(".")
    allowed = [entry.strip() for entry in os.environ.get(ALLOW, "").split(",") if entry.strip()]
    if not dot or any(module == entry or module.startswith(f"{entry}.") for entry in (*LIBRARIES, *allowed)):
        return
    raise UsageError(
        f"training.optimizer_type: {printable(name)} would import the module {printable(module)}, which runs its code.",
        f"If you trust it, set the environment variable {ALLOW}={shlex.quote(printable(module))} and start again.",
    )


def check_training(training: TrainingTable) -> None:
    """What can be seen of optimizer and schedule without loading them.

    Raises:
        UsageError: a package is missing, or a setting is malformed or lacking.
    """
    name = training.optimizer_type
    if name.lower().startswith("dadapt"):
        raise UsageError(
            f"training.optimizer_type: {name} is not supported.", "Prodigy is its successor: set Prodigy and rate 1."
        )
    require_known_module(name)
    source = SOURCES.get(name.lower())
    if source is not None and importlib.util.find_spec(source.module.partition(".")[0]) is None:
        raise missing_package(name, source, "it is not installed")
    parse_arguments(training.optimizer_args, "training.optimizer_args")
    if training.lr_scheduler == "adafactor" and name.lower() != "adafactor":
        raise UsageError("training.lr_scheduler adafactor goes with optimizer_type Adafactor only.", "Choose cosine.")
    if training.lr_scheduler == "piecewise_constant":
        step_rules(training)


def missing_package(name: str, source: Source, why: str) -> UsageError:
    """The sentence for an optimizer whose library is not there."""
    return UsageError(
        f"training.optimizer_type: {name} needs the package {source.package} ({why}).",
        f'Install it: pip install "lorasmith[{source.extra}]", or choose AdamW.',
    )


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


def step_rules(training: TrainingTable) -> str:
    """The rules of piecewise_constant, "1:10,0.1:20,0.01": factor until step, ..., last factor.

    Raises:
        UsageError: they are missing or malformed.
    """
    hint = 'Set training.lr_scheduler_args = ["step_rules=1:10,0.1:20,0.01"].'
    arguments = parse_arguments(training.lr_scheduler_args, "training.lr_scheduler_args")
    if "step_rules" not in arguments:
        raise UsageError("training.lr_scheduler piecewise_constant needs its rules.", hint)
    rules = str(arguments["step_rules"])
    try:
        *pairs, last = rules.split(",")
        float(last)
        for pair in pairs:
            factor, step = pair.split(":")
            float(factor), int(step)
    except ValueError:
        raise UsageError(f"training.lr_scheduler_args: the rules {rules!r} are malformed.", hint) from None
    return rules
