"""Converts the value of an argument to its type, from every spelling in files and command lines.

Facts: the types of `argparse` in sd-scripts. They apply to a command line, not to a training TOML, where a number
written as text fails later, and any text, also "false", switches a flag on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from engine.config.conversion import is_secret
from engine.config.kohya.rules import FLAGS, NEWER_FLAGS

INTS = frozenset(
    """
keep_tokens vae_batch_size min_bucket_reso max_bucket_reso bucket_reso_steps token_warmup_min
caption_dropout_every_n_epochs dataset_repeats save_every_n_epochs save_every_n_steps save_n_epoch_ratio
save_last_n_epochs save_last_n_epochs_state save_last_n_steps save_last_n_steps_state train_batch_size
max_token_length max_train_steps max_train_epochs max_data_loader_n_workers seed gradient_accumulation_steps
ddp_timeout clip_skip multires_noise_iterations min_timestep max_timestep sample_every_n_steps sample_every_n_epochs
zero_stage lr_scheduler_num_cycles lr_scheduler_timescale network_dim initial_epoch initial_step validation_seed
validate_every_n_steps validate_every_n_epochs max_validation_steps text_encoder_batch_size blocks_to_swap
t5xxl_max_token_length num_processes
""".split()  # noqa: SIM905
)
FLOATS = frozenset(
    """
token_warmup_step caption_dropout_rate caption_tag_dropout_rate noise_offset ip_noise_gamma multires_noise_discount
adaptive_noise_scale huber_c huber_scale prior_loss_weight learning_rate max_grad_norm lr_scheduler_power
lr_scheduler_min_lr_ratio min_snr_gamma v_pred_like_loss unet_lr network_alpha network_dropout scale_weight_norms
validation_split logit_mean logit_std mode_scale guidance_scale sigmoid_scale discrete_flow_shift
""".split()  # noqa: SIM905
)
STEPS_OR_SHARE = frozenset({"lr_warmup_steps", "lr_decay_steps"})
"""A number of steps, a share below 1, or a percentage."""
LISTS = frozenset(["network_args", "optimizer_args", "lr_scheduler_args", "text_encoder_lr", "base_weights",
                   "base_weights_multiplier"])  # fmt: skip
RATES = frozenset({"text_encoder_lr", "base_weights_multiplier"})
"""Lists of numbers."""
LARGEST = 2**63
_LONGEST = 60
"""Characters of an invalid value in a message."""


def read_value(name: str, raw: Any) -> Any:
    """The value of an argument: bool, int, float, text, or a list of texts or floats; None where `raw` is empty or a
    switch that is off, which is the same as unset.

    Raises:
        ValueError: of another type; with what is given and what is allowed.
    """
    if raw is None or raw == "" or raw == []:
        return None
    read, allowed = _reader(name)
    value = read(raw)
    if value is None:
        text = "a value that is not shown" if is_secret(name) else _shortened(repr(raw))
        raise ValueError(f"{text} is not valid: enter {allowed}.")
    return None if value is False or value == [] else value


def number_of(raw: Any) -> float | None:
    """A finite number, also written as text; None for anything else."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    try:
        value = float(raw)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and abs(value) < LARGEST else None


def integer_of(raw: Any) -> int | None:
    """A whole number, also written as text or as 8.0; None for anything else."""
    value = number_of(raw)
    if value is None or not value.is_integer():
        return None
    try:
        return int(raw)
    except ValueError:
        return int(value)


def _reader(name: str) -> tuple[Callable[[Any], Any], str]:
    if name in FLAGS or name in NEWER_FLAGS:
        return _flag, "true or false, without quotation marks"
    if name in INTS:
        return integer_of, "a whole number"
    if name in FLOATS:
        return number_of, "a number"
    if name in STEPS_OR_SHARE:
        return _steps_or_share, "a number, or a percentage like 10%"
    if name in RATES:
        return _rates, "a number, or a list of numbers"
    if name in LISTS:
        return _texts, 'a list: ["...", "..."]'
    if name == "resolution":
        return _resolution, "a side, or width and height: 512, or 512,768"
    if name == "face_crop_aug_range":
        return _pair, "two numbers: 2.0,4.0"
    if name == "sample_prompts":
        return _prompts, "the path of a file"
    return _text, "text"


def _flag(raw: Any) -> bool | None:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return True if raw.strip().lower() == "true" else None
    return bool(raw) if raw in (0, 1) else None


def _text(raw: Any) -> str | None:
    return None if isinstance(raw, (bool, list, dict)) else str(raw)


def _prompts(raw: Any) -> str | list[str] | None:
    """The GUI's own prompts come as a list."""
    if isinstance(raw, list):
        return list(raw) if all(isinstance(item, str) for item in raw) else None
    return raw if isinstance(raw, str) else None


def _texts(raw: Any) -> list[str] | None:
    if isinstance(raw, str):
        return raw.split()
    if not isinstance(raw, list) or any(isinstance(item, (bool, list, dict)) for item in raw):
        return None
    return [str(item) for item in raw]


def _rates(raw: Any) -> list[float] | None:
    members = raw.split() if isinstance(raw, str) else raw if isinstance(raw, list) else [raw]
    numbers = [number_of(item) for item in members]
    valid = [number for number in numbers if number is not None]
    return valid if len(valid) == len(numbers) else None


def _steps_or_share(raw: Any) -> float | None:
    percent = re.fullmatch(r"\s*([^%]*)%\s*", raw) if isinstance(raw, str) else None
    number = number_of(percent[1] if percent else raw)
    if number is None:
        return None
    return number / 100 if percent else int(number) if number.is_integer() else number


def _resolution(raw: Any) -> str | None:
    parts = raw.split(",") if isinstance(raw, str) else raw if isinstance(raw, list) else [raw]
    sides = [integer_of(part) for part in parts]
    if len(sides) not in (1, 2) or not all(side is not None and side > 0 for side in sides):
        return None
    return ",".join(map(str, sides))


def _pair(raw: Any) -> str | None:
    parts = raw.split(",") if isinstance(raw, str) else raw if isinstance(raw, list) else []
    numbers = [number_of(part) for part in parts]
    if len(numbers) != 2 or any(number is None for number in numbers):
        return None
    return ",".join(f"{number:g}" for number in numbers)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
