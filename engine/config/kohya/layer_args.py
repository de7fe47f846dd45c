"""Arguments inside Kohya's `network_args` that choose layers and give them ranks and rates: to and from settings."""

from __future__ import annotations

import ast
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from engine.config import block_values
from engine.config.conversion import Conversion, Rule
from engine.config.flux import LAYER_SETTINGS, FluxTable
from engine.config.key_values import number_text
from engine.config.kohya.argument_values import number_of
from engine.config.kohya.rules import LAYER_ARGS
from engine.config.layers import BLOCK_SETTINGS, PATTERN_LISTS, RATIOS, ROWS_OF_WEIGHTS, LayersTable
from engine.config.network import KOHYA, LYCORIS, NetworkTable
from engine.config.problems import Problem, sentence
from engine.config.schema import RunConfig

_ROWS = {25: (0, 12, 13, 25), 23: (1, 10, 13, 22)}
"""Length of a list of all blocks to the ends of its down, middle and up blocks."""
_BY_NAME = ("network_reg_dims", "network_reg_lrs")
_READ_BY = {
    KOHYA: (*BLOCK_SETTINGS, *RATIOS),
    "networks.lora_flux": (*LAYER_SETTINGS, *_BY_NAME, *RATIOS),
    LYCORIS: ("preset", *RATIOS),
    "locon.locon_kohya": (),
    "networks.loha": (*PATTERN_LISTS, *_BY_NAME, *RATIOS),
    "networks.lokr": (*PATTERN_LISTS, *_BY_NAME, *RATIOS),
}
"""The arguments of this kind that Kohya's modules read."""


def read_layer_arg(conversion: Conversion, name: str, raw: str) -> None:
    """Convert one of `LAYER_ARGS`."""
    rule, module = LAYER_ARGS[name], conversion.arguments.get("network_module")
    key, text = f"network_args {name}", raw.strip().strip("'\"")
    if isinstance(module, str) and name not in _READ_BY.get(module, (name,)):
        conversion.record(key, raw, Rule("no effect", "", f"{module} does not read it"))
    elif name == "split_qkv" and text != "True":
        conversion.record(key, raw, Rule("no effect", "", "the scripts switch it on by the text True only"))
    elif text == "" or (name in RATIOS and number_of(text) == 0):
        conversion.record(key, raw, Rule("honoured", "", "not set"))
    else:
        _set(conversion, name, raw, _value(name, text, module), rule)


def _set(conversion: Conversion, name: str, raw: str, value: Any, rule: Rule) -> None:
    table, _, field = rule.target.partition(".")
    model: type[NetworkTable] | type[FluxTable] = NetworkTable if table == "network" else FluxTable
    try:
        model.model_validate({field: value})
    except ValidationError as error:
        conversion.problems.append(Problem("", f"network_args {name}", sentence(error.errors()[0])))
        return
    conversion.record(f"network_args {name}", raw, rule)
    conversion.set(rule.target, value, "network_args")


def _value(name: str, text: str, module: Any) -> Any:
    if name in PATTERN_LISTS:
        return [on_kohya_names(pattern) for pattern in _literal(text)]
    if name in _BY_NAME and module in ("networks.loha", "networks.lokr"):
        pairs = [entry.partition("=") for entry in text.split(",") if entry.strip()]
        return ",".join(f"{on_kohya_names(pattern.strip())}={value}" for pattern, _, value in pairs)
    if name == "split_qkv":
        return True
    number = number_of(text)
    is_number = name in (*RATIOS, "block_lr_zero_threshold") or LAYER_ARGS[name].text == "rank"
    return number if is_number and number is not None else text


def _literal(text: str) -> list[str]:
    """A list of texts, or one text, as Python writes them; else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def on_kohya_names(pattern: str) -> str:
    """A pattern that must match a whole path with dots, as one that is searched in Kohya's name of the layer."""
    return f"^lora_[a-z0-9]+_(?:{pattern.replace(chr(92) + '.', '_')})$"


def layer_args(config: RunConfig) -> dict[str, str]:
    """Kohya's arguments for the settings that are not at their defaults, as its scripts get and store them."""
    plain = LayersTable()
    values = {key: getattr(config.network, key) for key in LayersTable.model_fields}
    set_values = {key: value for key, value in values.items() if value != getattr(plain, key)}
    if "block_lr_weight" in set_values:
        set_values |= _rows(set_values.pop("block_lr_weight"))
    table = FluxTable()
    own = {key: getattr(config.flux, key) for key in LAYER_SETTINGS}
    set_values |= {key: value for key, value in own.items() if value != getattr(table, key)}
    return {key: number_text(value) if isinstance(value, float) else str(value) for key, value in set_values.items()}


def exported_by(module: str) -> tuple[str, ...]:
    """The arguments of this kind that an export for one of Kohya's modules has: those that it reads, except patterns of
    whole paths, which patterns of names cannot be turned into."""
    read = _READ_BY.get(module, ())
    return read if module in (KOHYA, LYCORIS) or PATTERN_LISTS[0] not in read else RATIOS


def _rows(text: str) -> dict[str, str]:
    """One list of all blocks as the three of the scripts."""
    factors = block_values.plain_weights(text)
    ends = _ROWS.get(len(factors))
    if ends is None:
        return {}
    parts = [factors[start:end] for start, end in pairwise(ends)]
    return {key: ",".join(map(number_text, part)) for key, part in zip(ROWS_OF_WEIGHTS, parts, strict=True)}
