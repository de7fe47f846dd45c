"""Converts `network_module` and the arguments that Kohya's scripts pass on to it (`network_args`)."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from engine.config.conversion import Conversion, Rule
from engine.config.key_values import guess_value, is_off
from engine.config.kohya.argument_values import integer_of, number_of
from engine.config.kohya.layer_args import read_layer_arg
from engine.config.kohya.rules import LAYER_ARGS, LYCORIS_SETTINGS, NETWORK_ARGS, SUPPORTED_MODULES
from engine.config.network import IMPLIED, LYCORIS, READ_BY_SCRIPTS, NetworkTable
from engine.config.problems import Problem, sentence
from engine.text import printable

ON_BY_TEXT = frozenset({"train_t5xxl"})
"""Keys of network_args that the scripts compare with the text True."""
ON_BY_ANY_TEXT = frozenset({"decompose_both"})
"""Keys that LyCORIS takes for on whatever their text is, "False" too."""
_LYCORIS_TARGETS = frozenset(f"network.{name}" for name in LYCORIS_SETTINGS)
_LARGEST_RANK = 1024
_RANKS = ("conv_dim", "conv_alpha")


def network_args(conversion: Conversion, key: str, value: list[str], rule: Rule) -> None:
    """Convert `network_args`: each is "name=value"."""
    for text in value:
        name, _, raw = text.partition("=")
        own = NETWORK_ARGS.get(name)
        if own is None:
            conversion.problems.append(Problem("", f"network_args {printable(name)}", "unknown.", "Remove it."))
            continue
        if name in LAYER_ARGS:
            read_layer_arg(conversion, name, raw)
            continue
        raw = raw.strip().strip("'\"") if own.target else raw
        if own.status == "not supported" and (is_off(raw) or raw.strip().lower() in ("full", "all")):
            own = Rule("honoured", "", "as it is here")
        elif own.target in _LYCORIS_TARGETS and not _reads(conversion, own.target):
            own = Rule("no effect", "", f"{conversion.arguments.get('network_module')} does not read it")
        elif name in ON_BY_TEXT and raw != "True":
            own = Rule("no effect", "", "the scripts switch it on by the text True only")
        elif name in ON_BY_ANY_TEXT and is_off(raw):
            own = Rule("better", own.target, "off, as it says: LyCORIS takes any text for on")
        elif name in _RANKS and is_off(raw) and _is_lycoris(conversion):
            own = Rule("honoured", "", "0 is that of the other layers")
        if not (own.target and own.status in ("honoured", "better")):
            conversion.record(f"network_args {name}", raw, own)
        elif guess_value(raw) is None:
            conversion.record(f"network_args {name}", raw, Rule("honoured", "", "not set"))
        else:
            _set(conversion, name, raw, own)


def _set(conversion: Conversion, name: str, raw: str, rule: Rule) -> None:
    """Set the setting that an argument is for."""
    field = rule.target.partition(".")[2]
    value: Any = raw.lower()
    annotation = str(NetworkTable.model_fields[field].annotation)
    if "bool" in annotation:
        value = not is_off(raw)
    elif "int" in annotation or "float" in annotation:
        number = integer_of(guess_value(raw))
        value = number_of(guess_value(raw)) if number is None else number
        if value is None:
            message = f"{printable(raw)!r} is not valid: enter a number."
            conversion.problems.append(Problem("", f"network_args {name}", message))
            return
    if field == "algo" and value in _OTHER_KINDS:
        conversion.record(f"network_args {name}", raw, Rule("not supported", "", _OTHER_KINDS[value]))
        return
    if "Literal" in annotation:
        try:
            NetworkTable.model_validate({field: value})
        except ValidationError as error:
            conversion.problems.append(Problem("", f"network_args {name}", sentence(error.errors()[0])))
            return
    conversion.record(f"network_args {name}", raw, rule)
    conversion.set(rule.target, value, "network_args")


_OTHER_KINDS = {
    "dylora": "DyLoRA is not built in: choose lora",
    "tlora": "LyCORIS' T-LoRA, which only LyCORIS reads, is not built in: choose lora with network.tlora_min_rank",
}


def module_of(conversion: Conversion, key: str, value: Any, rule: Rule) -> None:
    """Convert `network_module`. Kohya's modules for LoRAs follow from the model."""
    if value not in SUPPORTED_MODULES:
        text = "only networks.lora, networks.loha, networks.lokr and lycoris.kohya"
        conversion.record(key, value, Rule("not supported", "", text))
        return
    conversion.record(key, value, rule)
    if value == LYCORIS or value in IMPLIED:
        conversion.set(rule.target, value, key)


def _reads(conversion: Conversion, target: str) -> bool:
    """Whether the module of the training reads an argument of LyCORIS."""
    module = conversion.arguments.get("network_module")
    return module in ("locon.locon_kohya", LYCORIS) or (
        module in IMPLIED and target.partition(".")[2] in READ_BY_SCRIPTS
    )


def _is_lycoris(conversion: Conversion) -> bool:
    return conversion.arguments.get("network_module") == LYCORIS


def add_defaults(conversion: Conversion) -> None:
    """LyCORIS' DoRA has the norms of outputs where wd_on_output is not given, ours those of inputs."""
    network = conversion.values.get("network", {})
    if network.get("dora_wd") and "wd_on_output" not in network:
        conversion.set("network.wd_on_output", True, "network_args")


def within_limits(conversion: Conversion) -> None:
    """A rank above every layer's, as in the GUI's presets for LoKr, means that LoKr's matrices are not factored."""
    network = conversion.values.get("network", {})
    if network.get("algo") != "lokr" and IMPLIED.get(network.get("network_module", "")) != "lokr":
        return
    large = [key for key in ("network_dim", "conv_dim") if _is_large(network.get(key))]
    for key in large:
        text = f"full_matrix, with the rank {_LARGEST_RANK}: no layer has so large a matrix"
        conversion.record(key, network[key], Rule("better", f"network.{key}", text))
        network[key] = _LARGEST_RANK
    if large:
        network["full_matrix"] = True


def _is_large(rank: Any) -> bool:
    return isinstance(rank, int) and rank > _LARGEST_RANK
