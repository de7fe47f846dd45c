"""The configurations of a diffusers folder: every value checked before anything is built from it. Loads no torch.

Values of a wrong type or an absurd size would end in an error deep inside a library, or in gigabytes of memory. Where
the weights tell a size too, both must agree.
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
from engine.models.part_sizes import SIZES
from engine.text import printable

_FETCH = "Fetch the folder again, or correct that file."
_MOST = 1e12
"""No number of a configuration is larger."""


@dataclass(frozen=True)
class Number:
    """A number, or a list of some."""

    low: float
    high: float
    whole: bool = True
    lists: bool = False
    """Whether a list (of lists) of such numbers is good too."""
    null: bool = False

    def fault(self, value: Any) -> str | None:
        """Why `value` is none; None where it is one."""
        if value is None and self.null:
            return None
        if isinstance(value, list) and self.lists:
            faults = (Number(self.low, self.high, self.whole, lists=True, null=True).fault(item) for item in value)
            return next((fault for fault in faults if fault), None) if value else "must not be empty"
        kinds = (int,) if self.whole else (int, float)
        if type(value) in kinds and math.isfinite(value) and self.low <= value <= self.high:
            return None
        return f"must be a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Names:
    """A list of texts, one for each level."""

    def fault(self, value: Any) -> str | None:
        """See `Number.fault`."""
        good = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        return None if good else "must be a list of texts"


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def fault(self, value: Any) -> str | None:
        """See `Number.fault`."""
        if any(value is each or (isinstance(each, str) and value == each) for each in self.values):
            return None
        return f"must be {' or '.join('null' if each is None else str(each).lower() for each in self.values)}"


Rules = Mapping[str, Number | Names | Choice]

_FLAG = Choice((True, False))
_WIDTH = Number(1, 65536)
_CHANNELS = Number(1, 4096)
_COUNT = Number(1, 1000)
_SHARE = Number(0, 1, whole=False)
_SMALL = Number(1e-12, 0.1, whole=False)
_TOKEN = Number(-1, 10_000_000, null=True, lists=True)
_UNET: Rules = {
    **dict.fromkeys(("in_channels", "out_channels"), _CHANNELS),
    "block_out_channels": Number(1, 65536, lists=True),
    "layers_per_block": Number(1, 64, lists=True),
    "cross_attention_dim": Number(1, 65536, lists=True),
    **dict.fromkeys(("attention_head_dim", "num_attention_heads"), Number(1, 65536, lists=True, null=True)),
    **dict.fromkeys(
        ("transformer_layers_per_block", "reverse_transformer_layers_per_block"), Number(1, 1000, lists=True, null=True)
    ),
    "norm_num_groups": Number(1, 65536, null=True),
    "norm_eps": _SMALL,
    "dropout": _SHARE,
    "sample_size": Number(1, 65536, lists=True, null=True),
    **dict.fromkeys(("addition_time_embed_dim", "time_embedding_dim", "encoder_hid_dim"), Number(1, 65536, null=True)),
    "projection_class_embeddings_input_dim": Number(1, 1_000_000, null=True),
    **dict.fromkeys(("conv_in_kernel", "conv_out_kernel"), Number(1, 15)),
    "downsample_padding": Number(0, 16),
    **dict.fromkeys(("mid_block_scale_factor", "resnet_out_scale_factor"), Number(1e-6, 1e6, whole=False)),
    "freq_shift": Number(-1000, 1000, whole=False),
    **dict.fromkeys(("down_block_types", "up_block_types"), Names()),
    **dict.fromkeys(("flip_sin_to_cos", "use_linear_projection", "center_input_sample", "dual_cross_attention"), _FLAG),
    "upcast_attention": Choice((True, False, None)),
}
_VAE: Rules = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels"), _CHANNELS),
    "block_out_channels": Number(1, 65536, lists=True),
    "layers_per_block": Number(1, 64),
    "norm_num_groups": Number(1, 65536),
    "sample_size": Number(1, 65536, lists=True),
    "scaling_factor": Number(1e-6, 1e6, whole=False),
    "shift_factor": Number(-1e6, 1e6, whole=False, null=True),
    **dict.fromkeys(("down_block_types", "up_block_types"), Names()),
    **dict.fromkeys(("force_upcast", "use_quant_conv", "use_post_quant_conv", "mid_block_add_attention"), _FLAG),
}
_CLIP: Rules = {
    "vocab_size": Number(1, 10_000_000),
    **dict.fromkeys(("hidden_size", "num_attention_heads"), _WIDTH),
    "projection_dim": Number(0, 65536),
    "intermediate_size": Number(1, 1_000_000),
    "num_hidden_layers": _COUNT,
    "max_position_embeddings": Number(3, 1_000_000),
    "layer_norm_eps": _SMALL,
    "attention_dropout": _SHARE,
    **dict.fromkeys(("initializer_factor", "initializer_range"), Number(0, 1000, whole=False)),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), _TOKEN),
}
_T5: Rules = {
    "vocab_size": Number(1, 10_000_000),
    **dict.fromkeys(("d_model", "d_kv", "num_heads"), _WIDTH),
    "d_ff": Number(1, 1_000_000),
    "num_layers": _COUNT,
    "relative_attention_num_buckets": _WIDTH,
    "relative_attention_max_distance": Number(1, 1_000_000),
    "layer_norm_epsilon": _SMALL,
    "dropout_rate": _SHARE,
    "initializer_factor": Number(0, 1000, whole=False),
    **dict.fromkeys(("eos_token_id", "pad_token_id", "decoder_start_token_id"), _TOKEN),
}
_FLUX: Rules = {
    "patch_size": Number(1, 64),
    "in_channels": _CHANNELS,
    "out_channels": Number(1, 4096, null=True),
    "num_layers": _COUNT,
    "num_single_layers": Number(0, 1000),
    **dict.fromkeys(("attention_head_dim", "num_attention_heads"), _WIDTH),
    **dict.fromkeys(("joint_attention_dim", "pooled_projection_dim"), _WIDTH),
    "axes_dims_rope": Number(2, 65536, lists=True),
    "guidance_embeds": _FLAG,
}
_SCHEDULER: Rules = {
    "num_train_timesteps": Number(1000, 100_000),
    **dict.fromkeys(("beta_start", "beta_end"), Number(1e-9, 0.9999, whole=False)),
    "beta_schedule": Choice(("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")),
    "trained_betas": Number(0, 0.9999, whole=False, lists=True, null=True),
    "steps_offset": Number(0, 1000),
    **dict.fromkeys(("clip_sample", "set_alpha_to_one", "rescale_betas_zero_snr", "thresholding"), _FLAG),
    **dict.fromkeys(("shift", "sample_max_value", "clip_sample_range"), Number(1e-6, 1e6, whole=False)),
    **dict.fromkeys(("base_shift", "max_shift"), Number(-100, 100, whole=False, null=True)),
    **dict.fromkeys(("base_image_seq_len", "max_image_seq_len"), Number(1, 10_000_000, null=True)),
    "use_dynamic_shifting": _FLAG,
}
_RULES: Mapping[str, Rules] = {
    "unet": _UNET,
    "vae": _VAE,
    "text_encoder": _CLIP,
    "text_encoder_2": _CLIP,
    "t5": _T5,
    "transformer": _FLUX,
    "scheduler": _SCHEDULER,
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "cross_attention_dim": 1280, "attention_head_dim": 8, "norm_num_groups": 32,
    },
    "vae": {"block_out_channels": [64], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 32,
            "use_quant_conv": True, "use_post_quant_conv": True},
    "text_encoder": {"vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12, "intermediate_size": 2048,
                     "max_position_embeddings": 77, "num_attention_heads": 8},
    "t5": {"vocab_size": 32128, "d_model": 512, "num_layers": 6, "num_heads": 8, "d_kv": 64, "d_ff": 2048,
           "relative_attention_num_buckets": 32},
    "transformer": {"num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
                    "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
                    "guidance_embeds": False, "axes_dims_rope": [16, 56, 56]},
    "scheduler": {"beta_start": 0.0001, "beta_end": 0.02, "num_train_timesteps": 1000},
}  # fmt: skip
"""What the libraries take where a key is missing."""


def read_config(path: Path, part: str, headers: Sequence[Header] = ()) -> dict[str, Any]:
    """The configuration of a part, every value checked.

    Args:
        path: the file.
        part: "unet", "vae", "text_encoder", "text_encoder_2" (a CLIP), "t5", "transformer" or "scheduler".
        headers: of the part's weights, with which the sizes must agree; none: they are not compared.

    Raises:
        ModelError: missing, not a JSON table, or a value that cannot be; says which key of which file.
    """
    config = read_json(path)
    for key, value in config.items():
        rule = _RULES[part].get(key)
        fault = rule.fault(value) if rule is not None else _absurd(value)
        if fault:
            raise _refused(path, key, value, fault)
    usual = _DEFAULTS.get("text_encoder" if part == "text_encoder_2" else part, {})
    absent = part in ("unet", "vae") and "block_out_channels" not in config  # the weights tell, below
    for key, fault in [] if absent else _contradictions(part, {**usual, **config}):
        raise _refused(path, key, config.get(key, usual.get(key)), fault)
    if headers:
        _compare(path, part, config, usual, headers)
    return config


def _refused(path: Path, key: str, value: Any, fault: str) -> ModelError:
    text = printable(str(value))
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    return ModelError(f"{printable(path)}: {printable(key)} is {shown}, and {fault}.", _FETCH)


def _absurd(value: Any) -> str | None:
    """Why a value that no rule knows cannot be."""
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if isinstance(value, int | float) and abs(value) > _MOST:
        return f"must not be larger than {_MOST:g}"
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return next((fault for fault in map(_absurd, inner) if fault), None)
    return None


def _contradictions(part: str, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Keys whose values do not go together, and why; empty where all do."""
    found: list[tuple[str, str]] = []
    levels: Any = config.get("block_out_channels")
    if part in ("unet", "vae"):
        if not isinstance(levels, list) or not all(type(width) is int for width in levels):
            return [("block_out_channels", "must be a list of whole numbers")]
        groups = config["norm_num_groups"]
        if groups and any(width % groups for width in levels):
            found.append(("norm_num_groups", f"must divide every one of block_out_channels {levels}"))
        found += [
            (key, f"must have as many items as block_out_channels ({len(levels)})")
            for key in ("down_block_types", "up_block_types")
            if key in config and len(config[key]) != len(levels)
        ]
    if part == "unet" and not found:
        found += _heads(config, levels)
    if part.startswith("text_encoder") and config["hidden_size"] % config["num_attention_heads"]:
        found.append(("num_attention_heads", f"must divide hidden_size {config['hidden_size']}"))
    if part == "transformer":
        axes, width = config["axes_dims_rope"], config["attention_head_dim"]
        if not isinstance(axes, list) or any(type(axis) is not int or axis % 2 for axis in axes) or sum(axes) != width:
            found.append(("axes_dims_rope", f"must be even numbers that add up to attention_head_dim {width}"))
    if part == "scheduler":
        if config["beta_start"] > config["beta_end"]:
            found.append(("beta_start", f"must not be above beta_end {config['beta_end']}"))
        betas = config.get("trained_betas")
        if isinstance(betas, list) and len(betas) != config["num_train_timesteps"]:
            found.append(("trained_betas", f"must have num_train_timesteps {config['num_train_timesteps']} items"))
    return found


def _heads(config: Mapping[str, Any], levels: list[int]) -> list[tuple[str, str]]:
    """Heads of each level of a UNet, and other values that there may be one of for each."""
    found = [
        (key, f"must have as many items as block_out_channels ({len(levels)})")
        for key in ("layers_per_block", "cross_attention_dim", "attention_head_dim", "num_attention_heads",
                    "transformer_layers_per_block")
        if isinstance(config.get(key), list) and len(config[key]) != len(levels)
    ]  # fmt: skip
    key = "num_attention_heads" if config.get("num_attention_heads") else "attention_head_dim"
    heads = config[key]
    if found or heads is None:
        return found
    each = heads if isinstance(heads, list) else [heads] * len(levels)
    attends = [str(kind).startswith("CrossAttn") for kind in config.get("down_block_types", [])] or [True] * len(levels)
    pairs = zip(levels, each, attends, strict=True)
    if any(attention and (not count or width % count) for width, count, attention in pairs):
        return [(key, f"must divide every one of block_out_channels {levels}")]  # diffusers counts heads under it
    return []


def _compare(
    path: Path, part: str, config: Mapping[str, Any], usual: Mapping[str, Any], headers: Sequence[Header]
) -> None:
    """Refuse sizes that are not those of the weights.

    Raises:
        ModelError: says which.
    """
    shapes = {name: shape for header in headers for name, shape in header.shapes.items()}
    sizes: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]] = SIZES[part]
    for key, size in sizes(shapes).items():
        if key not in config and usual.get(key) != size:
            raise ModelError(f"{printable(path)} lacks {key}, which is {size} in the weights beside it.", _FETCH)
        stated = config.get(key, size)
        first = stated[0] if isinstance(stated, list) and not isinstance(size, list) else stated
        if first != size:
            raise _refused(path, key, stated, f"is {size} in the weights beside it")
