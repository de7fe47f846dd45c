"""Settings without effect because of another setting: found by a table, each reported once.

Settings that a model family does not use are in its `FamilySpec`; both build their notes here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.flux import LAYER_SETTINGS
from engine.config.layers import CHOOSING, RANK_LISTS, RATIOS, WEIGHT_LISTS
from engine.config.network import NetworkTable
from engine.config.optimizers import sets_its_own_rate
from engine.config.schema import RunConfig
from engine.config.training import is_schedule_free

_Reason = tuple[tuple[str, ...], str]
"""Dotted keys, and why they have no effect."""
_OF_SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "lr_decay_steps": ("warmup_stable_decay",),
    "lr_scheduler_num_cycles": ("cosine_with_restarts", "cosine_with_min_lr", "warmup_stable_decay"),
    "lr_scheduler_power": ("polynomial",),
    "lr_scheduler_timescale": ("inverse_sqrt",),
    "lr_scheduler_min_lr_ratio": ("cosine_with_min_lr", "warmup_stable_decay"),
}
"""The schedules that read a setting."""
AUTOMATIC_VALIDATION = "images that are set aside automatically are measured with each saved file"
"""Why an interval has no effect; a run in which none are set aside leaves the note out."""
_WITHOUT_ARGUMENTS = ("constant", "adafactor")
_SAMPLE_KEYS = ("sample_prompts", "sample_sampler", "sample_steps", "sample_scale", "sample_seed")


def without_effect(config: RunConfig, keys: Mapping[str, str]) -> tuple[RunConfig, list[str]]:
    """`config` with these dotted keys at their defaults, and a note for each reason with its keys."""
    plain = RunConfig()
    changed: dict[str, dict[str, Any]] = {}
    reasons: dict[str, list[str]] = {}
    for dotted, reason in keys.items():
        table, _, key = dotted.partition(".")
        default = getattr(getattr(plain, table), key)
        if getattr(getattr(config, table), key) != default:
            changed.setdefault(table, {})[key] = default
            reasons.setdefault(reason, []).append(dotted)
    notes = [f"{_and(names)} {_has(names)} no effect: {reason}." for reason, names in reasons.items()]
    return (config.changed(**changed) if changed else config), notes


def idle_settings(config: RunConfig, *, texts_on_disk: bool = False) -> list[str]:
    """A note for each reason why changed settings have no effect. Settings at their defaults are not reported.

    Args:
        config: of the person, with settings that the family does not use at their defaults.
        texts_on_disk: the family may write encoded captions to disk on its own.
    """
    reasons: dict[str, str] = {}
    groups = (
        _length_and_rates, _schedule, _loss_and_noise, _network, _dataset, _captions, _samples, _files, _loggers,
    )  # fmt: skip
    for keys, reason in (entry for group in groups for entry in group(config)):
        for key in keys:
            reasons.setdefault(key, reason)
    for keys, reason in _memory(config, texts_on_disk):
        for key in keys:
            reasons.setdefault(key, reason)
    return without_effect(config, reasons)[1]


def _length_and_rates(config: RunConfig) -> Iterator[_Reason]:
    training, network = config.training, config.network
    if network.network_train_unet_only:
        yield ("training.text_encoder_lr",), "network.network_train_unet_only is set"
    if network.network_train_text_encoder_only:
        yield ("training.unet_lr",), "network.network_train_text_encoder_only is set"
    if training.lr_scheduler != "polynomial":  # whose last rate is a share of it
        if training.unet_lr is not None and training.text_encoder_lr is not None:
            yield ("training.learning_rate",), "unet_lr and text_encoder_lr are set"
        elif training.unet_lr is not None and network.network_train_unet_only:
            yield ("training.learning_rate",), "unet_lr is set, and only the U-Net is trained"
        elif training.text_encoder_lr is not None and network.network_train_text_encoder_only:
            yield ("training.learning_rate",), "text_encoder_lr is set, and only the text encoder is trained"
    dataset = config.dataset
    intervals = ("training.validate_every_n_epochs", "training.validate_every_n_steps")
    if config.sets_aside:
        yield intervals, AUTOMATIC_VALIDATION
    elif dataset.validation_split == 0 and not (dataset.validation_data_dir or dataset.dataset_config):
        yield intervals, "no validation images are set (validation_data_dir or validation_split)"
    elif training.validate_every_n_steps is not None:
        yield ("training.validate_every_n_epochs",), "validate_every_n_steps is set"
    if not (dataset.reg_data_dir or dataset.dataset_config):
        yield ("training.prior_loss_weight",), "there are no regularization images (reg_data_dir)"


def _schedule(config: RunConfig) -> Iterator[_Reason]:
    training = config.training
    kind, name = training.optimizer_type, training.lr_scheduler
    details = tuple(f"training.{key}" for key in (*_OF_SCHEDULES, "lr_scheduler_args"))
    if is_schedule_free(kind):  # `resolve` reports them
        return
    if sets_its_own_rate(kind, training.optimizer_args):
        yield details, "Adafactor sets its own rate"
        return
    if name in _WITHOUT_ARGUMENTS:
        yield ("training.lr_scheduler_args",), f"lr_scheduler is {name}"
    if name == "piecewise_constant":
        yield ("training.lr_warmup_steps",), "lr_scheduler is piecewise_constant, which uses its rules only"
    for key, schedules in _OF_SCHEDULES.items():
        if name not in schedules:
            yield (f"training.{key}",), f"lr_scheduler is {name}"


def _loss_and_noise(config: RunConfig) -> Iterator[_Reason]:
    training = config.training
    if training.loss_type not in ("huber", "smooth_l1"):
        keys = ("training.huber_schedule", "training.huber_c", "training.huber_scale")
        yield keys, f"loss_type is {training.loss_type}"
    elif training.huber_schedule == "snr":
        yield ("training.huber_scale",), "huber_schedule is snr"
    if training.noise_offset is None:
        yield ("training.noise_offset_random_strength",), "noise_offset is not set"
    if training.multires_noise_iterations is None:
        yield ("training.multires_noise_discount",), "multires_noise_iterations is not set"
    if training.ip_noise_gamma is None:
        yield ("training.ip_noise_gamma_random_strength",), "ip_noise_gamma is not set"


def _network(config: RunConfig) -> Iterator[_Reason]:
    network = config.network
    yield from _layers(config)
    if network.dim_from_weights:
        names = ("network_dim", "network_alpha", "conv_dim", "conv_alpha", "factor", "full_matrix", "decompose_both")
        more = ("unbalanced_factorization", "use_tucker", "use_scalar", "rescaled", "rs_lora")
        keys = tuple(f"network.{name}" for name in (*names, *more))
        yield keys, "dim_from_weights takes ranks and alphas from network_weights"
    elif network.conv_rank is None:
        yield ("network.conv_alpha",), "conv_dim is not set"
    yield from _first_values(network)
    for key in network.idle_settings:
        yield (f"network.{key}",), _why_idle(network, key)
    if config.flux.ae is not None:
        yield ("model.vae",), "flux.ae is set"


def _layers(config: RunConfig) -> Iterator[_Reason]:
    """Settings that choose layers, their ranks and their rates."""
    network, training = config.network, config.training
    if network.dim_from_weights:
        named = (*CHOOSING, "network_reg_dims", *RANK_LISTS)
        own = tuple(f"flux.{key}" for key in LAYER_SETTINGS)
        yield (*(f"network.{key}" for key in named), *own), "dim_from_weights takes its modules from network_weights"
    elif not network.has_block_ranks:
        keys = tuple(f"network.{key}" for key in RANK_LISTS[1:])
        yield keys, "block_dims is not set, and no block has a factor on its learning rate"
    elif network.conv_block_dims is None:
        yield ("network.conv_block_alphas",), "conv_block_dims is not set"
    if not network.has_weights:
        yield ("network.block_lr_zero_threshold",), "no block has a factor on its learning rate"
    if network.preset is not None and network.conv_rank is None:
        yield ("network.conv_dim",), f"the preset {network.preset} trains no convolutions"
    if network.loraplus_unet_lr_ratio and network.loraplus_text_encoder_lr_ratio:
        yield ("network.loraplus_lr_ratio",), "the ratios of both parts are set"
    if network.network_train_unet_only:
        yield ("network.loraplus_text_encoder_lr_ratio",), "no text encoder is trained"
    if network.network_train_text_encoder_only:
        keys = ("network.loraplus_unet_lr_ratio", *(f"network.{key}" for key in WEIGHT_LISTS))
        yield keys, "only the text encoder is trained"
    if sets_its_own_rate(training.optimizer_type, training.optimizer_args):
        keys = tuple(f"network.{key}" for key in (*RATIOS, *WEIGHT_LISTS, "network_reg_lrs"))
        yield keys, "Adafactor sets its own rate"


def _first_values(network: NetworkTable) -> Iterator[_Reason]:
    """Settings of the first values and of T-LoRA's mask."""
    if network.dim_from_weights:
        yield ("network.init_lora_weights",), "dim_from_weights takes the matrices from network_weights"
    elif network.init_lora_weights == "eva" and network.network_weights is not None:
        yield ("network.init_lora_weights",), "network_weights has the first values"
    if network.network_train_text_encoder_only:
        yield ("network.tlora_min_rank", "network.tlora_alpha"), "only ranks of the denoiser depend on the timestep"
    elif network.tlora_min_rank is None:
        yield ("network.tlora_alpha",), "tlora_min_rank is not set"
    elif network.tlora_min_rank >= network.network_dim and not network.dim_from_weights:
        yield ("network.tlora_min_rank", "network.tlora_alpha"), "tlora_min_rank is not below network_dim"


def _why_idle(network: NetworkTable, key: str) -> str:
    """Why the kind of adapter does not read a setting."""
    if key in ("decompose_both", "rs_lora") and network.full_matrix:
        return "full_matrix is set"
    if key == "wd_on_output" and not network.dora_wd:
        return "dora_wd is not set"
    if key == "rank_dropout_scale" and network.is_lora:
        return "rank dropout of a LoRA always scales the other ranks up, as in Kohya"
    if key == "network_dropout" and network.algo in ("lora", "locon"):
        return "use_tucker, use_scalar or dora_wd is set"
    return f"algo is {network.algo}, which does not read it"


def _dataset(config: RunConfig) -> Iterator[_Reason]:
    table = config.dataset
    if not table.masked_loss:
        yield ("dataset.conditioning_data_dir",), "dataset.masked_loss is off"
    elif table.dataset_config:
        yield ("dataset.conditioning_data_dir",), "dataset.dataset_config names the masks of its subsets"
    elif not (table.conditioning_data_dir or table.alpha_mask):
        yield ("dataset.masked_loss",), "no dataset.conditioning_data_dir names masks"
    if config.training.kohya_exact:
        yield ("dataset.alpha_background",), "Kohya's scripts show what is under transparency (kohya_exact)"
    if table.dataset_config:
        yield ("dataset.in_json",), "dataset.dataset_config is set"
        return  # a subset may set what another setting needs
    if table.in_json:
        yield ("dataset.caption_extension", "dataset.reg_data_dir"), "captions are in dataset.in_json"
    if table.validation_split == 0:
        yield ("dataset.validation_seed",), "validation_split is 0"
    elif table.validation_data_dir and table.validation_split is None:
        yield ("dataset.validation_seed",), "validation_data_dir names the images"
    if table.enable_bucket:
        yield ("dataset.face_crop_aug_range",), "enable_bucket is on, which keeps each image's shape"
    elif config.training.kohya_exact and config.memory.cache_latents:
        yield ("dataset.face_crop_aug_range",), "Kohya's scripts crop no faces where latents are cached (kohya_exact)"
    if not table.enable_bucket:
        names = ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
        yield tuple(f"dataset.{name}" for name in names), "enable_bucket is off"
    elif table.bucket_no_upscale:
        yield ("dataset.min_bucket_reso", "dataset.max_bucket_reso"), "bucket_no_upscale is set"


def _captions(config: RunConfig) -> Iterator[_Reason]:
    table = config.dataset
    if table.dataset_config:
        return
    tags_are_edited = table.shuffle_caption or table.token_warmup_step > 0 or table.caption_tag_dropout_rate > 0
    needed = "tags stay as they are (no shuffle_caption, caption_tag_dropout_rate or token_warmup_step)"
    if not tags_are_edited:
        yield ("dataset.keep_tokens", "dataset.keep_tokens_separator"), needed
        if not table.secondary_separator:
            yield ("dataset.caption_separator",), needed
    if not table.token_warmup_step:
        yield ("dataset.token_warmup_min",), "token_warmup_step is 0"


def _samples(config: RunConfig) -> Iterator[_Reason]:
    sampling = config.sampling
    if sampling.sample_every_n_epochs is not None:
        if sampling.sample_every_n_steps:
            yield ("sampling.sample_every_n_steps",), "sample_every_n_epochs is set"
    elif not sampling.sample_every_n_steps:
        reason = "no interval is set (sample_every_n_steps, sample_every_n_epochs); only samples on request use it"
        yield (*(f"sampling.{key}" for key in _SAMPLE_KEYS), "flux.sample_guidance"), reason


def _files(config: RunConfig) -> Iterator[_Reason]:
    saving = config.saving
    if not saving.save_every_n_epochs:
        yield ("saving.save_last_n_epochs",), "save_every_n_epochs is 0"
    if saving.save_every_n_steps is None:
        yield ("saving.save_last_n_steps",), "save_every_n_steps is not set"
    if saving.no_metadata:
        yield ("saving.training_comment",), "no_metadata leaves it out"


def _loggers(config: RunConfig) -> Iterator[_Reason]:
    logging = config.logging
    if logging.log_with is None and logging.logging_dir is None:
        keys = ("log_prefix", "log_tracker_name", "wandb_run_name", "log_tracker_config", "log_config")
        yield tuple(f"logging.{key}" for key in keys), "log_with and logging_dir are not set"
    elif logging.log_with in (None, "tensorboard"):
        yield ("logging.wandb_run_name",), "TensorBoard has no names of runs"


def _memory(config: RunConfig, texts_on_disk: bool) -> Iterator[_Reason]:
    memory, dataset = config.memory, config.dataset
    if not dataset.dataset_config:
        yield ("memory.max_batch_size",), "without dataset.dataset_config, train_batch_size counts"
    if not (memory.gradient_checkpointing or memory.cpu_offload_checkpointing):
        yield ("memory.checkpointed_blocks",), "gradient_checkpointing is off"
    on_disk = memory.cache_latents_to_disk or memory.cache_text_encoder_outputs_to_disk
    if not (on_disk or texts_on_disk):
        reason = "nothing is cached on disk (cache_latents_to_disk, cache_text_encoder_outputs_to_disk)"
        yield ("memory.cache_dir",), reason
    validates = dataset.validation_data_dir or dataset.validation_split != 0 or dataset.dataset_config
    if not (memory.cache_latents or memory.cache_latents_to_disk or validates):
        yield ("memory.vae_batch_size",), "cache_latents is off"
    if memory.device == "cpu":
        yield ("memory.deterministic", "model.no_half_vae"), "memory.device is cpu"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
