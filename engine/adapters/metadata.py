"""The metadata of a LoRA file about its training: Kohya's `ss_*` keys and the `modelspec.*` keys of version 1.0.1.

Every value is text: None is "None", a flag "True" or "False" (names and spelling: sd-scripts `train_network.py` and
`sai_model_spec.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from engine import __version__
from engine.adapters.dataset_metadata import (
    BucketMetadata,
    SubsetMetadata,
    bucket_limits,
    buckets_of,
    configured_values,
    directories,
    tag_frequency,
)
from engine.adapters.kinds.registry import trained_kind
from engine.config.kohya.layer_args import layer_args
from engine.config.schema import RunConfig
from engine.config.training_size import training_size
from engine.dataset.thumbnail import thumbnail
from engine.errors import UsageError
from engine.families.registry import family_named
from engine.reading import open_file
from engine.types import Recognition

_KEPT_WITHOUT_METADATA = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
)


CHANGES_KEY = "ss_lorasmith_changes"
"""What no key of Kohya's has: settings that changed during the training, each with its step."""


@dataclass(frozen=True)
class TrainingMetadata:
    """The values of the metadata that are not in the configuration. Counts of images include repeats, as Kohya's do."""

    recognition: Recognition
    session_id: int
    """Random, below 2³²; the same in all files of a run."""
    started_at: float
    now: float
    step: int
    epoch: int
    """1-based."""
    num_epochs: int
    max_train_steps: int
    num_train_images: int
    num_reg_images: int
    num_validation_images: int
    num_batches_per_epoch: int
    mixed_precision: str
    """"no", "fp16" or "bf16": what was chosen."""
    optimizer: str
    """"torch.optim.adamw.AdamW(weight_decay=0.01)", in Kohya's form."""
    subsets: Sequence[SubsetMetadata]
    bucket_info: BucketMetadata | None
    """None when bucketing is off."""
    datasets: Sequence[BucketMetadata | None] = ()
    """The buckets of each dataset of a dataset configuration; empty without one."""
    model_hashes: tuple[str | None, str | None] = (None, None)
    """The result of `model_hashes` for the checkpoint."""
    vae_hashes: tuple[str | None, str | None] = (None, None)
    merged_hashes: Sequence[str | None] = ()
    """The new hash of each file of `ModelTable.merged`."""
    changes: list[str] = field(default_factory=list)
    """Settings that changed during the training, as `training.changes`, with the values at step 0."""


def training_metadata(config: RunConfig, stats: TrainingMetadata) -> dict[str, str]:
    """All `ss_*` and `modelspec.*` keys; with `saving.no_metadata` only those without information about the images.

    The hashes over the file itself are added when it is written.
    """
    of_family = family_named(stats.recognition.family).metadata(config, stats.recognition)
    values = {
        **_run_values(config, stats),
        **_network_values(config, stats),
        **_training_values(config, stats),
        **_noise_and_loss_values(config, stats),
        **_caption_values(config),
        **(configured_values(stats.subsets, stats.datasets) if stats.datasets else _folder_values(config, stats)),
        **_model_values(config, stats),
        **_modelspec_values(config, stats),
        **of_family,
        **({CHANGES_KEY: json.dumps(stats.changes)} if stats.changes else {}),
    }
    if config.saving.no_metadata:
        kept = (*_KEPT_WITHOUT_METADATA, "modelspec.")
        values = {key: value for key, value in values.items() if key.startswith(kept)}
    return {key: _utf8(str(value)) for key, value in values.items()}


def model_hashes(path: Path) -> tuple[str | None, str | None]:
    """(`ss_sd_model_hash`, `ss_new_sd_model_hash`) of a checkpoint: A1111's old and new hash.

    The old one is of the 64 KiB at offset 1 MiB, the new one of the full file (read in pieces; seconds for 4 GiB).
    A folder has none: ("IsADirectory", None).
    """
    if path.is_dir():
        return "IsADirectory", None
    if not path.is_file():
        return None, None
    old = old_model_hash(path)
    with open_file(path) as file:
        return old, hashlib.file_digest(file, "sha256").hexdigest()


def old_model_hash(path: Path) -> str:
    """A1111's old hash of a file, as in `model_hashes`."""
    with open_file(path) as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _utf8(text: str) -> str:
    """`text` with a replacement character for each byte of a file name that is not UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _run_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    training, validation_steps = config.training, config.training.validate_every_n_steps
    return {
        "ss_session_id": stats.session_id,
        "ss_training_started_at": stats.started_at,
        "ss_training_finished_at": stats.now,
        "ss_output_name": config.saving.output_name,
        "ss_training_comment": config.saving.training_comment,
        "ss_sd_scripts_commit_hash": "(unknown)",
        "ss_steps": stats.step,
        "ss_epoch": stats.epoch,
        "ss_num_epochs": stats.num_epochs,
        "ss_max_train_steps": stats.max_train_steps,
        "ss_num_train_images": stats.num_train_images,
        "ss_num_reg_images": stats.num_reg_images,
        "ss_num_validation_images": stats.num_validation_images,
        "ss_num_batches_per_epoch": stats.num_batches_per_epoch,
        "ss_gradient_accumulation_steps": training.gradient_accumulation_steps,
        "ss_validation_seed": config.dataset.validation_seed,
        "ss_validation_split": config.dataset.validation_split or 0.0,
        "ss_max_validation_steps": None,
        "ss_validate_every_n_epochs": training.validate_every_n_epochs,
        "ss_validate_every_n_steps": validation_steps,
    }


def _network_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    network = config.network.in_file
    values: dict[str, Any] = {
        "ss_network_module": network.network_module,
        "ss_network_dim": network.network_dim,
        "ss_network_alpha": network.network_alpha,
        "ss_network_dropout": network.network_dropout or None,
        "ss_scale_weight_norms": network.scale_weight_norms,
    }
    if arguments := _network_args(config):
        values["ss_network_args"] = json.dumps(arguments)
    return values


def _network_args(config: RunConfig) -> dict[str, Any]:
    """The arguments of the kind and those that choose layers; Kohya's scripts add the dropout behind them."""
    network = config.network
    arguments = {**trained_kind(network).network_args(network), **layer_args(config)}
    if arguments and network.is_kohyas and not network.dim_from_weights:
        arguments |= {"dropout": arguments.pop("dropout", network.network_dropout or None)}
    return arguments


def _training_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    training, memory = config.training, config.memory
    return {
        "ss_learning_rate": training.learning_rate,
        "ss_unet_lr": training.unet_lr,
        "ss_text_encoder_lr": training.text_encoder_lr,
        "ss_lr_scheduler": training.lr_scheduler,
        "ss_lr_warmup_steps": _count_or_share(training.lr_warmup_steps),
        "ss_optimizer": stats.optimizer,
        "ss_max_grad_norm": training.max_grad_norm,
        "ss_seed": training.seed,
        "ss_gradient_checkpointing": memory.gradient_checkpointing,
        "ss_mixed_precision": stats.mixed_precision,
        "ss_full_fp16": False,
        "ss_lowram": False,
        "ss_fp8_base": memory.base_precision in ("fp8", "fp8_w8a8"),
        "ss_fp8_base_unet": memory.base_precision in ("fp8", "fp8_w8a8"),
        "ss_cache_latents": memory.cache_latents,
    }


def _count_or_share(number: float) -> float:
    """A count as an integer, as Kohya writes it; a share stays a float."""
    return int(number) if number >= 1 or number == 0 else number


def _noise_and_loss_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    training = config.training
    return {
        "ss_noise_offset": training.noise_offset,
        "ss_noise_offset_random_strength": training.noise_offset_random_strength,
        "ss_adaptive_noise_scale": training.adaptive_noise_scale,
        "ss_multires_noise_iterations": training.multires_noise_iterations,
        "ss_multires_noise_discount": training.multires_noise_discount,
        "ss_ip_noise_gamma": training.ip_noise_gamma,
        "ss_ip_noise_gamma_random_strength": training.ip_noise_gamma_random_strength,
        "ss_zero_terminal_snr": stats.recognition.zero_terminal_snr,
        "ss_min_snr_gamma": training.min_snr_gamma,
        "ss_debiased_estimation": training.debiased_estimation_loss,
        "ss_loss_type": training.loss_type,
        "ss_huber_schedule": training.huber_schedule,
        "ss_huber_scale": training.huber_scale,
        "ss_huber_c": training.huber_c,
        "ss_prior_loss_weight": training.prior_loss_weight,
    }


def _caption_values(config: RunConfig) -> dict[str, Any]:
    dataset = config.dataset
    return {
        "ss_caption_dropout_rate": dataset.caption_dropout_rate,
        "ss_caption_dropout_every_n_epochs": dataset.caption_dropout_every_n_epochs,
        "ss_caption_tag_dropout_rate": dataset.caption_tag_dropout_rate,
        "ss_face_crop_aug_range": None if dataset.face_crop_aug_range is None else tuple(dataset.face_crop_aug_range),
        "ss_resize_interpolation": dataset.resize_interpolation,
    }


def _folder_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    """The keys of image folders, without a dataset configuration."""
    dataset, batch = config.dataset, config.training.train_batch_size
    bucketed = dataset.enable_bucket
    minimum, maximum = bucket_limits(dataset)
    return {
        "ss_batch_size_per_device": batch,
        "ss_total_batch_size": batch * config.training.processes * config.training.gradient_accumulation_steps,
        "ss_resolution": dataset.size,
        "ss_color_aug": dataset.color_aug,
        "ss_flip_aug": dataset.flip_aug,
        "ss_random_crop": dataset.random_crop,
        "ss_shuffle_caption": dataset.shuffle_caption,
        "ss_enable_bucket": bucketed,
        "ss_bucket_no_upscale": bucketed and dataset.bucket_no_upscale,
        "ss_min_bucket_reso": minimum,
        "ss_max_bucket_reso": maximum,
        "ss_keep_tokens": dataset.keep_tokens,
        "ss_dataset_dirs": json.dumps(directories(stats.subsets, is_reg=False)),
        "ss_reg_dataset_dirs": json.dumps(directories(stats.subsets, is_reg=True)),
        "ss_tag_frequency": json.dumps(tag_frequency(stats.subsets)),
        "ss_bucket_info": json.dumps(buckets_of(stats.bucket_info)),
    }


def _model_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    recognition, model = stats.recognition, config.model
    values: dict[str, Any] = {
        "ss_clip_skip": model.clip_skip,
        "ss_max_token_length": None if model.max_token_length == 75 else model.max_token_length,
        "ss_sd_model_name": recognition.path.name,
        "ss_sd_model_hash": stats.model_hashes[0],
        "ss_new_sd_model_hash": stats.model_hashes[1],
    }
    if model.vae:
        values |= {
            "ss_vae_name": Path(model.vae).name,
            "ss_vae_hash": stats.vae_hashes[0],
            "ss_new_vae_hash": stats.vae_hashes[1],
        }
    if model.merged:  # Kohya's scripts write nothing about them
        pairs = zip(model.merged, stats.merged_hashes or [None] * len(model.merged), strict=True)
        merged = [{"name": Path(name).name, "multiplier": strength, "hash": digest}
                  for (name, strength), digest in pairs]  # fmt: skip
        values["ss_base_weights"] = json.dumps(merged)
    return {key: value for key, value in values.items() if value is not None or not key.endswith("_hash")}


def _modelspec_values(config: RunConfig, stats: TrainingMetadata) -> dict[str, Any]:
    saving, training = config.saving, config.training
    width, height = training_size(config)
    moment = datetime.fromtimestamp(int(stats.now))
    limited = training.min_timestep > 0 or training.max_timestep < 1000
    optional = {
        "timestep_range": f"{training.min_timestep},{training.max_timestep}" if limited else None,
        "encoder_layer": config.model.clip_skip,
        "author": saving.metadata_author,
        "description": saving.metadata_description,
        "license": saving.metadata_license,
        "tags": saving.metadata_tags,
        "usage_hint": saving.metadata_usage_hint,
        "thumbnail": _data_url(saving.metadata_thumbnail),
        "merged_from": saving.metadata_merged_from,
        "trigger_phrase": saving.metadata_trigger_phrase,
        "preprocessor": saving.metadata_preprocessor,
        "is_negative_embedding": saving.metadata_is_negative_embedding,
    }
    values = {
        "sai_model_spec": "1.0.1",
        "implementation_version": f"lorasmith/{__version__}",
        "title": saving.metadata_title or saving.output_name or f"LoRA@{int(stats.now)}",
        "resolution": f"{width}x{height}",
        "date": moment.isoformat(),
        **{key: value for key, value in optional.items() if value is not None},
    }
    return {f"modelspec.{key}": value for key, value in values.items()}


def _data_url(value: str | None) -> str | None:
    """An image as a data URL for `modelspec.thumbnail`; None where it can no longer be read."""
    if not value:
        return None
    try:
        return thumbnail(value)
    except UsageError:  # it was checked before the start; a finished training does not fail for it
        return None
