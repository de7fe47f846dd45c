"""Recognises files of Kohya's for other trainings than a LoRA's, to refuse them by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.config.kohya.scripts.script import is_comment

_DREAMBOOTH = "DreamBooth, which trains the whole model"
_FINE_TUNING = "full fine-tuning, which trains the whole model"
_INVERSION = "textual inversion, which trains an embedding"
_CONTROL = "a ControlNet"
_LECO = "LECO, which trains a LoRA from prompts alone"
_OTHER_FAMILY = "a LoRA of another family than SD1.5, SDXL and FLUX"
_SCRIPTS = (
    (r"train_db", _DREAMBOOTH),
    (r"(?:sdxl_)?train_textual_inversion(?:_XTI)?", _INVERSION),
    (r"(?:\w+_)?train_control_?net\w*", _CONTROL),
    (r"(?:\w+_)?train_leco", _LECO),
    (r"\w+_train_network", _OTHER_FAMILY),
    (r"fine_tune|\w+_train", _FINE_TUNING),
)
_CALL = re.compile(r"(?<![\w.-])(\w+)\.py\b")
_MARKS = (
    (("token_string", "init_word", "num_vectors_per_token", "use_object_template", "use_style_template"), _INVERSION),
    (
        (
            "caption_metadata_filename", "latent_metadata_filename", "image_folder", "train_text_encoder", "block_lr",
            "generate_caption_database", "create_buckets", "in_json", "dataset_repeats", "diffusers_xformers",
        ),
        _FINE_TUNING,
    ),
    (("stop_text_encoder_training", "no_token_padding", "learning_rate_te", "learning_rate_te1"), _DREAMBOOTH),
)  # fmt: skip
"""Keys that identify one training, in files without any key of a LoRA."""
MARKS = frozenset(key for keys, _ in _MARKS for key in keys)
_OF_A_LORA = re.compile(
    r"LoRA_type|network_\w+|unet_lr|text_encoder_lr|dim_from_weights|scale_weight_norms|base_weights\w*"
)


def trains_a_lora(content: Mapping[str, Any]) -> bool:
    """Whether flat arguments or a configuration of the GUI have any key that only LoRA training has."""
    return any(_OF_A_LORA.fullmatch(key) for key in content)


def training_of_keys(content: Mapping[str, Any]) -> str:
    """What a file without any key of a LoRA trains, according to its keys; "" if unknown."""
    return next((what for keys, what in _MARKS if any(key in content for key in keys)), "")


def calls_no_lora_script(text: str) -> bool:
    """Whether a text names none of the supported LoRA scripts."""
    return re.search(r"(?<!\w)(?:sdxl_|flux_)?train_network(?!\w)", text) is None


def training_of_script(text: str) -> tuple[str, str] | None:
    """The first script of Kohya's for another training that a shell or batch file calls, and what it trains; None where
    there is none."""
    for line in text.splitlines():
        for call in _CALL.finditer("" if is_comment(line) else line):
            for pattern, what in _SCRIPTS:
                if re.fullmatch(pattern, call[1]) and not re.fullmatch(r"(sdxl_|flux_)?train_network", call[1]):
                    return call[0], what
    return None
