"""The value of an argument in its type, in every spelling that files and command lines use for it.

Facts: the types of `argparse` in sd-scripts. A command line is converted by them; a training TOML is not, so that there
a number written as text fails later, and any text, also "false", switches a flag on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from engine.config.kohya.rules import FLAGS, NEWER_FLAGS, SECRETS

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
"""Those of the lists whose members are numbers."""
LARGEST = 2**63
_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


def read_value(name: str, given: Any) -> Any:
    """The value of an argument: bool, int, float, text, or a list of texts or floats; None where `given` is empty or a
    switch that is off, which is the same as not given.

    Raises:
        ValueError: it is of no such type; says what is given and what is allowed.
    """
    if given is None or given == "" or given == []:
        return None
    read, allowed = _reader(name)
    value = read(given)
    if value is None:
        shown = "a value that is not shown" if name in SECRETS else _shortened(repr(given))
        raise ValueError(f"{shown} is given, allowed is {allowed}.")
    return None if value is False or value == [] else value


def number_of(given: Any) -> float | None:
    """A finite number, also written as text; None for anything else."""
    if isinstance(given, bool) or not isinstance(given, (int, float, str)):
        return None
    try:
        value = float(given)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and abs(value) < LARGEST else None


def whole_number_of(given: Any) -> int | None:
    """A whole number, also written as text or as 8.0; None for anything else."""
    value = number_of(given)
    if value is None or not value.is_integer():
        return None
    try:
        return int(given)
    except ValueError:
        return int(value)


def _reader(name: str) -> tuple[Callable[[Any], Any], str]:
    if name in FLAGS or name in NEWER_FLAGS:
        return _flag, "true or false, without quotation marks"
    if name in INTS:
        return whole_number_of, "a whole number"
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
    if name == "sample_prompts":
        return _prompts, "the path of a file"
    return _text, "text"


def _flag(given: Any) -> bool | None:
    if isinstance(given, bool):
        return given
    if isinstance(given, str):
        return True if given.strip().lower() == "true" else None
    return bool(given) if given in (0, 1) else None


def _text(given: Any) -> str | None:
    return None if isinstance(given, (bool, list, dict)) else str(given)


def _prompts(given: Any) -> str | list[str] | None:
    """The GUI's own prompts come as a list."""
    if isinstance(given, list):
        return list(given) if all(isinstance(one, str) for one in given) else None
    return given if isinstance(given, str) else None


def _texts(given: Any) -> list[str] | None:
    if isinstance(given, str):
        return given.split()
    if not isinstance(given, list) or any(isinstance(one, (bool, list, dict)) for one in given):
        return None
    return [str(one) for one in given]


def _rates(given: Any) -> list[float] | None:
    members = given.split() if isinstance(given, str) else given if isinstance(given, list) else [given]
    numbers = [number_of(one) for one in members]
    found = [number for number in numbers if number is not None]
    return found if len(found) == len(numbers) else None


def _steps_or_share(given: Any) -> float | None:
    percent = re.fullmatch(r"\s*([^%]*)%\s*", given) if isinstance(given, str) else None
    number = number_of(percent[1] if percent else given)
    if number is None:
        return None
    return number / 100 if percent else int(number) if number.is_integer() else number


def _resolution(given: Any) -> str | None:
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    sides = [whole_number_of(part) for part in parts]
    if len(sides) not in (1, 2) or not all(side is not None and side > 0 for side in sides):
        return None
    return ",".join(map(str, sides))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
