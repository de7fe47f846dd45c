"""Optimizers and schedules: their libraries, their settings, and a check of these. Loads none of them.

`engine/assets/optimizers.json` has the settings of each class, read from the classes by `tools/optimizer_table.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.config.key_values import Parameter, parse_arguments, read_settings
from engine.config.training import TrainingTable, is_schedule_free
from engine.errors import UsageError
from engine.paths import ASSETS
from engine.text import printable, shell_word

TABLE = ASSETS / "optimizers.json"
ADAFACTOR = "transformers.optimization.Adafactor"


@dataclass(frozen=True)
class Source:
    """Where an optimizer comes from."""

    class_name: str
    module: str
    package: str
    extra: str = ""
    """The extra of this program that installs the package."""

    @property
    def dotted(self) -> str:
        """Its name in the table."""
        return f"{self.module}.{self.class_name}"

    @property
    def install(self) -> str:
        """The command that installs the package."""
        return f'pip install "lorasmith[{self.extra}]"' if self.extra else f"pip install {self.package}"


def _bitsandbytes(class_name: str) -> Source:
    return Source(class_name, "bitsandbytes.optim", "bitsandbytes", "cuda")


def _dadaptation(class_name: str, module: str = "dadaptation") -> Source:
    return Source(class_name, module, "dadaptation", "optimizers")


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
    "dadaptation": _dadaptation("DAdaptAdamPreprint", "dadaptation.experimental"),
    "dadaptadampreprint": _dadaptation("DAdaptAdamPreprint", "dadaptation.experimental"),
    "dadaptadanip": _dadaptation("DAdaptAdanIP", "dadaptation.experimental"),
    **{name.lower(): _dadaptation(name) for name in (
        "DAdaptAdaGrad", "DAdaptAdam", "DAdaptAdan", "DAdaptLion", "DAdaptSGD",
    )},
}  # fmt: skip
"""By lower-case name; any other name is a class of torch.optim, or a dotted path."""
_PACKAGES = {
    **{source.module: (source.package, source.extra) for source in SOURCES.values()},
    "prodigyplus": ("prodigy-plus-schedule-free", "optimizers"),
    "pytorch_optimizer": ("pytorch-optimizer", "optimizers"),
    "came_pytorch": ("came-pytorch", ""),
}
"""By module: the package, and its extra. All their classes that can train are in the table."""
_OTHERS = {"torchao": "torchao", "adabelief_pytorch": "adabelief-pytorch", "heavyball": "heavyball"}
"""Packages of which no class is in the table."""
_INNER = {"prodigyplus.prodigy_plus_schedulefree": "prodigyplus"}
"""Modules inside a package that Kohya users name, and where their classes are in the table."""
_IN_PART = ("pytorch_optimizer",)
"""Modules with more classes than the table."""
_SHARED_RATE = ("prodigyopt.", "dadaptation.", "pytorch_optimizer.DAdapt")
"""Beginnings of names in the table: these optimizers find one factor for all groups, whose rates must be equal."""
_FIND_RATE = (*_SHARED_RATE, "prodigyplus.", "pytorch_optimizer.Prodigy")
"""These find the rate: the one that is set is a factor on it."""
_LOW_RATE = 0.1
"""As in Kohya's warning (`train_util.get_optimizer`)."""
_HINT = "AdamW, AdamW8bit, Lion, Prodigy, Adafactor, AdamWScheduleFree, or a class of torch.optim."
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sgdnesterov": {"momentum": 0.9, "nesterov": True},
    "sgdnesterov8bit": {"momentum": 0.9, "nesterov": True},
    "adafactor": {"relative_step": True},
}
"""Defaults for a name."""


def source_of(name: str) -> Source | None:
    """The class of a name in the table: Kohya's in upper or lower case, torch.optim's and dotted ones
    case-sensitive."""
    if name.lower() in SOURCES:
        return SOURCES[name.lower()]
    module, dot, class_name = name.rpartition(".")
    module = _INNER.get(module, module) if dot else "torch.optim"
    if f"{module}.{class_name}" not in _table()[0]:
        return None
    package, extra = _PACKAGES[module]
    return Source(class_name, module, package, extra)


@cache
def _table() -> tuple[Mapping[str, Mapping[str, Parameter]], Mapping[str, Mapping[str, Parameter]]]:
    """(Settings by optimizer, settings by schedule), each by name."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    optimizers, schedules = (
        {name: {key: _parameter(entry) for key, entry in settings.items()} for name, settings in content[part].items()}
        for part in ("optimizers", "schedules")
    )
    return optimizers, schedules


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    lists = {key: tuple(entry[key]) for key in ("choices", "each") if key in entry}
    return Parameter(**{**entry, **lists})


LIBRARIES = (
    "torch.optim", "bitsandbytes.optim", "transformers.optimization", "torchao.optim", "lion_pytorch", "prodigyopt",
    "schedulefree", "prodigyplus", "dadaptation", "pytorch_optimizer", "adabelief_pytorch", "came_pytorch", "heavyball",
)  # fmt: skip
"""Modules, with those below them, that a dotted path in a configuration may name: importing a module runs its code."""
ALLOW = "LORASMITH_OPTIMIZER_MODULES"
"""The environment variable with further module names, separated by commas. A preset cannot set it."""


def require_allowed_module(name: str) -> None:
    """Refuse an optimizer from a module that the person has not allowed: the import would run its code.

    Raises:
        UsageError: with how to allow it.
    """
    module, dot, _ = name.rpartition(".")
    allowed = [entry.strip() for entry in os.environ.get(ALLOW, "").split(",") if entry.strip()]
    if not dot or any(module == entry or module.startswith(f"{entry}.") for entry in (*LIBRARIES, *allowed)):
        return
    raise UsageError(
        f"training.optimizer_type: {printable(name)} would import the module {printable(module)}, which runs its code.",
        f"If you trust it, set the environment variable {ALLOW}={shell_word(module)} and start again.",
        code="optimizer-not-allowed",
    )


def check_training(training: TrainingTable) -> None:
    """Check optimizer and schedule without loading them; finds everything that the trainer would refuse.

    Raises:
        UsageError: with every problem, one a line.
    """
    errors = [*_optimizer_errors(training), *_schedule_errors(training)]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UsageError("\n".join(map(str, errors)), code="several-problems")


def missing_package(name: str, source: Source, why: str) -> UsageError:
    """The error for an optimizer whose library is not installed."""
    return UsageError(
        f"training.optimizer_type: {name} needs the package {source.package} ({why}).",
        f"Install it: {source.install}, or choose AdamW.",
        code="optimizer-package-missing",
    )


def no_such_optimizer(name: str) -> UsageError:
    """The error for an unknown optimizer."""
    return UsageError(
        f"training.optimizer_type: there is no optimizer {printable(name)!r}.",
        f"Choose {_HINT}",
        code="optimizer-unknown",
    )


def optimizer_settings(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The parsed `optimizer_args`.

    Raises:
        UsageError: the first error.
    """
    settings, errors = _read_settings(name, arguments)
    if errors:
        raise errors[0]
    return settings


def defaults_of(name: str) -> Mapping[str, Any]:
    """Defaults of an optimizer, which `optimizer_args` override."""
    return _DEFAULTS.get(name.lower(), {})


def finds_rate(name: str) -> bool:
    """Whether the optimizer finds the learning rate itself, and the one that is set is a factor on it."""
    source = source_of(name)
    return source is not None and source.dotted.startswith(_FIND_RATE)


def shares_rate(name: str) -> bool:
    """Whether the optimizer finds one factor for all groups, whose rates must be equal."""
    source = source_of(name)
    return source is not None and source.dotted.startswith(_SHARED_RATE)


def check_rates(name: str, rates: Mapping[str, float]) -> None:
    """Refuse different learning rates of an optimizer that has one for all groups.

    Args:
        rates: of the trained parts, by name.

    Raises:
        UsageError: with the rates.
    """
    if not shares_rate(name) or len({rate for rate in rates.values() if rate}) < 2:
        return
    raise UsageError(
        f"training.optimizer_type: {name} has one learning rate for all parts, and here they differ: "
        f"{', '.join(f'{part} {rate:g}' for part, rate in rates.items())}.",
        "Set training.unet_lr and training.text_encoder_lr to the same number, 1 for example.",
        code="optimizer-needs-one-rate",
    )


def optimizer_notes(training: TrainingTable) -> list[str]:
    """What a person should know about the chosen optimizer, one sentence each."""
    name, rate = training.optimizer_type, max(training.rates)
    if source_of(name) is None:
        return [
            f"{name} is not in this program's table of optimizers: it is tried out when the training starts, and its "
            "settings are checked there."
        ]
    if finds_rate(name) and rate <= _LOW_RATE:
        return [f"{name} finds the learning rate itself, times the one that is set: {rate:g} is low, 1 is usual."]
    return []


def sets_its_own_rate(name: str, arguments: Sequence[str]) -> bool:
    """Adafactor with `relative_step`, which is its default."""
    source = source_of(name)
    if source is None or source.dotted != ADAFACTOR:
        return False
    return bool(_read_settings(name, arguments)[0].get("relative_step", True))


def _read_settings(name: str, arguments: Sequence[str]) -> tuple[dict[str, Any], list[UsageError]]:
    where, source = "training.optimizer_args", source_of(name)
    parameters = None if source is None else _table()[0].get(source.dotted)
    if parameters is not None:
        return read_settings(arguments, parameters, where, name)
    try:
        return parse_arguments(arguments, where), []
    except UsageError as error:
        return {}, [error]


def _optimizer_errors(training: TrainingTable) -> list[UsageError]:
    name = training.optimizer_type
    source = source_of(name)
    settings, errors = _read_settings(name, training.optimizer_args)
    if source is None and not _is_of_another_library(name):
        return [no_such_optimizer(name)]
    if source is None:
        try:
            require_allowed_module(name)
        except UsageError as error:
            return [error, *errors]
        source = _untabled(name)
        return [missing_package(name, source, "it is not installed"), *errors] if not is_installed(source) else errors
    if not is_installed(source):
        errors = [missing_package(name, source, "it is not installed"), *errors]
    if not errors:
        clash = _clash({**defaults_of(name), **settings}, source)
        errors = [UsageError(f"training.optimizer_args: {clash}", code="optimizer-arguments-clash")] if clash else []
    return errors


def is_installed(source: Source) -> bool:
    """Whether the package of an optimizer is there; it is not imported."""
    return importlib.util.find_spec(source.module.partition(".")[0]) is not None


def _untabled(name: str) -> Source:
    """The source of a dotted path that is not in the table."""
    module, _, class_name = name.rpartition(".")
    top = module.partition(".")[0]
    package, extra = _PACKAGES.get(top, (_OTHERS.get(top, top), ""))
    return Source(class_name, module, package, extra)


def _is_of_another_library(name: str) -> bool:
    """Whether it is a dotted path that is not in the table: only the trainer, which imports it, can check it."""
    module, dot, _ = name.rpartition(".")
    return bool(dot) and (module not in (*_PACKAGES, *_INNER) or module in _IN_PART)


def _clash(settings: Mapping[str, Any], source: Source) -> str:
    """A sentence on settings that a class cannot have together; empty where there are none."""
    needs_momentum = source.module == "bitsandbytes.optim" and source.class_name.startswith(("SGD", "LARS"))
    if needs_momentum and not settings.get("momentum", 0):
        return f"{source.class_name} needs a momentum above 0: set momentum=0.9."
    if settings.get("fused") and settings.get("foreach"):
        return "fused and foreach exclude each other: set one of them."
    if settings.get("nesterov") and source.class_name.startswith(("SGD", "LARS", "PytorchLARS")):
        if not settings.get("momentum", 0):
            return "nesterov needs a momentum above 0: set momentum=0.9."
        if settings.get("dampening", 0):
            return "nesterov needs dampening=0: leave dampening out."
    relative = settings.get("relative_step", True) or source.dotted != ADAFACTOR
    if settings.get("warmup_init") and not relative:
        return "warmup_init=True needs relative_step=True: set both or neither."
    return ""


def _schedule_errors(training: TrainingTable) -> list[UsageError]:
    """The errors in the schedule; none where the optimizer has no schedule, as the scripts ignore its settings then."""
    name = training.lr_scheduler
    own_rate = sets_its_own_rate(training.optimizer_type, training.optimizer_args)
    if name == "adafactor" and not own_rate and not is_schedule_free(training.optimizer_type):
        hint = "Choose cosine."
        if training.optimizer_type.lower() == "adafactor":
            hint = "It goes with relative_step=True: choose constant, or leave relative_step out."
        message = "training.lr_scheduler adafactor goes with optimizer_type Adafactor only, which sets its own rate."
        return [UsageError(message, hint, code="schedule-needs-adafactor")]
    if is_schedule_free(training.optimizer_type) or own_rate or name == "constant":
        return []
    try:
        schedule_settings(training)
    except UsageError as error:
        return [error]
    return []


def schedule_settings(training: TrainingTable) -> dict[str, Any]:
    """The parsed `lr_scheduler_args`.

    Raises:
        UsageError: one is wrong or missing.
    """
    where, name = "training.lr_scheduler_args", training.lr_scheduler
    settings, errors = read_settings(training.lr_scheduler_args, _table()[1].get(name, {}), where, name)
    if errors:
        raise errors[0]
    if name == "piecewise_constant":
        step_rules(settings)
    elif name == "polynomial" and not training.learning_rate > settings.get("lr_end", 1e-7):
        end = settings.get("lr_end", 1e-7)
        raise UsageError(
            f"{where}: lr_end={end:g} is not valid: enter a number below training.learning_rate"
            f" = {training.learning_rate:g}.",
            "The rate falls to lr_end: set a lower one.",
            code="schedule-end-too-high",
        )
    share = settings.get("min_lr_rate", training.lr_scheduler_min_lr_ratio)
    if name == "cosine_with_min_lr" and settings.get("min_lr") is not None and share is not None:
        hint = "Set one of min_lr, min_lr_rate and training.lr_scheduler_min_lr_ratio."
        raise UsageError(
            f"{where}: min_lr is given, and the lowest rate as a share too.", hint, code="schedule-lowest-rate-twice"
        )
    return settings


def step_rules(settings: Mapping[str, Any]) -> str:
    """The rules of piecewise_constant, "1:10,0.1:20,0.01": factor until step, ..., last factor.

    Raises:
        UsageError: they are missing or malformed.
    """
    hint = 'Set training.lr_scheduler_args = ["step_rules=1:10,0.1:20,0.01"].'
    if "step_rules" not in settings:
        raise UsageError(
            "training.lr_scheduler piecewise_constant needs its rules.", hint, code="schedule-rules-missing"
        )
    rules = str(settings["step_rules"])
    try:
        *pairs, last = rules.split(",")
        float(last)
        for pair in pairs:
            factor, step = pair.split(":")
            float(factor), int(step)
    except ValueError:
        message = f"training.lr_scheduler_args: the rules {printable(rules)!r} are malformed."
        raise UsageError(message, hint, code="schedule-rules-not-possible") from None
    return rules
