"""Writes engine/assets/optimizers.json: the arguments of each optimizer and schedule, read from the classes themselves.

python tools/optimizer_table.py

Kinds come from the signatures. Limits are found by trying: a class that refuses -1 and accepts 0 has "ge": 0. Every
command checks settings against the table without loading torch; a test compares it with the installed classes.
Classes of packages that are not installed keep their entries.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers.optimization import get_piecewise_constant_schedule
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from engine.paths import ASSETS

MODULES = ("torch.optim", "bitsandbytes.optim", "transformers.optimization", "prodigyopt", "schedulefree",
           "lion_pytorch")  # fmt: skip
PASSED = frozenset({"params", "lr", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "args"})
"""Passed by the trainer, or read by no class."""
UNUSABLE = frozenset({"capturable", "differentiable", "fsdp_in_use"})
"""For other kinds of training loops: the first step would fail."""
NEEDS_GPU = frozenset({"use_triton"})
NUMBERS = frozenset(
    {
        "weight_decay",
        "lr_decay",
        "initial_accumulator_value",
        "momentum",
        "dampening",
        "beta1",
        "beta3",
        "min_lr",
        "min_lr_rate",
        "warmup_lr_rate",
        "min_lr_ratio",
        "weight_lr_power",
        "max_unorm",
    }
)
"""Numbers whose default is a whole number or None."""
CHOICES: dict[str, tuple[Any, ...]] = {
    "optim_bits": (8, 32),
    "warmup_type": ("linear", "cosine", "1-sqrt"),
    "decay_type": ("linear", "cosine", "1-sqrt"),
    "adjust_lr_fn": ("original", "match_rms_adamw"),
}
"""Values that the code compares with, which are not in a signature."""
TABLE = ASSETS / "optimizers.json"
TRIED = (-1.0, 0.0, 0.5, 1.0, 2.0)


def steps(optimizer_class: type[torch.optim.Optimizer], settings: dict[str, Any]) -> bool:
    """Whether the class is built with these settings and makes a step."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3, 2))]
    needs_rate = "lr" in inspect.signature(optimizer_class).parameters
    rate: dict[str, Any] = {"lr": 1e-3} if needs_rate else {}
    if optimizer_class.__module__.startswith("transformers") and settings.get("relative_step", True):
        rate = {"lr": None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = optimizer_class(
                [{"params": [parameter], **rate} for parameter in parameters], **rate, **settings
            )
            if optimizer_class.__module__.startswith("bitsandbytes"):
                return True  # its kernels need a GPU
            if hasattr(optimizer, "train"):
                optimizer.train()
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
    except Exception:  # any error means that the settings are not accepted
        return False
    return True


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Every class that can train a LoRA, by its dotted name; those of packages that are not installed are absent."""
    classes = {}
    for module in MODULES:
        try:
            members = vars(importlib.import_module(module))
        except ImportError:
            continue
        for name, member in sorted(members.items()):
            usable = isinstance(member, type) and issubclass(member, torch.optim.Optimizer)
            if (
                usable
                and not name.endswith(("Reference", "Paper", "DummyOptimizer"))
                and steps(member, base_settings(member))
            ):
                classes[f"{module}.{name}"] = member
    return classes


def base_settings(optimizer_class: type) -> dict[str, Any]:
    """Settings that a class needs before any other can be tried: SGD's nesterov and all of bitsandbytes' SGD."""
    accepted = parameters_of(optimizer_class)
    return {"momentum": 0.9} if "nesterov" in accepted and accepted["momentum"].default == 0 else {}


def parameters_of(called: Any) -> dict[str, inspect.Parameter]:
    """The settings of a class or function that a user may set."""
    signature = inspect.signature(called).parameters.items()
    return {
        name: parameter
        for name, parameter in signature
        if name not in PASSED and parameter.kind is not parameter.VAR_KEYWORD
    }


def kind_of(name: str, parameter: inspect.Parameter) -> tuple[str, bool]:
    """("flag", "integer", "number", "text" or "numbers:N"; whether None is accepted)."""
    default, written = parameter.default, str(parameter.annotation)
    optional = default is None or "None" in written or "Optional" in written
    if isinstance(default, bool) or "bool" in written:
        return "flag", optional
    if isinstance(default, tuple):
        return f"numbers:{len(default)}", False
    if isinstance(default, str) or (not isinstance(default, (int, float)) and "str" in written):
        return "text", optional
    if name in NUMBERS or isinstance(default, float) or "float" in written:
        return "number", optional
    assert isinstance(default, int) or "int" in written, f"{name}: of no known kind: {parameter}"
    return "integer", optional


def limits(accepted: list[bool], default: float) -> dict[str, float]:
    """The limits around the default, from the accepted values of TRIED; empty if all or none are accepted."""
    places = [place for place, good in enumerate(accepted) if good]
    bounds: dict[str, float] = {}
    if not places or len(places) == len(TRIED):
        return bounds
    first = last = min(places, key=lambda place: abs(TRIED[place] - default))
    while first - 1 in places:
        first -= 1
    while last + 1 in places:
        last += 1
    if first > 0:
        bounds |= {"gt": TRIED[first - 1]} if TRIED[first] in (0.5, 2.0) else {"ge": TRIED[first]}
    if last + 1 < len(TRIED):
        bounds |= {"lt": 1.0} if TRIED[last] == 0.5 else {"le": TRIED[last]}
    return bounds


def entry(optimizer_class: type[torch.optim.Optimizer], name: str, parameter: inspect.Parameter) -> dict[str, Any]:
    """One setting of an optimizer."""
    kind, optional = kind_of(name, parameter)
    base = base_settings(optimizer_class)
    table_entry: dict[str, Any] = {"kind": kind}
    if optional:
        table_entry["optional"] = True
    if name in CHOICES:
        table_entry["choices"] = CHOICES[name]
    if isinstance(parameter.default, float) and math.isinf(parameter.default):
        table_entry["infinite"] = True
    if kind in ("number", "integer"):
        cast = int if kind == "integer" else float
        tried = [(value == 0.5 and kind == "integer") or steps(optimizer_class, base | {name: cast(value)})
                 for value in TRIED]  # fmt: skip
        table_entry |= limits(tried, 0.0 if parameter.default in (None, parameter.empty) else float(parameter.default))
    elif kind == "flag" and name not in NEEDS_GPU:
        works = [value for value in (False, True) if steps(optimizer_class, base | {name: value})]
        if len(works) == 1:
            table_entry["choices"] = works
    elif kind.startswith("numbers"):
        each = []
        for place in range(len(parameter.default)):
            values = [
                tuple(value if at == place else old for at, old in enumerate(parameter.default)) for value in TRIED
            ]
            default = parameter.default[place]
            tried = [steps(optimizer_class, base | {name: numbers}) for numbers in values]
            each.append(limits(tried, 0.0 if default is None else default))
        if any(each):
            table_entry["each"] = each
    return table_entry


def schedules() -> dict[str, dict[str, Any]]:
    """The entries of `lr_scheduler_args`, by the schedule's name."""
    functions = {name.value: called for name, called in TYPE_TO_SCHEDULER_FUNCTION.items()}
    functions["piecewise_constant"] = get_piecewise_constant_schedule
    schedules: dict[str, dict[str, Any]] = {}
    for name in ("constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
                 "cosine_with_min_lr", "warmup_stable_decay", "piecewise_constant"):  # fmt: skip
        schedules[name] = {}
        for key, parameter in parameters_of(functions[name]).items():
            kind, optional = kind_of(key, parameter)
            schedules[name][key] = {"kind": kind, **({"optional": True} if optional else {}),
                                    **({"choices": CHOICES[key]} if key in CHOICES else {})}  # fmt: skip
    return schedules


def table() -> dict[str, Any]:
    """The full table; entries of packages that are not installed are copied from the file."""
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {"optimizers": {}}
    entries = dict(old["optimizers"])
    for name, optimizer_class in optimizers().items():
        accepted = parameters_of(optimizer_class)
        unusable = UNUSABLE | ({"optim_bits"} if name.endswith("bit") else frozenset())
        entries[name] = {
            key: entry(optimizer_class, key, parameter) for key, parameter in accepted.items() if key not in unusable
        }
    return {"optimizers": dict(sorted(entries.items())), "schedules": schedules()}


def text() -> str:
    """The file: one line per class."""
    parts = []
    for part, members in table().items():
        lines = [f"  {json.dumps(name)}: {json.dumps(settings, sort_keys=True)}" for name, settings in members.items()]
        parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    Path(TABLE).write_text(text())
    sys.stdout.write(f"{TABLE}\n")
