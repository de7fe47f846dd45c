"""What tests of other trainers' files share: an example of each, changed key by key, and what becomes of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from engine.config.conversion import Conversion, Entry
from engine.config.foreign import conversion_of
from engine.config.schema import RunConfig

GONE = object()
"""The value of a key that is taken out of an example."""

AI_TOOLKIT: dict[str, Any] = {
    "job": "extension",
    "config": {
        "name": "ginkgo",
        "process": [{
            "type": "sd_trainer", "training_folder": "out", "device": "cuda:0",
            "network": {"type": "lora", "linear": 8, "linear_alpha": 4},
            "save": {"dtype": "bf16", "save_every": 100, "max_step_saves_to_keep": 3},
            "datasets": [{"folder_path": "leaves", "caption_ext": "txt", "resolution": 768}],
            "train": {"batch_size": 2, "steps": 300, "train_unet": True, "train_text_encoder": True, "lr": 2e-4,
                      "optimizer": "adamw", "dtype": "bf16", "noise_scheduler": "ddpm"},
            "model": {"name_or_path": "xl.safetensors", "arch": "sdxl"},
            "sample": {"sample_every": 50, "prompts": ["a leaf", "a [trigger] tree"], "width": 768, "height": 512,
                       "seed": 5, "walk_seed": True, "guidance_scale": 6, "sample_steps": 12, "neg": "blur"},
        }],
    },
}  # fmt: skip
ONETRAINER: dict[str, Any] = {
    "training_method": "LORA", "model_type": "STABLE_DIFFUSION_XL_10_BASE", "base_model_name": "xl.safetensors",
    "output_model_destination": "out/ginkgo.safetensors", "learning_rate": 3e-4, "epochs": 5, "batch_size": 2,
    "resolution": "768", "lora_rank": 8, "lora_alpha": 4.0, "layer_filter_preset": "attn-mlp",
    "train_dtype": "BFLOAT_16", "output_dtype": "FLOAT_16", "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.1},
    "learning_rate_warmup_steps": 40, "sample_after_unit": "NEVER", "save_every": 1, "save_every_unit": "EPOCH",
    "concepts": [{"path": "leaves", "balancing": 3.0, "text": {"keep_tags_count": 2}}],
}  # fmt: skip
LORA_EASY: dict[str, Any] = {
    "subsets": [{"image_dir": "leaves", "num_repeats": 3, "caption_extension": ".txt", "shuffle_caption": True}],
    "general_args": {
        "args": {"pretrained_model_name_or_path": "xl.safetensors", "mixed_precision": "bf16", "seed": 5, "sdxl": True,
                 "max_train_steps": 300},
        "dataset_args": {"resolution": 768, "batch_size": 2},
    },
    "network_args": {"args": {"network_dim": 8, "network_alpha": 4.0}},
    "optimizer_args": {"args": {"optimizer_type": "AdamW", "learning_rate": 2e-4, "lr_scheduler": "cosine",
                                "optimizer_args": {"weight_decay": 0.1}}},
    "saving_args": {"args": {"output_dir": "out", "output_name": "ginkgo"}},
    "bucket_args": {"dataset_args": {"enable_bucket": True, "min_bucket_reso": 256}},
}  # fmt: skip
LORA_SCRIPTS: dict[str, Any] = {
    "model_train_type": "sdxl-lora", "pretrained_model_name_or_path": "xl.safetensors", "train_data_dir": "leaves",
    "resolution": "768,768", "output_name": "ginkgo", "output_dir": "out", "max_train_epochs": 3,
    "train_batch_size": 2, "learning_rate": 2e-4, "optimizer_type": "AdamW", "network_module": "networks.lora",
    "network_dim": 8, "network_alpha": 4, "mixed_precision": "bf16",
}  # fmt: skip


def changed(example: Mapping[str, Any], changes: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The example with other values at dotted keys; a number is a place in a list, and "" the whole."""
    content: Any = copy.deepcopy(dict(example))
    for dotted, value in changes.items():
        place = content
        *path, last = [part for part in f"{within}{dotted}".split(".") if part]
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        if value is GONE:
            place.pop(last, None)
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return content


def in_yaml(content: Any) -> str:
    """JSON is YAML too."""
    return json.dumps(content, indent=1)


def written(folder: Path, name: str, content: Any) -> Path:
    """A file with this content, in the form that its name says."""
    form = {".toml": tomlkit.dumps, ".yaml": in_yaml}.get(Path(name).suffix, json.dumps)
    (folder / name).write_text(form(content))
    return folder / name


def conversion(path: Path) -> Conversion:
    """The conversion of a file that is another trainer's."""
    result = conversion_of(path, path.read_text(encoding="utf-8-sig"))
    assert result is not None
    return result


def entries(result: Conversion) -> dict[str, Entry]:
    """The entries by key; the last counts, and none is empty."""
    return {entry.key: entry for entry in result.entries}


def differs(result: Conversion, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are not as expected: what they are instead."""
    config = RunConfig.model_validate(result.values).model_dump(mode="json")
    got = {dotted: config[dotted.partition(".")[0]][dotted.partition(".")[2]] for dotted in settings}
    return {key: value for key, value in got.items() if value != settings[key]}
