"""What Kohya's scripts do with exported files before they train: their argument parsers, schemas and assertions.

Facts: sd-scripts v0.10.1 `train_network.py`, `sdxl_train_network.py`, `flux_train_network.py`, `library/train_util.py`
(verify_training_args, get_optimizer, get_scheduler_fix, assert_extra_args), `library/config_util.py`.
"""

from __future__ import annotations

import ast
import csv
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import RunConfig, resolve
from engine.config.kohya import trainers
from engine.config.kohya.export import KohyaExport, kohya_export
from engine.config.kohya.export_dataset import ExportedSubset

ARGUMENTS = Path(__file__).parent / "fixtures" / "args_lora_scripts.tsv"
SCRIPT = {"sd15": "1", "sdxl": "X", "flux": "F"}
MULTIPLE = {"sd15": 64, "sdxl": 32, "flux": 64}
NUMBER = (int, float)
SHARED: dict[str, Any] = {
    "num_repeats": int, "color_aug": bool, "flip_aug": bool, "random_crop": bool, "shuffle_caption": bool,
    "caption_separator": str, "keep_tokens": int, "keep_tokens_separator": str, "secondary_separator": str,
    "enable_wildcard": bool, "caption_prefix": str, "caption_suffix": str, "token_warmup_min": int,
    "token_warmup_step": NUMBER, "caption_dropout_rate": NUMBER, "caption_dropout_every_n_epochs": int,
    "caption_tag_dropout_rate": NUMBER, "custom_attributes": dict, "face_crop_aug_range": list,
    "resize_interpolation": str,
}  # fmt: skip
DATASET: dict[str, Any] = {
    "batch_size": int, "resolution": (int, list), "enable_bucket": bool, "min_bucket_reso": int, "max_bucket_reso": int,
    "bucket_reso_steps": int, "bucket_no_upscale": bool, "network_multiplier": float, "validation_split": float,
    "validation_seed": int,
}  # fmt: skip
OF_KIND: dict[str, dict[str, Any]] = {
    "DreamBooth": {"image_dir": str, "is_reg": bool, "class_tokens": str, "alpha_mask": bool, "caption_extension": str,
                   "cache_info": bool},
    "masks": {"image_dir": str, "conditioning_data_dir": str, "caption_extension": str, "cache_info": bool},
    "metadata": {"image_dir": str, "metadata_file": str, "alpha_mask": bool},
}  # fmt: skip
PASSED = {
    "polynomial": {"power"}, "cosine_with_restarts": {"num_cycles"}, "inverse_sqrt": {"timescale"},
    "cosine_with_min_lr": {"num_cycles", "min_lr_rate"},
    "warmup_stable_decay": {"num_cycles", "min_lr_ratio", "num_decay_steps", "num_stable_steps"},
}  # fmt: skip
"""What get_scheduler_fix passes itself: a second value in lr_scheduler_args is a TypeError."""
MISREAD = re.compile(r"(w|d|h|s) (\d+)|l ([\d.]+)|g ([\d.]+)|(n|ss|cn) (.+)|#", re.IGNORECASE)


def refusals(files: Mapping[str, str], family: str) -> list[str]:
    """Everything that the script of the family stops at; empty where it trains."""
    content = tomllib.loads(files["training.toml"])
    arguments = {key: value for table in content.values() for key, value in table.items()}
    dataset = tomllib.loads(files["dataset.toml"])
    subsets = list(_merged(dataset))
    problems = [*_argument_problems(arguments, family), *_dataset_problems(dataset, family, arguments)]
    problems += [*_cache_problems(arguments, subsets, family), *_training_problems(arguments, family)]
    problems += [*_literal_problems(arguments), *_sample_problems(arguments, files)]
    return problems


def _argument_problems(arguments: Mapping[str, Any], family: str) -> Iterator[str]:
    with ARGUMENTS.open(encoding="utf-8") as file:
        rows = {row["arg"].removeprefix("--"): row for row in csv.DictReader(file, delimiter="\t")}
    (
        scripts,
        kind,
    ) = "scripts(1=train_network,X=sdxl,F=flux)", "type/action"
    for key, value in arguments.items():
        row = rows.get(key)
        if row is None or SCRIPT[family] not in row[scripts]:
            yield f"{key}: no argument of the {family} script"
            continue
        types: Any = {"store_true": bool, "str": str, "Path": str, "int": int, "float": NUMBER, "int_or_float": NUMBER}
        values = value if row["nargs"] == "*" else [value]
        if not isinstance(values, list):
            yield f"{key}: a list is needed, not {value!r}"
            continue
        for item in values:
            right = isinstance(item, types[row[kind]])
            if not right or (isinstance(item, bool) and row[kind] != "store_true"):
                yield f"{key}: {item!r} is no {row[kind]}"
            choices = ast.literal_eval(row["choices"]) if row["choices"] != "None" else None
            if choices and item not in choices and not (key == "max_token_length" and item == 75):
                yield f"{key}: {item!r} is none of {choices}"
    for key in ("output_dir", "output_name", "pretrained_model_name_or_path", "network_module"):
        if key not in arguments:
            yield f"{key}: missing"


def _merged(dataset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for item in dataset["datasets"]:
        for subset in item["subsets"]:
            yield {**dataset.get("general", {}), **{k: v for k, v in item.items() if k != "subsets"}, **subset}


def _dataset_problems(dataset: Mapping[str, Any], family: str, arguments: Mapping[str, Any]) -> Iterator[str]:
    every = {key: kind for kinds in OF_KIND.values() for key, kind in kinds.items()}
    general = {**SHARED, **DATASET, **{key: every[key] for key in ("caption_extension", "class_tokens", "cache_info")}}
    levels: list[tuple[Mapping[str, Any], dict[str, Any]]] = [(dataset.get("general", {}), general)]
    for item in dataset["datasets"]:
        levels.append(({key: value for key, value in item.items() if key != "subsets"}, general))
        kinds = {_kind(subset) for subset in item["subsets"]}
        if len(kinds) != 1:
            yield f"subsets of several kinds: {kinds}"
        levels += [(subset, {**SHARED, **OF_KIND[_kind(subset)]}) for subset in item["subsets"]]
        if "masks" in kinds and not arguments.get("masked_loss"):
            yield "conditioning_data_dir without masked_loss"
    for table, allowed in levels:
        for key, value in table.items():
            if key not in allowed:
                yield f"dataset.toml: {key}: extra keys not allowed"
            elif not isinstance(value, allowed[key]) or (isinstance(value, bool) and allowed[key] is not bool):
                yield f"dataset.toml: {key}: {value!r} is no {allowed[key]}"
    for table in _merged(dataset):
        size = table["resolution"] if isinstance(table["resolution"], list) else [table["resolution"]]
        if not table.get("enable_bucket"):
            crops = table.get("random_crop") or table.get("face_crop_aug_range")
            still = not arguments.get("cache_latents") and not crops
            yield from ["without buckets and cached latents no image is scaled"] if still else []
            continue
        step = table.get("bucket_reso_steps", 64)
        if step % MULTIPLE[family]:
            yield f"bucket_reso_steps {step} is no multiple of {MULTIPLE[family]}"
        least, most = table["min_bucket_reso"] // step * step, -(-table["max_bucket_reso"] // step) * step
        if not 0 < least <= min(size) or max(size) > most:
            yield f"resolution {size} is outside the buckets {least} to {most}"


def _kind(subset: Mapping[str, Any]) -> str:
    if "conditioning_data_dir" in subset:
        return "masks"
    return "metadata" if "metadata_file" in subset else "DreamBooth"


def _cache_problems(arguments: Mapping[str, Any], subsets: list[dict[str, Any]], family: str) -> Iterator[str]:
    chance = ("caption_dropout_rate", "shuffle_caption", "token_warmup_step", "caption_tag_dropout_rate")
    if arguments.get("cache_text_encoder_outputs") or arguments.get("cache_text_encoder_outputs_to_disk"):
        for key in chance:
            if any(subset.get(key) for subset in subsets):
                yield f"when caching Text Encoder output, {key} cannot be used"
        if family == "sdxl" and not arguments.get("network_train_unet_only"):
            yield "network for Text Encoder cannot be trained with caching Text Encoder outputs"
    if arguments.get("cache_latents") or arguments.get("cache_latents_to_disk"):
        for key in ("color_aug", "random_crop"):
            if any(subset.get(key) for subset in subsets):
                yield f"when caching latents, {key} cannot be used"


def _training_problems(arguments: Mapping[str, Any], family: str) -> Iterator[str]:
    if arguments.get("blocks_to_swap") and arguments.get("cpu_offload_checkpointing"):
        yield "blocks_to_swap is not supported with cpu_offload_checkpointing"
    if arguments.get("blocks_to_swap", 0) > 35:
        yield "blocks_to_swap: at most 35"
    if arguments.get("adaptive_noise_scale") is not None and arguments.get("noise_offset") is None:
        yield "adaptive_noise_scale requires noise_offset"
    if arguments.get("scale_v_pred_loss_like_noise_pred") and not arguments.get("v_parameterization"):
        yield "scale_v_pred_loss_like_noise_pred can be enabled only with v_parameterization"
    if arguments.get("v_pred_like_loss") and arguments.get("v_parameterization"):
        yield "v_pred_like_loss cannot be enabled with v_parameterization"
    if family == "flux" and arguments["loss_type"] in ("huber", "smooth_l1") and arguments["huber_schedule"] == "snr":
        yield "NotImplementedError: huber schedule snr"
    if arguments.get("validate_every_n_epochs") == 0 or arguments.get("validate_every_n_steps") == 0:
        yield "ZeroDivisionError: validation"
    if arguments.get("log_with") in ("tensorboard", "all") and not arguments.get("logging_dir"):
        yield "logging_dir is required when log_with is tensorboard"
    name = arguments["optimizer_type"].lower()
    relative = name == "adafactor" and "relative_step=False" not in arguments.get("optimizer_args", [])
    needless = arguments["lr_scheduler"] in ("constant", "adafactor") or relative
    if needless and arguments.get("lr_warmup_steps") and not name.endswith("schedulefree"):
        yield "the scheduler does not require num_warmup_steps"


def _literal_problems(arguments: Mapping[str, Any]) -> Iterator[str]:
    values: dict[str, dict[str, Any]] = {"optimizer_args": {}, "lr_scheduler_args": {}}
    for name, read in values.items():
        for text in arguments.get(name, []):
            key, _, value = text.partition("=")
            try:
                read[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                yield f"{name}: {text!r} is no literal"
    if arguments["optimizer_type"].lower().endswith("schedulefree"):
        return
    schedule, own = arguments["lr_scheduler"], values["lr_scheduler_args"]
    if own.keys() & PASSED.get(schedule, set()):
        yield f"lr_scheduler_args: multiple values for {own.keys() & PASSED[schedule]}"
    if schedule == "constant" and own:
        yield "lr_scheduler_args: constant takes none"
    if schedule == "cosine_with_min_lr" and (arguments.get("lr_scheduler_min_lr_ratio") is None) is (
        "min_lr" not in own
    ):
        yield "one of min_lr or min_lr_rate should be set"


def _sample_problems(arguments: Mapping[str, Any], files: Mapping[str, str]) -> Iterator[str]:
    intervals = [
        key for key in ("sample_at_first", "sample_every_n_steps", "sample_every_n_epochs") if arguments.get(key)
    ]
    if intervals and "sample_prompts" not in arguments:
        yield f"TypeError: {intervals} without sample_prompts"
    if "sample_prompts" in arguments and arguments["sample_prompts"] not in files:
        yield "sample_prompts is no file"
    for key in ("sample_every_n_steps", "sample_every_n_epochs"):
        if arguments.get(key, 1) <= 0:
            yield f"{key} must be positive"


def prompt_flags(line: str) -> dict[str, str]:
    """A line of prompts.txt as the scripts read it: the prompt under "", the flags by name."""
    problems = {"": ""}
    for part in line.split(" --"):
        match = MISREAD.match(part)
        if match is None or part.startswith("#"):
            problems[""] = problems[""] or part
        else:
            flag, _, value = part.partition(" ")
            problems[flag] = value
    return problems


TRAINERS = {"sd15": trainers.SD, "sdxl": trainers.SDXL, "flux": trainers.FLUX}


def resolved_export(
    config: RunConfig, family: str, subsets: Sequence[ExportedSubset], prompts: Sequence[str]
) -> KohyaExport:
    """The export of a configuration that its family has nothing to change in."""
    resolved, notes = resolve(config, partial_text_cache=family == "flux")
    return kohya_export(resolved, TRAINERS[family], subsets, prompts, notes)
