"""The kohya_ss GUI's LoRA configuration (JSON): its own keys, its unreliable types, its defaults.

Facts: kohya_ss `lora_gui.py`, `update_my_data`: everything empty, false or 0 is left to the scripts' defaults.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.arguments import OFF_AT_ZERO, convert_arguments
from engine.config.kohya.gui_keys import (
    DEFAULT_RATE,
    EMPTY_DEFAULTS,
    ENCODER_RATES,
    GUI_DEFAULTS,
    GUI_RULES,
    LORA_TYPES,
    LYCORIS,
    NETWORK,
    NOISE,
    OTHER_FAMILIES,
    REFUSED,
    RENAMED,
    SD3_ONLY,
    SILENT,
    TOGETHER,
    LoraType,
)
from engine.config.kohya.gui_length import read_length
from engine.config.kohya.gui_reading import GuiReading, is_nothing, is_zero
from engine.config.kohya.rules import ARGUMENTS, FLAGS, rule_of
from engine.config.layers import RATIOS
from engine.config.problems import Problem

_GGPO = ("ggpo_beta", "ggpo_sigma")


def is_gui_configuration(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a configuration of the GUI's LoRA tab."""
    return "LoRA_type" in content or ("max_resolution" in content and "pretrained_model_name_or_path" in content)


def convert_gui(content: Mapping[str, Any], *, exact: bool = False) -> Conversion:
    """A configuration for the GUI's JSON of any version.

    Args:
        exact: taken literally, as with `training.kohya_exact`.
    """
    reading = GuiReading(content, exact)
    unset = [key for key, value in content.items() if is_nothing(value, key)]
    for key, value in content.items():
        if not is_nothing(value, key) and key not in TOGETHER:
            _sort(key, value, reading)
    _rates(reading)
    read_length(reading)
    _noise(reading)
    _network(reading)
    _optimizer(reading)
    _rest(reading)
    extra = _additional(reading)
    defaults, family = _defaults(content), reading.family
    conversion = convert_arguments(reading.arguments | extra, "GUI configuration", defaults, exact=exact, family=family)
    own = {argument: key for argument, key in reading.origin.items() if argument not in extra}
    conversion.entries = [*reading.conversion.entries, *_renamed(conversion.entries, own)]
    reported = [problem.key for problem in reading.conversion.problems]
    conversion.problems = [_own_name(problem, own) for problem in conversion.problems]
    conversion.problems = [
        *reading.conversion.problems,
        *(problem for problem in conversion.problems if problem.key not in reported),
    ]
    conversion.sources = {
        dotted: "additional_parameters" if source in extra
        else dotted.partition(".")[2] if source == "network_args" else reading.sources.get(source) or source
        for dotted, source in conversion.sources.items()
    }  # fmt: skip
    if reading.flux or reading.sdxl:
        conversion.set("model.family", "flux" if reading.flux else "sdxl")
    recorded = {entry.key for entry in conversion.entries}
    conversion.unset = [
        key for key in unset if key not in recorded and not _record_default(key, content[key], conversion)
    ]
    return conversion


def _defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    """The values of arguments that the GUI does not pass on: the scripts' default for a key that the file has, the
    GUI's default for a missing one."""
    names = {argument: key for key, argument in RENAMED.items()}
    defaults = {}
    for argument, value in GUI_DEFAULTS.items():
        if names.get(argument, argument) not in content:
            defaults[argument] = value
        elif argument in EMPTY_DEFAULTS:
            defaults[argument] = EMPTY_DEFAULTS[argument]
    return defaults


def _own_name(problem: Problem, origin: Mapping[str, str]) -> Problem:
    return replace(problem, key=origin.get(problem.key) or problem.key)


def _renamed(entries: list[Any], origin: Mapping[str, str]) -> list[Any]:
    """Entries under the GUI's own names, without those that are recorded already."""
    kept = []
    for entry in entries:
        key = origin.get(entry.key, entry.key.removeprefix("network_args "))
        if key or entry.status != "honoured":
            kept.append(replace(entry, key=key or entry.key))
    return kept


def _record_default(key: str, value: Any, conversion: Conversion) -> bool:
    """Report a key that the GUI drops because it is empty, off or 0, where the default then is another value."""
    from engine.config.schema import RunConfig

    rule = rule_of(RENAMED.get(key, key))
    if key in TOGETHER or key in OFF_AT_ZERO or rule is None or rule.status not in ("honoured", "better"):
        return False
    table, _, name = rule.target.partition(".")
    default = conversion.values.get(table, {}).get(name, getattr(getattr(RunConfig(), table, None), name, None))
    if not default or isinstance(default, list) or (value is False and default is not True) or key in FLAGS:
        return False
    what = "a 0" if is_zero(value) else "an empty value"
    text = f"{default:g}" if isinstance(default, float) else str(default)
    conversion.record(key, value, Rule("no effect", "", f"the GUI drops {what}, so that {text} is used"))
    return True


def _sort(key: str, value: Any, reading: GuiReading) -> None:
    """One key that does not depend on others."""
    other = key.startswith(OTHER_FAMILIES)
    if key in RENAMED:
        switch = "sdxl" if key.startswith("sdxl_") else "flux1_checkbox" if key.startswith("flux1_") else ""
        if switch and not (reading.sdxl if switch == "sdxl" else reading.flux):
            reading.record(key, "no effect", f"{switch} is off")
        else:
            reading.take(RENAMED[key], value, key)
    elif key in NETWORK:
        return
    elif key in SILENT:
        reading.record(key, "no effect", SILENT[key])
    elif key in REFUSED or (other and key.endswith("checkbox")):
        reading.record(
            key, "not supported", REFUSED.get(key, "only Stable Diffusion 1.5, SDXL and FLUX can be trained")
        )
    elif other:
        reading.record(key, "no effect", "for another family of models")
    elif key in LYCORIS:
        return
    elif key in SD3_ONLY:
        reading.record(key, "no effect", GUI_RULES[key].text)
    elif key in ARGUMENTS:
        reading.arguments[key] = value
    else:
        reading.record(key, "no effect", "no LoRA script of Kohya's reads this key")


def _rates(reading: GuiReading) -> None:
    """Learning rates. A part with rate 0 is not trained; if both are 0, learning_rate is used for both."""
    main = reading.number("learning_rate", DEFAULT_RATE)
    unet = reading.number("unet_lr", DEFAULT_RATE)
    text = reading.number("text_encoder_lr", 0.0 if reading.flux else DEFAULT_RATE)
    unset = reading.flux and "text_encoder_lr" not in reading.content
    if reading.number("t5xxl_lr"):
        reading.record("t5xxl_lr", "no effect", "T5 is never trained")
    if not (unet or text or main):
        reading.record(
            "learning_rate", "no effect", "all rates are 0: the GUI refuses that, as nothing would be trained"
        )
        reading.take("unet_lr", 0.0, "unet_lr")
        reading.take("text_encoder_lr", 0.0, "text_encoder_lr")
        return
    own = [reading.number(key, text) for key in ENCODER_RATES]
    if any(not reading.off(key) for key in ENCODER_RATES) and not reading.flux:
        named = next(key for key in ENCODER_RATES if not reading.off(key))
        reading.take("text_encoder_lr", own, named)
        text = max(own)
    for key, rate, other, only, part in (
        ("unet_lr", unet, text, "network_train_text_encoder_only", "only the text encoder is trained"),
        ("text_encoder_lr", text, unet, "network_train_unet_only", "no text encoder is trained"),
    ):
        if key in reading.arguments:
            continue
        if rate:
            reading.take(key, rate, key)
        elif other or (unset and key == "text_encoder_lr"):
            reading.take(only, True)
            if key in reading.content:
                reading.record(key, "honoured", f"0: {part}", f"network.{only}")
        elif main and key in reading.content:
            reading.record(key, "honoured", "0 for both rates: learning_rate is its rate", f"training.{key}")


def _noise(reading: GuiReading) -> None:
    """Offset noise or multires noise, as set by the GUI's switch."""
    chosen = "Multires" if str(reading.content.get("noise_offset_type", "Original")) == "Multires" else "Original"
    if not reading.off("noise_offset_type"):
        reading.record("noise_offset_type", "honoured", GUI_RULES["noise_offset_type"].text)
    for kind, (first, *others) in NOISE.items():
        leads = not reading.off(first)
        for key in (first, *others):
            if reading.off(key):
                continue
            if kind == chosen and leads:
                reading.take(key, reading.content[key], key)
            elif leads:
                reading.record(key, "no effect", f"noise_offset_type is {chosen}")
            else:
                reading.record(key, "no effect", f"{first} is off")


def _network(reading: GuiReading) -> None:
    """The LoRA type, and its network_args."""
    content = reading.content
    kind = str(content.get("LoRA_type") or "Standard")
    kind = {"LoCon": "LyCORIS/LoCon"}.get(kind, kind)
    chosen, target = LORA_TYPES.get(kind), "network.network_module"
    if chosen is None:
        text = f"choose one of {', '.join(LORA_TYPES)}"
        reading.record("LoRA_type", "not supported", text, value=kind)
        chosen = LORA_TYPES["Standard"]
    else:
        reading.record("LoRA_type", "honoured", "", target, kind)
    is_plain = chosen.module in ("networks.lora", "networks.lora_flux")
    args = []
    for key in (key for key in NETWORK if key not in _GGPO and not reading.off(key)):
        if is_plain or key in chosen.passed or key in RATIOS:
            args.append(f"{key}={content[key]}")
        else:
            reading.record(key, "no effect", f"the GUI does not pass it on for {kind}")
    for key in _GGPO:
        if not reading.off(key) and not reading.on("train_lora_ggpo"):
            reading.record(key, "no effect", "train_lora_ggpo is off")
    args += _of_type(reading, chosen, kind)
    reading.take("network_args", args)
    own = "networks.lora_flux" if reading.flux else "networks.lora"
    reading.take("network_module", own if is_plain else chosen.module)
    if reading.on("split_mode"):
        reading.take("split_mode", True, "split_mode")


def _of_type(reading: GuiReading, chosen: LoraType, kind: str) -> list[str]:
    """The network_args of a LoRA type alone; keys of other types are reported."""
    args = [f"algo={chosen.algo}"] if chosen.algo else []
    reading.origin |= {"network_args algo": "", "network_args preset": "LyCORIS_preset"}
    for key in ("conv_dim", "conv_alpha", *LYCORIS):
        if key == "LyCORIS_preset" and chosen.algo and key in reading.content:
            args.append(f"preset={reading.content[key]}")
        elif reading.off(key):
            if key == "decompose_both" and key in chosen.passed and key in reading.content:
                reading.record(key, "better", "off, as the GUI shows it: LyCORIS takes the text False for on")
        elif key in chosen.passed:
            args.append(f"{key}={reading.content[key]}")
        else:
            reading.record(key, "no effect", f"the GUI does not pass it on for {kind}")
    return args


def _optimizer(reading: GuiReading) -> None:
    eight_bits = not reading.off("use_8bit_adam")
    if "optimizer" not in reading.content and "optimizer_type" not in reading.arguments:
        name = "AdamW8bit" if eight_bits else "AdamW"
        reading.take("optimizer_type", name, "use_8bit_adam" if eight_bits else "")
    elif eight_bits:
        reading.record("use_8bit_adam", "no effect", "optimizer decides")
    for key in ("optimizer_args", "lr_scheduler_args"):
        value = reading.content.get(key)
        if not reading.off(key):
            reading.take(key, value.replace('"', "").split() if isinstance(value, str) else value, key)


def _rest(reading: GuiReading) -> None:
    """Prompts, processes, and keys that are only reported."""
    content = reading.content
    for key in ("sdxl", "sdxl_checkbox", "flux1_checkbox"):
        if reading.on(key):
            rule = GUI_RULES[key]
            reading.record(key, rule.status, rule.text, rule.target)
    lines = [line for line in str(content.get("sample_prompts") or "").splitlines() if line.strip()]
    if lines:
        reading.take("sample_prompts", [line for line in lines if not line.lstrip().startswith("#")], "sample_prompts")
    if not reading.off("xformers"):
        reading.record("xformers", "no effect", "attention is PyTorch's own")
    if reading.on("use_wandb"):
        reading.take("log_with", "wandb", "use_wandb")
    if processes := reading.integer("num_processes"):
        reading.take("num_processes", processes, "num_processes")


def _additional(reading: GuiReading) -> dict[str, Any]:
    from engine.config.kohya.command_line import read_arguments

    text = str(reading.content.get("additional_parameters") or "").strip()
    if not text:
        return {}
    arguments = read_arguments(_words(text, reading.conversion), reading.conversion, reading.family)
    names = ", ".join(arguments)
    reading.record("additional_parameters", "honoured", GUI_RULES["additional_parameters"].text, value=names)
    return arguments


def _words(text: str, conversion: Conversion) -> list[str]:
    """`text` split like in a shell, except that a backslash, as in Windows paths, is no escape."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
    try:
        return list(lexer)
    except ValueError:
        hint = "Close it, or remove it."
        conversion.problems.append(Problem("", "additional_parameters", "a quotation mark is not closed.", hint))
        return []
