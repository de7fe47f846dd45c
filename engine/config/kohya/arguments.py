"""From Kohya's arguments to a configuration, with a sentence for each one that is not simply taken over."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.config.kohya.rules import NETWORK_ARGS, SUPPORTED_MODULES, UNREAD, Rule, Status, rule_of
from engine.config.problems import Problem
from engine.text import printable

CLI_DEFAULTS: dict[str, Any] = {
    "network_dim": 4, "network_alpha": 1.0, "learning_rate": 2e-6, "lr_scheduler": "constant",
    "optimizer_type": "AdamW",
    "max_train_steps": 1600, "train_batch_size": 1, "mixed_precision": "no", "save_precision": "float",
    "enable_bucket": False, "max_bucket_reso": 1024, "caption_extension": ".caption", "cache_latents": False,
    "save_every_n_epochs": 0, "sample_every_n_steps": 0, "sample_at_first": False, "sample_sampler": "ddim",
    "sample_steps": 30, "sample_scale": 7.5,
}  # fmt: skip
"""What the scripts do where a file says nothing and this program would do something else."""
FLUX_DEFAULTS: dict[str, Any] = {"guidance_scale": 3.5, "timestep_sampling": "sigma", "discrete_flow_shift": 3.0}
"""The same of the FLUX script, but for its model_prediction_type, which trains on a mismatched target."""
EXACT_DEFAULTS: dict[str, Any] = {"v_parameterization": False, "zero_terminal_snr": False}
EXACT_FLUX_DEFAULTS: dict[str, Any] = {**FLUX_DEFAULTS, "model_prediction_type": "sigma_scaled"}
"""With `kohya_exact`: nothing is read from the checkpoint, and nothing is made better."""
OFF_AT_ZERO = frozenset({
    "noise_offset", "adaptive_noise_scale", "multires_noise_iterations", "ip_noise_gamma", "min_snr_gamma",
    "v_pred_like_loss", "scale_weight_norms", "save_every_n_steps", "sample_every_n_epochs", "save_last_n_epochs",
    "save_last_n_steps", "clip_skip", "max_train_epochs", "validate_every_n_steps", "blocks_to_swap",
})  # fmt: skip
"""Arguments that the scripts take for not given where they are 0."""
SECRETS = frozenset({"wandb_api_key", "huggingface_token"})
"""Never shown."""
_SPELLINGS = {"True": True, "true": True, "False": False, "false": False}


@dataclass(frozen=True)
class Entry:
    """What became of one key."""

    key: str
    value: str
    status: Status
    target: str
    text: str

    def line(self) -> str:
        """One sentence."""
        to = f" → {self.target}" if self.target else ""
        return f"{self.key} = {self.value}: {self.status}{to}{f' ({self.text})' if self.text else ''}"


@dataclass
class Conversion:
    """A file of Kohya's as a configuration."""

    kind: str
    """"training TOML", "GUI configuration", "command line"."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By table and key, as a preset has them."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of the scripts, as they were given."""
    unset: list[str] = field(default_factory=list)
    """Keys of a GUI file that are empty, off or 0, and change nothing."""
    exact: bool = False
    """Taken at its word, as with `training.kohya_exact`."""
    entries: list[Entry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def set(self, dotted: str, value: Any) -> None:
        """Put a value into the configuration."""
        table, _, key = dotted.partition(".")
        self.values.setdefault(table, {})[key] = value

    def tell(self, key: str, value: Any, rule: Rule) -> None:
        """Note what became of a key; one that is not supported is a problem."""
        shown = "(not shown)" if key in SECRETS else printable(_shown(value))
        self.entries.append(Entry(key, shown, rule.status, rule.target, rule.text))
        if rule.status == "not supported":
            hint = f"{rule.text[:1].upper()}{rule.text[1:]}."
            self.problems.append(Problem("", key, f"{shown} is given, which is not supported.", hint))

    def notes(self) -> list[str]:
        """The sentences that a person should read: everything that is not simply honoured."""
        return [entry.line() for entry in self.entries if entry.status != "honoured"]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def is_unset(value: Any) -> bool:
    """Whether a value means that the argument was not given: a flag that is off, nothing, an empty text or list."""
    return value is None or value is False or value == "" or value == []


def convert_arguments(
    arguments: Mapping[str, Any],
    kind: str,
    defaults: Mapping[str, Any] = CLI_DEFAULTS,
    *,
    exact: bool = False,
    from_file: Collection[str] = (),
) -> Conversion:
    """A configuration for arguments of the scripts by name, already of their types or as text.

    Args:
        defaults: what holds for arguments that are not given.
        from_file: those that a training TOML gives, where the scripts pass over keys of the GUI.
        exact: taken at its word, as with `training.kohya_exact`.
    """
    found = Conversion(kind, arguments=arguments, exact=exact)
    if arguments.get("network_module") == "networks.lora_flux":
        own = EXACT_FLUX_DEFAULTS if exact else FLUX_DEFAULTS
    else:
        own = EXACT_DEFAULTS if exact else {}
    for key, value in {**defaults, **own}.items():
        rule = rule_of(key)
        target = rule.target if rule is not None else f"sampling.{key}"
        found.set(target, value)
    for key, given in arguments.items():
        value = _SPELLINGS.get(given, given) if isinstance(given, str) else given
        if is_unset(value):
            continue
        rule = rule_of(key)
        if key in UNREAD and key in from_file:
            found.tell(key, value, Rule("no effect", "", "the GUI writes it, and no LoRA script reads it"))
        elif rule is None:
            _unknown(found, key, value)
        elif key in OFF_AT_ZERO and _number(value) == 0:
            found.tell(key, value, Rule("honoured", rule.target, "0 is off"))
        elif key in _SPECIAL:
            _special(found, key, value, rule)
        else:
            found.tell(key, value, rule)
            if rule.target and rule.status in ("honoured", "better"):
                found.set(rule.target, _number(value))
    return found


def _special(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    try:
        _SPECIAL[key](found, key, value, rule)
    except (ValueError, TypeError, ArithmeticError, LookupError):
        shown = printable(str(value))[:60]
        found.problems.append(Problem("", key, f"{shown!r} is given, which cannot be its value.", "Correct it."))


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """A training TOML as Kohya reads it: one level of tables is taken away, and the later of two keys wins."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(value)
        else:
            flat[key] = value
    return flat


def _unknown(found: Conversion, key: str, value: Any) -> None:
    from engine.config.problems import keys

    near = difflib.get_close_matches(key, [name for members in keys().values() for name in members], n=1)
    hint = f"Did you mean {near[0]}?" if near else "No LoRA script of Kohya's has it."
    found.problems.append(Problem("", key, "unknown argument.", hint))


def _number(value: Any) -> Any:
    """A number that is written as text, as GUI files and command lines have it; anything else as it is."""
    if not isinstance(value, str):
        return value
    for read in (int, float):
        try:
            return read(value)
        except ValueError:
            continue
    return value


def _network_args(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    for text in value if isinstance(value, list) else str(value).split():
        name, _, given = str(text).partition("=")
        own = NETWORK_ARGS.get(name)
        if own is None:
            found.problems.append(Problem("", f"network_args {name}", "unknown.", "Take it out."))
            continue
        if own.status == "not supported" and given in ("", "0", "0.0", "False", "None", "full", "all"):
            own = Rule("honoured", "", "as it is here")
        found.tell(f"network_args {name}", given, own)
        if own.status == "honoured" and own.target:
            found.set(own.target, _number(given))


def _text_encoder_lr(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    rates = [float(_number(rate)) for rate in (value if isinstance(value, list) else str(value).split())]
    if len(rates) > 1 and rates[1] and rates[1] != rates[0]:
        text = "the first rate is used for every text encoder, as Kohya does; T5 is never trained"
        found.tell(key, value, Rule("better", rule.target, text))
    else:
        found.tell(key, value, rule)
    found.set(rule.target, rates[0])


def _warmup(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    text = str(value).strip()
    number = float(text[:-1]) / 100 if text.endswith("%") else _number(value)
    found.tell(key, value, rule)
    found.set(rule.target, number)


def _constant(target_value: Any) -> Any:
    def put(found: Conversion, key: str, value: Any, rule: Rule) -> None:
        found.tell(key, value, rule)
        found.set(rule.target, target_value)

    return put


def _module(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    if value in SUPPORTED_MODULES:
        found.tell(key, value, rule)
        return
    text = "only LoRA: networks.lora, with conv_dim in network_args for a LoCon"
    found.tell(key, value, Rule("not supported", "", text))


def _model_as(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, Rule("honoured") if value == "safetensors" else rule)


def _model_type(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, Rule("honoured") if value == "flux" else rule)


def _epoch_ratio(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    epochs = _number(found.arguments.get("max_train_epochs"))
    if not epochs:
        found.tell(key, value, Rule("not supported", "", "it needs max_train_epochs: set save_every_n_epochs instead"))
        return
    found.tell(key, value, rule)
    found.set(rule.target, max(1, int(epochs) // int(_number(value))))


def _alpha(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    alpha = float(_number(value))
    if alpha == 0:
        found.tell(key, value, Rule("honoured", rule.target, "0 is the rank"))
        alpha = float(_number(found.arguments.get("network_dim", found.values["network"]["network_dim"])))
    else:
        found.tell(key, value, rule)
    found.set(rule.target, alpha)


def _seed(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, Rule("honoured", rule.target))
    found.set(rule.target, _number(value))


def _repeats(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    if found.arguments.get("train_data_dir") and not found.arguments.get("dataset_config"):
        found.tell(key, value, Rule("no effect", "", "the names of the folders have the repeats, as in Kohya"))
        return
    found.tell(key, value, rule)
    found.set(rule.target, _number(value))


def _config_file(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, Rule("no effect", "", "this file itself is read, and no other one"))


def _state(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, rule)


def _save_precision(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, rule)
    found.set(rule.target, {"fp32": "float", "no": "float"}.get(str(value), value))


def _list(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, rule)
    found.set(rule.target, [str(one) for one in value] if isinstance(value, list) else str(value).split())


def _text(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    found.tell(key, value, rule)
    found.set(rule.target, str(value))


def _prediction(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    if value == "sigma_scaled" and not found.exact:
        text = "Kohya's default trains on a mismatched target; raw is used"
        found.tell(key, value, Rule("better", rule.target, text))
        found.set(rule.target, "raw")
        return
    found.tell(key, value, rule)
    found.set(rule.target, value)


def _optimizer(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    from importlib.util import find_spec

    if str(value).lower() == "adamw8bit" and not found.exact and find_spec("bitsandbytes") is None:
        text = "AdamW, fused: bitsandbytes is not installed, and eight bits save little for a LoRA"
        found.tell(key, value, Rule("better", rule.target, text))
        found.set(rule.target, "AdamW")
        return
    found.tell(key, value, rule)
    found.set(rule.target, str(value))


def _eight_bits(found: Conversion, key: str, value: Any, rule: Rule) -> None:
    _optimizer(found, key, "AdamW8bit", rule)


_SPECIAL: dict[str, Any] = {
    "optimizer_type": _optimizer,
    "network_args": _network_args,
    "text_encoder_lr": _text_encoder_lr,
    "lr_warmup_steps": _warmup,
    "lr_decay_steps": _warmup,
    "use_8bit_adam": _eight_bits,
    "use_lion_optimizer": _constant("Lion"),
    "fp8_base": _constant("fp8"),
    "fp8_base_unet": _constant("fp8"),
    "network_module": _module,
    "save_model_as": _model_as,
    "model_type": _model_type,
    "save_n_epoch_ratio": _epoch_ratio,
    "network_alpha": _alpha,
    "seed": _seed,
    "dataset_repeats": _repeats,
    "config_file": _config_file,
    "save_state": _state,
    "save_state_on_train_end": _state,
    "save_precision": _save_precision,
    "optimizer_args": _list,
    "lr_scheduler_args": _list,
    "output_name": _text,
    "class_tokens": _text,
    "resolution": _text,
    "caption_prefix": _text,
    "caption_suffix": _text,
    "training_comment": _text,
    "model_prediction_type": _prediction,
}
"""Arguments that need more than being copied."""
