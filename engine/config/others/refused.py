"""Trainers whose configurations are recognised and named, but not converted, and parts of files of the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engine.config.others.source import PRESETS, Source, not_converted
from engine.errors import UsageError

_HAND = f"{PRESETS[:1].upper()}{PRESETS[1:]}"
_SIMPLE_TUNER = frozenset({
    "model_family", "data_backend_config", "lora_type", "validation_num_inference_steps", "tracker_project_name",
    "tracker_run_name", "validation_guidance", "validation_resolution", "validation_prompt", "base_model_precision",
    "checkpointing_steps", "checkpoint_step_interval", "checkpoints_total_limit", "push_checkpoints_to_hub",
    "aspect_bucket_rounding", "resolution_type", "flow_schedule_shift", "hub_model_id", "disable_benchmark",
    "lycoris_config", "num_train_epochs", "resume_from_checkpoint", "minimum_image_size",
})  # fmt: skip
"""Keys of `config.json`, without the -- of the older form."""
_BACKEND = frozenset({
    "instance_data_dir", "dataset_type", "cache_dir_vae", "caption_strategy", "metadata_backend", "crop_aspect",
    "crop_style", "resolution_type", "text_embeds", "minimum_image_size", "maximum_image_size", "probability",
    "aws_bucket_name", "instance_prompt", "only_instance_prompt", "target_downsample_size",
})  # fmt: skip
"""Keys of an entry of `multidatabackend.json`."""
_ENV = re.compile(
    r"^[ \t]*(?:export[ \t]+)?(MODEL_TYPE|DATALOADER_CONFIG|TRACKER_PROJECT_NAME|TRACKER_RUN_NAME|VALIDATION_PROMPT|"
    r"VALIDATION_GUIDANCE|STABLE_DIFFUSION_LEGACY|FLUX_LORA_TARGET|CHECKPOINTING_STEPS|TRAINING_NUM_PROCESSES|"
    r"TRAINER_EXTRA_ARGS|LR_SCHEDULE|USE_DORA|MODEL_FAMILY|INSTANCE_PROMPT)=",
    re.MULTILINE,
)
"""Variables of `config.env`."""
_QUOTED = re.compile(r'"(?:--)?(\w+)"\s*:')
_FEWEST = 2
_PIPE = frozenset({"micro_batch_size_per_gpu", "pipeline_stages", "activation_checkpointing", "partition_method",
                   "eval_every_n_epochs", "checkpoint_every_n_minutes", "save_dtype", "caching_batch_size",
                   "steps_per_print", "video_clip_mode", "gradient_clipping", "eval_datasets"})  # fmt: skip
_PIPE_DATASET = frozenset({"resolutions", "enable_ar_bucket", "min_ar", "max_ar", "num_ar_buckets", "frame_buckets",
                           "ar_buckets", "size_buckets"})  # fmt: skip
_MUSUBI = frozenset({"image_directory", "video_directory", "image_jsonl_file", "video_jsonl_file", "cache_directory",
                     "control_directory", "target_frames", "frame_extraction"})  # fmt: skip
_FILES_OF_MUSUBI = re.compile(
    r"networks\.(?:lora|loha|lokr)_(?:wan|framepack|flux_kontext|flux_2|qwen_image|zimage|kandinsky\w*|hv\w*|hunyuan\w*|"
    r"ltx\w*|krea\w*|ideogram\w*|minimax\w*|hidream\w*)"
)


def simple_tuner(source: Source) -> UsageError | None:
    """The refusal of a file of SimpleTuner: its config.json, config.env or multidatabackend.json."""
    if source.content is None:
        words = set(_QUOTED.findall(source.text)) if source.text.lstrip()[:1] in ("{", "[") else set()
        variables = set(_ENV.findall(source.text)) if not words else set()
        if len(words & _BACKEND) >= _FEWEST and source.text.lstrip().startswith("["):
            return _backend(source)
        if len(words & _SIMPLE_TUNER) < _FEWEST and len(variables) < _FEWEST + 1:
            return None
    elif isinstance(source.content, list):
        tables = [item for item in source.content if isinstance(item, dict)]
        known = any(len(_BACKEND & item.keys()) >= _FEWEST for item in tables)
        return _backend(source) if known else None
    else:
        inner = source.table.get("config")
        content = inner if isinstance(inner, dict) and "_metadata" in source.table else source.table
        keys = {str(key).removeprefix("--") for key in content}
        if len(keys & _SIMPLE_TUNER) < _FEWEST:
            return None
    hint = (
        f"{_HAND}; the same values are network.network_dim (lora_rank), network.network_alpha (lora_alpha), "
        "training.learning_rate, training.max_train_steps and dataset.resolution."
    )
    return not_converted(source, "SimpleTuner", "a configuration", hint)


def _backend(source: Source) -> UsageError:
    hint = (
        "Name the folder of its instance_data_dir with --images, or write its folders as a dataset configuration: "
        "--dataset_config FILE."
    )
    return not_converted(source, "SimpleTuner", "a list of data backends", hint)


def diffusion_pipe(source: Source) -> UsageError | None:
    """The refusal of a file of diffusion-pipe: the training's or the dataset's."""
    table = source.table
    if isinstance(table.get("directory"), list) and (table.keys() & _PIPE_DATASET or _paths(table["directory"])):
        hint = "Name the folder of its path with --images, or write its folders as a dataset configuration."
        return not_converted(source, "diffusion-pipe", "a dataset configuration", hint)
    tables = [
        key for key in ("model", "adapter", "optimizer") if isinstance(table.get(key), dict) and "type" in table[key]
    ]
    if len(table.keys() & _PIPE) < _FEWEST and not (len(tables) > 1 and "adapter" in tables):
        return None
    hint = (
        f"{_HAND}; the same values are network.network_dim (adapter.rank, which is alpha too), training.learning_rate "
        "(optimizer.lr), training.max_train_epochs (epochs) and training.train_batch_size (micro_batch_size_per_gpu)."
    )
    return not_converted(source, "diffusion-pipe", "a configuration", hint)


def _paths(directories: Any) -> bool:
    return any(isinstance(item, dict) and "path" in item for item in directories)


def musubi_tuner(source: Source) -> UsageError | None:
    """The refusal of a dataset configuration or a training TOML of musubi-tuner."""
    datasets = source.table.get("datasets")
    entries = [item for item in datasets if isinstance(item, dict)] if isinstance(datasets, list) else []
    if any(_MUSUBI & item.keys() and "subsets" not in item for item in entries):
        hint = (
            "Here each [[datasets]] has [[datasets.subsets]], with image_dir for its image_directory; videos are not "
            "trained. It is named by --dataset_config."
        )
        return not_converted(source, "musubi-tuner", "a dataset configuration", hint)
    module = _flat(source.table).get("network_module")
    if isinstance(module, str) and _FILES_OF_MUSUBI.fullmatch(module):
        hint = f"It is for models that cannot be trained here. For SD 1.5, SDXL or FLUX.1 {PRESETS}."
        return not_converted(source, "musubi-tuner", "a training configuration", hint)
    return None


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: value for members in table.values() if isinstance(members, dict) for key, value in members.items()}
    return {**inner, **table}
