"""The alphas of peft's LoRAs, which are not in the tensors: in a file's metadata, or in adapter_config.json."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.reading import parse_json, read_json
from engine.text import printable

KEY = "lora_adapter_metadata"
"""Key of a file's metadata with peft's settings as JSON, written by diffusers from 0.35 on:
{"unet.lora_alpha": 8, …}."""
CONFIG = "adapter_config.json"
_MOST_PATTERN = 1000
"""Characters of a pattern that are read; a module's name has fewer."""


@dataclass(frozen=True)
class PeftSettings:
    """The settings for the scale of one component's modules."""

    alpha: float
    patterns: Mapping[str, float] = field(default_factory=dict)
    """Ends of module paths (regular expressions in peft, names here) to their alphas."""
    rslora: bool = False
    """Whether the factor is alpha / √rank."""

    def alpha_of(self, path: str, rank: int) -> float:
        """The alpha that gives peft's effect with Kohya's factor alpha / rank."""
        alpha = self.patterns.get(path, self.alpha)
        return alpha * math.sqrt(rank) if self.rslora else alpha


def settings_of(table: Mapping[str, Any], paths: list[str]) -> PeftSettings | None:
    """The settings in a `LoraConfig` written as JSON; None where it has no alpha.

    Args:
        paths: the component's modules, matched by the patterns.

    Raises:
        ValueError: an alpha is no number.
    """
    if table.get("lora_alpha") is None:
        return None
    patterns: dict[str, float] = {}
    alpha_pattern = table.get("alpha_pattern") or {}
    for pattern, alpha in alpha_pattern.items() if isinstance(alpha_pattern, dict) else ():
        plain = re.sub(r"\\(.)", r"\1", str(pattern)[:_MOST_PATTERN]).lstrip("^")  # names with escaped dots
        for path in paths:
            if (path == plain or path.endswith("." + plain)) and path not in patterns:
                patterns[path] = _number(alpha)
    return PeftSettings(_number(table["lora_alpha"]), patterns, bool(table.get("use_rslora", False)))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"an alpha is {value!r}")
    return float(value)


def of_metadata(metadata: Mapping[str, str], component: str) -> dict[str, Any]:
    """The `LoraConfig` of a component in a file's metadata; empty where there is none."""
    try:
        table = parse_json(metadata.get(KEY, "{}"))
    except ValueError:
        return {}
    if not isinstance(table, dict):
        return {}
    prefix = f"{component}."
    return {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}


def adapter_config(path: Path) -> dict[str, Any]:
    """The adapter_config.json in the folder of a file of peft's; empty where there is none.

    Raises:
        ModelError: it cannot be read.
    """
    config = path.parent / CONFIG
    if not config.is_file():
        return {}
    try:
        table = read_json(config)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{printable(config)} cannot be read: {error}.", "Fetch it again.", code="peft-settings-unreadable"
        ) from error
    return table if isinstance(table, dict) else {}


def config_of(ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, Any]:
    """The settings of modules by path, as values of `LoraConfig`.

    Args:
        ranks: of each module, by its path in the component.
        alphas: likewise; the factor is alpha / rank.
    """
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    names = sorted(ranks, key=lambda name: (-name.count("."), name))  # the longest first: peft uses the first match
    return {
        "r": rank,
        "lora_alpha": _integer_if_whole(alpha),
        "target_modules": sorted(ranks),
        "rank_pattern": {name: ranks[name] for name in names if ranks[name] != rank},
        "alpha_pattern": {name: _integer_if_whole(alphas[name]) for name in names if alphas[name] != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def as_metadata(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The value of `KEY` for several components."""
    flat = {f"{component}.{key}": value for component, config in configs.items() for key, value in config.items()}
    return json.dumps(flat, indent=2, sort_keys=True)


def _integer_if_whole(number: float) -> float:
    return int(number) if number == int(number) else number
