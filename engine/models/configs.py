"""The configurations of a diffusers folder: every value checked before anything is built from it. Loads no torch.

Values of a wrong type or an absurd size would end in an error deep inside a library, or in gigabytes of memory. A size
that the weights also have must agree with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.files import read_json
from engine.models.header import Header
from engine.models.part_sizes import Shapes, clip_sizes, vae_sizes
from engine.text import printable

_FETCH = "Fetch the folder again, or correct that file."
_MOST = 1e12
"""No number of a configuration is larger."""


@dataclass(frozen=True)
class Number:
    """A number, or a list of numbers."""

    low: float
    high: float
    integer: bool = True
    lists: bool = False
    """Whether a list (of lists) of such numbers is allowed too."""
    null: bool = False

    def fault(self, value: Any) -> str | None:
        """Why `value` is invalid; None where it is valid."""
        if value is None and self.null:
            return None
        if isinstance(value, list) and self.lists:
            faults = (Number(self.low, self.high, self.integer, lists=True, null=True).fault(item) for item in value)
            return next((fault for fault in faults if fault), None) if value else "must not be empty"
        kinds = (int,) if self.integer else (int, float)
        if type(value) in kinds and math.isfinite(value) and self.low <= value <= self.high:
            return None
        return f"must be a {'whole ' if self.integer else ''}number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Names:
    """A list of texts, one for each level."""

    def fault(self, value: Any) -> str | None:
        """Like `Number.fault`."""
        good = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        return None if good else "must be a list of texts"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def fault(self, value: Any) -> str | None:
        """Like `Number.fault`."""
        if any(value is each or (isinstance(each, str) and value == each) for each in self.values):
            return None
        return f"must be {' or '.join('null' if each is None else str(each).lower() for each in self.values)}"


Rules = Mapping[str, Number | Names | Choice]

Contradictions = list[tuple[str, str]]
"""Keys whose values contradict each other, and why."""


def _none(*_: Any) -> Any:
    return []


@dataclass(frozen=True)
class PartConfig:
    """The rules for the configurations of one kind of part."""

    rules: Rules
    usual: Mapping[str, Any]
    """The libraries' defaults for missing keys."""
    sizes: Callable[[Shapes], Mapping[str, Any]] | None = None
    """Sizes from the shapes of the weights."""
    contradictions: Callable[[Mapping[str, Any]], Contradictions] = _none
    """Checks a configuration whose missing keys have their defaults."""
    has_levels: bool = False
    """Whether its sizes are in block_out_channels; where that is missing, only the weights are checked."""


FLAG = Choice((True, False))
WIDTH = Number(1, 65536)
CHANNELS = Number(1, 4096)
COUNT = Number(1, 1000)
SHARE = Number(0, 1, integer=False)
SMALL = Number(1e-12, 0.1, integer=False)
TOKEN = Number(-1, 10_000_000, null=True, lists=True)
_VAE: Rules = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), CHANNELS),
    "block_out_channels": Number(1, 65536, lists=True),
    "layers_per_block": Number(1, 64),
    "norm_num_groups": Number(1, 65536),
    "sample_size": Number(1, 65536, lists=True),
    "scaling_factor": Number(1e-6, 1e6, integer=False),
    "shift_factor": Number(-1e6, 1e6, integer=False, null=True),
    **dict.fromkeys(("down_block_types", "up_block_types"), Names()),
    **dict.fromkeys(("force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"), FLAG),
}
_CLIP: Rules = {
    "vocab_size": Number(1, 10_000_000),
    **dict.fromkeys(("hidden_size", "num_attention_heads"), WIDTH),
    "projection_dim": Number(0, 65536),
    "intermediate_size": Number(1, 1_000_000),
    "num_hidden_layers": COUNT,
    "max_position_embeddings": Number(3, 1_000_000),
    "layer_norm_eps": SMALL,
    "attention_dropout": SHARE,
    **dict.fromkeys(("initializer_factor", "initializer_range"), Number(0, 1000, integer=False)),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN),
}
_SCHEDULER: Rules = {
    "num_train_timesteps": Number(1000, 100_000),
    **dict.fromkeys(("beta_start", "beta_end"), Number(1e-9, 0.9999, integer=False)),
    "beta_schedule": Choice(("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")),
    "trained_betas": Number(0, 0.9999, integer=False, lists=True, null=True),
    "steps_offset": Number(0, 1000),
    **dict.fromkeys(("clip_sample", "set_alpha_to_one", "rescale_betas_zero_snr", "thresholding"), FLAG),
    **dict.fromkeys(("shift", "sample_max_value", "clip_sample_range"), Number(1e-6, 1e6, integer=False)),
    **dict.fromkeys(("base_shift", "max_shift"), Number(-100, 100, integer=False, null=True)),
    **dict.fromkeys(("base_image_seq_len", "max_image_seq_len"), Number(1, 10_000_000, null=True)),
    "use_dynamic_shifting": FLAG,
}


def level_contradictions(config: Mapping[str, Any]) -> Contradictions:
    """Faults of a part whose channels are in block_out_channels, one number for each level."""
    levels: Any = config.get("block_out_channels")
    if not isinstance(levels, list) or not all(type(width) is int for width in levels):
        return [("block_out_channels", "must be a list of whole numbers")]
    faults = []
    groups = config["norm_num_groups"]
    if groups and any(width % groups for width in levels):
        faults.append(("norm_num_groups", f"must divide every one of block_out_channels {levels}"))
    return faults + [
        (key, f"must have as many items as block_out_channels ({len(levels)})")
        for key in ("down_block_types", "up_block_types")
        if key in config and len(config[key]) != len(levels)
    ]


def _clip_contradictions(config: Mapping[str, Any]) -> Contradictions:
    if config["hidden_size"] % config["num_attention_heads"]:
        return [("num_attention_heads", f"must divide hidden_size {config['hidden_size']}")]
    return []


def _scheduler_contradictions(config: Mapping[str, Any]) -> Contradictions:
    faults = []
    if config["beta_start"] > config["beta_end"]:
        faults.append(("beta_start", f"must not be above beta_end {config['beta_end']}"))
    betas = config.get("trained_betas")
    if isinstance(betas, list) and len(betas) != config["num_train_timesteps"]:
        faults.append(("trained_betas", f"must have num_train_timesteps {config['num_train_timesteps']} items"))
    return faults


VAE = PartConfig(
    _VAE,
    {"block_out_channels": [64], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 32,
     "use_quant_conv": True, "use_post_quant_conv": True},
    vae_sizes, level_contradictions, has_levels=True,
)  # fmt: skip
CLIP = PartConfig(
    _CLIP,
    {"vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12, "intermediate_size": 2048,
     "max_position_embeddings": 77, "num_attention_heads": 8},
    clip_sizes, _clip_contradictions,
)  # fmt: skip
SCHEDULER = PartConfig(
    _SCHEDULER, {"beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000},
    contradictions=_scheduler_contradictions,
)  # fmt: skip


def read_config(path: Path, part: PartConfig, headers: Sequence[Header] = ()) -> dict[str, Any]:
    """The configuration of a part, every value checked.

    Args:
        path: the file.
        part: the rules.
        headers: of the part's weights, with which the sizes must agree; empty: not compared.

    Raises:
        ModelError: missing, not a JSON table, or an impossible value; names the key and the file.
    """
    config = read_json(path)
    for key, value in config.items():
        rule = part.rules.get(key)
        fault = rule.fault(value) if rule is not None else _absurd(value)
        if fault:
            raise _refused(path, key, value, fault)
    absent = part.has_levels and "block_out_channels" not in config  # checked against the weights, below
    for key, fault in [] if absent else part.contradictions({**part.usual, **config}):
        raise _refused(path, key, config.get(key, part.usual.get(key)), fault)
    if headers:
        _compare(path, part, config, headers)
    return config


def _refused(path: Path, key: str, value: Any, fault: str) -> ModelError:
    return ModelError(
        f"{printable(path)}: {printable(key)} is {_short(value)}, and {fault}.", _FETCH, code="model-config-wrong"
    )


def _short(value: Any) -> str:
    text = printable(str(value))
    return text if len(text) <= 60 else f"{text[:60]}..."


def _absurd(value: Any) -> str | None:
    """Why a value without a rule is impossible."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, int | float) and abs(value) > _MOST:
        return f"must not be larger than {_MOST:g}"
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return next((fault for fault in map(_absurd, inner) if fault), None)
    return None


def _compare(path: Path, part: PartConfig, config: Mapping[str, Any], headers: Sequence[Header]) -> None:
    """Refuse sizes that are not those of the weights.

    Raises:
        ModelError: names the size.
    """
    shapes = {name: shape for header in headers for name, shape in header.shapes.items()}
    sizes = part.sizes(shapes) if part.sizes is not None else {}
    for key, size in sizes.items():
        if key not in config and part.usual.get(key) != size:
            raise ModelError(
                f"{printable(path)} lacks {key}, which is {size} in the weights.",
                _FETCH,
                code="model-config-incomplete",
            )
        stated = config.get(key, size)
        first = stated[0] if isinstance(stated, list) and not isinstance(size, list) else stated
        if first != size:
            raise ModelError(
                f"{printable(path)}: {printable(key)} is {_short(stated)}, and {size} in the weights next to it.",
                _FETCH,
                code="model-config-contradicts-weights",
            )
