"""Converts Kohya's arguments to a configuration, with a note on each one that is not simply used."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from engine.config.conversion import Conversion, Rule, is_secret, shown
from engine.config.kohya.argument_values import integer_of, read_value
from engine.config.kohya.folders import set_repeats
from engine.config.kohya.network_args import add_defaults, module_of, network_args, within_limits
from engine.config.kohya.rules import (
    ARGUMENTS,
    OF_EVERY_FAMILY,
    UNREAD,
    nearest,
    rule_of,
    unread_by,
)
from engine.config.local_paths import CONTROLS_HINT, CONTROLS_MESSAGE, PATH_LISTS, PATH_OPTIONS, has_controls
from engine.config.problems import Problem

CLI_DEFAULTS: dict[str, Any] = {
    "network_dim": 4, "network_alpha": 1.0, "learning_rate": 2e-6, "lr_scheduler": "constant",
    "optimizer_type": "AdamW",
    "max_train_steps": 1600, "train_batch_size": 1, "mixed_precision": "no", "save_precision": "float",
    "enable_bucket": False, "max_bucket_reso": 1024, "caption_extension": ".caption", "cache_latents": False,
    "save_every_n_epochs": 0, "sample_every_n_steps": 0, "sample_at_first": False, "sample_sampler": "ddim",
    "sample_steps": 30, "sample_scale": 7.5, "validation_split": 0.0,
}  # fmt: skip
"""Defaults of the scripts that differ from those of this program."""
FLUX_DEFAULTS: dict[str, Any] = {"guidance_scale": 3.5, "timestep_sampling": "sigma", "discrete_flow_shift": 3.0}
"""The same for the FLUX script, except model_prediction_type, whose default trains on a mismatched target."""
EXACT_DEFAULTS: dict[str, Any] = {"v_parameterization": False, "zero_terminal_snr": False}
EXACT_FLUX_DEFAULTS: dict[str, Any] = {**FLUX_DEFAULTS, "model_prediction_type": "sigma_scaled"}
"""With `kohya_exact`: nothing is read from the checkpoint, and nothing is made better."""
OFF_AT_ZERO = frozenset({
    "noise_offset", "adaptive_noise_scale", "multires_noise_iterations", "ip_noise_gamma", "min_snr_gamma",
    "v_pred_like_loss", "scale_weight_norms", "save_every_n_steps", "sample_every_n_epochs", "save_last_n_epochs",
    "save_last_n_steps", "clip_skip", "max_train_epochs", "validate_every_n_steps", "blocks_to_swap",
    "save_n_epoch_ratio",
})  # fmt: skip
"""Arguments for which the scripts take 0 as unset."""


def convert_arguments(
    arguments: Mapping[str, Any],
    kind: str,
    defaults: Mapping[str, Any] = CLI_DEFAULTS,
    *,
    exact: bool = False,
    from_file: Collection[str] = (),
    family: str = "",
) -> Conversion:
    """A configuration for arguments of the scripts, with values of any type that can be converted.

    Args:
        defaults: values of arguments that are not given.
        from_file: arguments of a training TOML, in which the scripts ignore unknown names.
        exact: taken literally, as with `training.kohya_exact`.
        family: "sd15", "sdxl" or "flux" where it is known otherwise than from the arguments.
    """
    family = family or _family(arguments)
    conversion = Conversion(kind, arguments=arguments, exact=exact, family=family)
    flux = EXACT_FLUX_DEFAULTS if exact else FLUX_DEFAULTS
    own = flux if family == "flux" else EXACT_DEFAULTS if exact else {}
    for key, value in {**defaults, **own}.items():
        rule = rule_of(key)
        target = rule.target if rule is not None else f"sampling.{key}"
        conversion.set(target, value)
    for key, raw in arguments.items():
        rule = rule_of(key) if key in ARGUMENTS or (key == "num_processes" and key not in from_file) else None
        if rule is None:
            _unknown(conversion, key, raw, in_file=key in from_file)
        elif unread := unread_by(key, family):
            _argument(conversion, key, raw, Rule("no effect", "", unread))
        else:
            _argument(conversion, key, raw, rule)
    add_defaults(conversion)
    set_repeats(conversion)
    within_limits(conversion)
    return conversion


def _family(arguments: Mapping[str, Any]) -> str:
    """The family according to the arguments: "flux", "sd" for SD1.5 or SDXL, "" where they leave it open."""
    module = arguments.get("network_module")
    if isinstance(module, str) and module not in ("", *OF_EVERY_FAMILY):
        return "flux" if module.endswith("_flux") else "sd"
    return "flux" if any(isinstance(arguments.get(key), str) and arguments[key] for key in ("t5xxl", "ae")) else ""


def _argument(conversion: Conversion, key: str, raw: Any, rule: Rule) -> None:
    """Convert one argument of the scripts."""
    try:
        value = read_value(key, raw)
    except ValueError as error:
        if rule.status == "no effect":
            conversion.record(key, raw, rule)
        else:
            conversion.problems.append(Problem("", key, str(error)))
        return
    if value is None:
        conversion.unset.append(key)
        return
    paths = value if rule.target in PATH_LISTS else [value] if rule.target in PATH_OPTIONS else []
    broken = next((path for path in paths if isinstance(path, str) and has_controls(path)), None)
    if broken is not None:
        conversion.problems.append(Problem("", key, f"{broken!r} {CONTROLS_MESSAGE}", CONTROLS_HINT))
        return
    before = len(conversion.entries)
    if key in OFF_AT_ZERO and value == 0 and rule.target:
        conversion.record(key, value, Rule("honoured", rule.target, "0 is off"))
    elif key in _SPECIAL and rule.status != "no effect":
        _SPECIAL[key](conversion, key, value, rule)
    else:
        conversion.record(key, value, rule)
        if rule.target and rule.status in ("honoured", "better"):
            conversion.set(rule.target, value, key)
    for place, entry in enumerate(conversion.entries[before:], before):
        if entry.key == key and not is_secret(key):
            conversion.entries[place] = replace(entry, value=shown(key, raw))


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """A training TOML as Kohya reads it: one level of tables is flattened, and the later of two keys wins."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(value)
        else:
            flat[key] = value
    return flat


def _unknown(conversion: Conversion, key: str, value: Any, *, in_file: bool) -> None:
    """An unknown name: ignored by the scripts in a training TOML, and an error on a command line."""
    near = nearest(key)
    hint = f"Did you mean {near}?" if near else "No LoRA script of Kohya's has it."
    if key in UNREAD and in_file:
        conversion.record(key, value, Rule("no effect", "", "the GUI writes it, and no LoRA script reads it"))
    elif in_file:
        meant = f"; did you mean {near}?" if near else ""
        conversion.record(key, value, Rule("no effect", "", f"no argument of the LoRA scripts, which ignore it{meant}"))
    else:
        conversion.problems.append(Problem("", key, "unknown argument.", hint))


def _learning_rate(conversion: Conversion, key: str, value: float, rule: Rule) -> None:
    if value != 0:
        conversion.record(key, value, rule)
        conversion.set(rule.target, value, key)
        return
    conversion.record(key, value, Rule("honoured", rule.target, "0: what has no rate of its own is not trained"))
    for name in ("unet_lr", "text_encoder_lr"):
        if conversion.arguments.get(name) in (None, "", []):
            conversion.set(f"training.{name}", 0.0, key)


def _text_encoder_lr(conversion: Conversion, key: str, value: list[float], rule: Rule) -> None:
    if len(set(value[:2])) > 1 and not conversion.exact and conversion.family in ("sdxl", "sd", ""):
        text = "each text encoder has its own rate; Kohya's script for SDXL takes the first for both"
        conversion.record(key, value, Rule("better", rule.target, text))
        conversion.set(rule.target, value[:2], key)
        return
    if unlike := [f"{rate:g}" for rate in value if rate != value[0]]:
        text = "the first rate is used for every text encoder, as Kohya does; T5 is never trained"
        conversion.record(key, value, Rule("better", rule.target, f"{text}; without effect: {', '.join(unlike)}"))
    else:
        conversion.record(key, value, rule)
    conversion.set(rule.target, value[0], key)


def _constant(target_value: Any) -> Any:
    def put(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
        conversion.record(key, value, rule)
        conversion.set(rule.target, target_value, key)

    return put


def _model_as(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    conversion.record(key, value, Rule("honoured") if value == "safetensors" else rule)


def _model_type(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    conversion.record(key, value, Rule("honoured") if value == "flux" else rule)


def _epoch_ratio(conversion: Conversion, key: str, value: int, rule: Rule) -> None:
    epochs = integer_of(conversion.arguments.get("max_train_epochs"))
    if value < 0:
        conversion.record(key, value, Rule("honoured", rule.target, "below 0 is off"))
    elif not epochs:
        conversion.record(
            key, value, Rule("not supported", "", "it needs max_train_epochs: set save_every_n_epochs instead")
        )
    else:
        conversion.record(key, value, rule)
        conversion.set(rule.target, max(1, epochs // value), key)


def _alpha(conversion: Conversion, key: str, value: float, rule: Rule) -> None:
    if value == 0:
        conversion.record(key, value, Rule("honoured", rule.target, "0 is the rank"))
        rank = integer_of(conversion.arguments.get("network_dim")) or conversion.values["network"]["network_dim"]
        value = float(rank)
    else:
        conversion.record(key, value, rule)
    conversion.set(rule.target, value, key)


def _seed(conversion: Conversion, key: str, value: int, rule: Rule) -> None:
    conversion.record(key, value, Rule("honoured", rule.target))
    conversion.set(rule.target, value, key)


def _token_length(conversion: Conversion, key: str, value: int, rule: Rule) -> None:
    chunks = value // 75 * 75
    if chunks == value or chunks not in (75, 150, 225):
        conversion.record(key, value, rule)
        chunks = value
    else:
        conversion.record(
            key, value, Rule("better", rule.target, f"as {chunks}: the scripts use whole chunks of 75 tokens")
        )
    conversion.set(rule.target, chunks, key)


def _repeats(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    arguments = conversion.arguments
    if arguments.get("train_data_dir") and not (arguments.get("dataset_config") or arguments.get("in_json")):
        conversion.record(key, value, Rule("no effect", "", "the names of the folders have the repeats, as in Kohya"))
        return
    conversion.record(key, value, rule)
    conversion.set(rule.target, value, key)


def _config_file(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    conversion.record(key, value, Rule("no effect", "", "this file itself is read, and no other one"))


def _state(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    conversion.record(key, value, rule)


def _save_precision(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    conversion.record(key, value, rule)
    conversion.set(rule.target, {"fp32": "float", "no": "float"}.get(value, value), key)


def _prediction(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    if value == "sigma_scaled" and not conversion.exact:
        text = "Kohya's default trains on a mismatched target; raw is used"
        conversion.record(key, value, Rule("better", rule.target, text))
        conversion.set(rule.target, "raw", key)
        return
    conversion.record(key, value, rule)
    conversion.set(rule.target, value, key)


def installed_optimizer(name: str) -> tuple[str, str]:
    """The optimizer to use for one of another trainer, and why it is another: 8-bit AdamW needs a package that may be
    missing, and saves little for a LoRA."""
    from importlib.util import find_spec

    if name.lower() == "adamw8bit" and find_spec("bitsandbytes") is None:
        return "AdamW", "AdamW, fused: bitsandbytes is not installed, and eight bits save little for a LoRA"
    return name, ""


def _optimizer(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    name, text = (value, "") if conversion.exact else installed_optimizer(value)
    conversion.record(key, value, Rule("better", rule.target, text) if text else rule)
    conversion.set(rule.target, name, key)


def _eight_bits(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    _optimizer(conversion, key, "AdamW8bit", rule)


_NEAREST = {
    "CosineAnnealingLR": "cosine", "CosineAnnealingWarmRestarts": "cosine_with_restarts", "LinearLR": "linear",
    "PolynomialLR": "polynomial", "StepLR": "piecewise_constant", "MultiStepLR": "piecewise_constant",
    "ConstantLR": "constant_with_warmup", "ExponentialLR": "polynomial", "OneCycleLR": "cosine",
}  # fmt: skip
"""Schedules of PyTorch, and those of ours that are nearest."""


def _schedule_class(conversion: Conversion, key: str, value: str, rule: Rule) -> None:
    near = _NEAREST.get(value.rpartition(".")[2])
    conversion.record(key, value, replace(rule, text=f"{rule.text}: {near}") if near else rule)


_SPECIAL: dict[str, Any] = {
    "lr_scheduler_type": _schedule_class,
    "optimizer_type": _optimizer,
    "network_args": network_args,
    "learning_rate": _learning_rate,
    "text_encoder_lr": _text_encoder_lr,
    "use_8bit_adam": _eight_bits,
    "use_lion_optimizer": _constant("Lion"),
    "fp8_base": _constant("fp8"),
    "fp8_base_unet": _constant("fp8"),
    "network_module": module_of,
    "save_model_as": _model_as,
    "model_type": _model_type,
    "save_n_epoch_ratio": _epoch_ratio,
    "network_alpha": _alpha,
    "seed": _seed,
    "max_token_length": _token_length,
    "dataset_repeats": _repeats,
    "config_file": _config_file,
    "save_state": _state,
    "save_state_on_train_end": _state,
    "save_precision": _save_precision,
    "model_prediction_type": _prediction,
}
"""Arguments that need more than a copy."""
