"""OneTrainer: the optimizer and its settings (facts: Nerogar/OneTrainer `modules/util/create.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config.conversion import Rule
from engine.config.kohya.argument_values import number_of
from engine.config.kohya.arguments import installed_optimizer
from engine.config.others.table import Reading, brief
from engine.config.problems import Problem

_OTHERS = "use ADAMW, CAME, ADAFACTOR or PRODIGY"
OPTIMIZERS = {
    "adamw": "AdamW", "adamw_8bit": "AdamW8bit", "adam": "Adam", "adam_8bit": "Adam", "adagrad": "Adagrad",
    "adafactor": "Adafactor", "lion": "Lion", "lion_8bit": "Lion8bit", "prodigy": "Prodigy", "rmsprop": "RMSprop",
    "sgd": "SGD", "schedule_free_adamw": "AdamWScheduleFree", "schedule_free_sgd": "SGDScheduleFree",
    "prodigy_plus_schedule_free": "prodigyplus.ProdigyPlusScheduleFree", "came": "pytorch_optimizer.CAME",
    "dadapt_ada_grad": "DAdaptAdaGrad", "dadapt_adam": "DAdaptAdam", "dadapt_adan": "DAdaptAdan",
    "dadapt_lion": "DAdaptLion", "dadapt_sgd": "DAdaptSGD", "adopt": "pytorch_optimizer.ADOPT",
    "adabelief": "pytorch_optimizer.AdaBelief", "tiger": "pytorch_optimizer.Tiger",
    **{name: f"bitsandbytes.optim.{own}" for name, own in {
        "ademamix": "AdEMAMix", "ademamix_8bit": "AdEMAMix8bit", "adagrad_8bit": "Adagrad8bit", "lamb": "LAMB",
        "lamb_8bit": "LAMB8bit", "lars": "LARS", "lars_8bit": "LARS8bit", "rmsprop_8bit": "RMSprop8bit",
        "sgd_8bit": "SGD8bit"}.items()},
    "came_8bit": Rule("not supported", "", "its states of 8 bits are OneTrainer's own: use CAME"),
    **dict.fromkeys(("muon", "muon_adv", "adamuon_adv"),
                    Rule("not supported", "", f"it is for the matrices of a whole model: {_OTHERS}")),
    **dict.fromkeys(("simplified_ademamix", "adopt_adv", "adamw_adv", "lion_adv", "prodigy_adv", "lion_prodigy_adv",
                     "signsgd_adv", "sinksgd_adv"),
                    Rule("not supported", "", f"adv-optm is not built in: {_OTHERS}")),
    **dict.fromkeys(("aida", "yogi"), Rule("not supported", "", f"its settings cannot be checked here: {_OTHERS}")),
}  # fmt: skip
"""optimizer.optimizer to training.optimizer_type."""
REMARKS = {
    "adam_8bit": "Adam of 32 bits, which is what OneTrainer runs under this name",
    "came": "the same as OneTrainer's own copy",
}
"""By word: what becomes of it, where its name differs."""
_DECAY, _EPS = {"weight_decay": "weight_decay"}, {"eps": "eps"}
_BETAS = {"beta1": "betas", "beta2": "betas"}
_THREE_BETAS = {**_BETAS, "beta3": "betas"}
_DECOUPLED = {**_DECAY, "decoupled_decay": "weight_decouple", "fixed_decay": "fixed_decay"}
_SMALL = {"min_8bit_size": "min_8bit_size"}
_ADAM = {**_BETAS, **_EPS, **_DECAY, "amsgrad": "amsgrad"}
_LION = {**_BETAS, **_DECAY}
_SGD = {"momentum": "momentum", "dampening": "dampening", "nesterov": "nesterov", **_DECAY}
_GROWTH = {"d0": "d0", "growth_rate": "growth_rate"}
_RMSPROP = {"alpha": "alpha", "momentum": "momentum", "centered": "centered", **_EPS, **_DECAY}
_ADEMAMIX = {**_THREE_BETAS, **_EPS, **_DECAY, **_SMALL, "alpha": "alpha"}
_LAMB = {**_ADAM, **_SMALL, "bias_correction": "bias_correction", "adam_w_mode": "adam_w_mode",
         "max_unorm": "max_unorm"}  # fmt: skip
_LARS = {**_SGD, **_SMALL, "max_unorm": "max_unorm"}
_BNB = "bitsandbytes.optim."
SETTINGS: dict[str, dict[str, str]] = {
    "AdamW": _ADAM, "Adam": _ADAM,
    "AdamW8bit": {**_BETAS, **_EPS, **_DECAY, **_SMALL},
    "Lion": _LION, "Lion8bit": _LION,
    "Prodigy": {**_BETAS, **_EPS, **_DECAY, **{key: key for key in (
        "beta3", "decouple", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate", "slice_p")}},
    "prodigyplus.ProdigyPlusScheduleFree": {**_BETAS, **_EPS, **_DECAY, **{key: key for key in (
        "beta3", "weight_decay_by_lr", "use_bias_correction", "d0", "d_coef", "prodigy_steps", "use_speed",
        "split_groups", "split_groups_mean", "factored", "factored_fp32", "use_stableadamw", "use_cautious",
        "use_grams", "use_adopt", "stochastic_rounding", "d_limiter", "use_schedulefree", "schedulefree_c",
        "use_orthograd")}},
    "Adafactor": {**_DECAY, **{key: key for key in (
        "clip_threshold", "decay_rate", "scale_parameter", "relative_step", "warmup_init")}},
    "AdamWScheduleFree": {**_BETAS, **_EPS, **_DECAY, "r": "r", "weight_lr_power": "weight_lr_power"},
    "SGDScheduleFree": {"momentum": "momentum", **_DECAY, "r": "r", "weight_lr_power": "weight_lr_power"},
    "SGD": _SGD, "RMSprop": _RMSPROP,
    "Adagrad": {"lr_decay": "lr_decay", **_EPS, **_DECAY},
    "pytorch_optimizer.CAME": {**_THREE_BETAS, **_DECAY, "eps": "eps1", "eps2": "eps2"},
    "pytorch_optimizer.ADOPT": {**_BETAS, **_EPS, **_DECOUPLED},
    "pytorch_optimizer.AdaBelief": {**_BETAS, **_EPS, **_DECOUPLED, "amsgrad": "ams_bound", "rectify": "rectify",
                                    "degenerated_to_sgd": "degenerated_to_sgd"},
    "pytorch_optimizer.Tiger": {"beta1": "beta", **_DECOUPLED},
    "DAdaptAdaGrad": {"momentum": "momentum", **_EPS, **_DECAY, **_GROWTH},
    "DAdaptAdam": {**_BETAS, **_EPS, **_DECAY, **_GROWTH, "decouple": "decouple",
                   "use_bias_correction": "use_bias_correction"},
    "DAdaptAdan": {**_THREE_BETAS, **_EPS, **_DECAY, **_GROWTH, "no_prox": "no_prox"},
    "DAdaptLion": {**_BETAS, **_DECAY, "d0": "d0"},
    "DAdaptSGD": {"momentum": "momentum", **_DECAY, **_GROWTH},
    f"{_BNB}AdEMAMix": {**_ADEMAMIX, "optim_bits": "optim_bits"}, f"{_BNB}AdEMAMix8bit": _ADEMAMIX,
    f"{_BNB}Adagrad8bit": {"lr_decay": "lr_decay", **_EPS, **_DECAY, **_SMALL,
                           "initial_accumulator_value": "initial_accumulator_value"},
    f"{_BNB}LAMB": {**_LAMB, "optim_bits": "optim_bits"}, f"{_BNB}LAMB8bit": _LAMB,
    f"{_BNB}LARS": _LARS, f"{_BNB}LARS8bit": _LARS,
    f"{_BNB}RMSprop8bit": {**_RMSPROP, **_SMALL}, f"{_BNB}SGD8bit": {**_SGD, **_SMALL},
}  # fmt: skip
"""By optimizer: OneTrainer's settings to those of the class; those that are one list have the same name."""
_NOT_HERE = {"cautious": "set it to false", "use_cautious": "set it to false"}
"""Settings that change an optimizer and that ours may lack, with what to do where they are on."""
SETTINGS_DEFAULTS: dict[str, dict[str, Any]] = {
    "Adafactor": {"scale_parameter": False, "relative_step": False, "warmup_init": False},
    "Lion8bit": {"beta2": 0.999}, "Prodigy": {"slice_p": 11}, "DAdaptLion": {"beta2": 0.999},
    "pytorch_optimizer.AdaBelief": {"rectify": True},
    "pytorch_optimizer.Tiger": {"beta1": 0.9, "weight_decay": 0.0},
    f"{_BNB}LAMB": {"max_unorm": 1.0}, f"{_BNB}LAMB8bit": {"max_unorm": 1.0},
}  # fmt: skip
"""OneTrainer's defaults that differ from those of the class."""
BETAS: dict[str, tuple[float, ...]] = {
    "Lion": (0.9, 0.99), "Lion8bit": (0.9, 0.999), "pytorch_optimizer.CAME": (0.9, 0.999, 0.9999),
    "prodigyplus.ProdigyPlusScheduleFree": (0.9, 0.99), "pytorch_optimizer.ADOPT": (0.9, 0.9999),
    "DAdaptAdan": (0.98, 0.92, 0.99), f"{_BNB}AdEMAMix": (0.9, 0.999, 0.9999),
    f"{_BNB}AdEMAMix8bit": (0.9, 0.999, 0.9999),
}  # fmt: skip
"""Betas where the file has only some of them; for all others 0.9 and 0.999."""


def optimizer(reading: Reading) -> None:
    """The optimizer and its settings."""
    if reading.has("optimizer"):
        message = f"{brief(repr(reading.content['optimizer']))} is not valid: enter a table."
        reading.conversion.problems.append(Problem("", "optimizer", message))
        return
    chosen = reading.chosen("optimizer.optimizer")
    if chosen is None:
        return
    name, other = installed_optimizer(chosen)
    text = other or REMARKS.get(str(reading.get("optimizer.optimizer")).lower(), "")
    reading.use("optimizer.optimizer", "training.optimizer_type", name, text, "better" if other else "honoured")
    lines = _settings(name, _read(reading, name))
    if lines:
        reading.conversion.set("training.optimizer_args", lines, "optimizer.optimizer")


def _read(reading: Reading, chosen: str) -> dict[str, Any]:
    """The settings of the file by OneTrainer's names, over its defaults; every key of the table gets a line."""
    rows = SETTINGS.get(chosen, {})
    values: dict[str, Any] = {**SETTINGS_DEFAULTS.get(chosen, {})}
    own = {key: key.removeprefix("optimizer.") for key in reading.content if key.startswith("optimizer.")}
    own.update({"weight_decay": "weight_decay"} if reading.has("weight_decay") else {})
    for key, setting in own.items():
        if setting == "optimizer":
            continue
        value = reading.content[key]
        if value is None:
            reading.conversion.unset.append(key)
        elif setting in _NOT_HERE and setting not in rows and value is True:
            reading.fail(key, f"{chosen} has it not here: {_NOT_HERE[setting]}")
        elif setting == "__version" or setting not in rows:
            reading.record(key, "no effect", f"no setting of {chosen} here")
        elif isinstance(value, bool) or number_of(value) is not None:
            values[setting] = value
            reading.record(key, "honoured", "", "training.optimizer_args")
        else:
            message = f"{brief(repr(value))} is not valid: enter a number, or true or false."
            reading.conversion.problems.append(Problem("", key, message))
    return values


def _settings(chosen: str, values: Mapping[str, Any]) -> list[str]:
    """optimizer_args: those that are one list, as betas, together."""
    rows = SETTINGS.get(chosen, {})
    lines = [f"{rows[key]}={value}" for key, value in values.items() if rows.get(key) not in (None, "betas")]
    if any(rows.get(key) == "betas" for key in values):
        betas = BETAS.get(chosen, (0.9, 0.999))
        lines.append(f"betas={','.join(str(values.get(f'beta{place}', beta)) for place, beta in enumerate(betas, 1))}")
    return lines
