"""Settings that contradict each other: resolved here once, before the start, each with a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config.local_paths import require_local_paths
from engine.config.optimizers import is_schedule_free, sets_its_own_rate
from engine.config.schema import RunConfig
from engine.config.training import TrainingTable
from engine.config.unused import idle_settings
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.models.base import Recognition


def resolve(config: RunConfig, *, partial_text_cache: bool = False) -> tuple[RunConfig, list[str]]:
    """The configuration that will really run, and what was changed and why.

    Args:
        partial_text_cache: a text encoder can be trained while the outputs of another are cached (FLUX).

    Raises:
        UsageError: a contradiction that only the person can resolve.
    """
    notes: list[str] = []
    given = config
    network, memory, training = config.network, config.memory, config.training
    if network.network_train_unet_only and network.network_train_text_encoder_only:
        raise UsageError(
            "network.network_train_unet_only and network.network_train_text_encoder_only are both set.",
            "Nothing would be trained: switch one off.",
        )
    unet_lr, text_lr = training.rates
    if (unet_lr == 0 or network.network_train_text_encoder_only) and (text_lr == 0 or network.network_train_unet_only):
        raise UsageError(
            "Nothing would be trained: the learning rates of UNet and text encoder are both 0 or switched off.",
            "Set training.unet_lr or training.text_encoder_lr.",
        )
    if network.dim_from_weights and network.network_weights is None:
        raise UsageError(
            "network.dim_from_weights is set without network.network_weights.", "Name the LoRA to start from."
        )
    if memory.cache_text_encoder_outputs_to_disk and not memory.cache_text_encoder_outputs:
        config = config.changed(memory={"cache_text_encoder_outputs": True})
        notes.append("Text outputs are cached, because cache_text_encoder_outputs_to_disk is set.")
    text_is_trained = text_lr > 0 and not network.network_train_unet_only and not partial_text_cache
    if config.memory.cache_text_encoder_outputs and text_is_trained:
        if network.network_train_text_encoder_only:
            raise UsageError(
                "memory.cache_text_encoder_outputs contradicts network.network_train_text_encoder_only.",
                "A cached text encoder cannot be trained: switch one off.",
            )
        config = config.changed(network={"network_train_unet_only": True})
        notes.append("The text encoder is not trained, because its outputs are cached (cache_text_encoder_outputs).")
    uncacheable = [name for name in ("color_aug", "random_crop") if getattr(config.dataset, name)]
    if uncacheable and (memory.cache_latents or memory.cache_latents_to_disk):
        config = config.changed(memory={"cache_latents": False, "cache_latents_to_disk": False})
        notes.append(
            f"Latents are not cached: {' and '.join(uncacheable)} gives each picture new pixels in every step."
        )
    elif memory.cache_latents_to_disk and not memory.cache_latents:
        config = config.changed(memory={"cache_latents": True})
        notes.append("Latents are cached, because cache_latents_to_disk is set.")
    config, implied = _ladder(config)
    notes += implied
    notes += _without_effect(training)
    notes += idle_settings(given, texts_on_disk=partial_text_cache)
    if training.kohya_exact:
        notes.append("Numbers are Kohya's (kohya_exact): docs/kohya.md lists what is otherwise done in another way.")
    if training.max_train_epochs is not None and training.max_train_steps != 1600:
        notes.append("max_train_steps is ignored: max_train_epochs is set.")
    return config, notes


def _ladder(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """What the settings of checkpointing and split mode imply."""
    notes = []
    if config.memory.cpu_offload_checkpointing and not config.memory.gradient_checkpointing:
        config = config.changed(memory={"gradient_checkpointing": True})
        notes.append("Gradient checkpointing is on, because cpu_offload_checkpointing is set.")
    if config.memory.blocks_to_swap is not None and not config.memory.split_mode:
        config = config.changed(memory={"split_mode": True})
        notes.append("Split mode is on, because blocks_to_swap is set.")
    return config, notes


def _without_effect(training: TrainingTable) -> list[str]:
    """What the chosen optimizer does not look at."""
    name, notes = training.optimizer_type, []
    if is_schedule_free(name):
        ignored = _schedule_keys(training)
        if ignored:
            verb = "have" if len(ignored) > 1 else "has"
            note = f"{_listed(ignored)} {verb} no effect: {name} needs no schedule, and is given none, as in Kohya."
            if training.lr_warmup_steps and name.lower().startswith(("adamw", "sgd")):
                note += ' Its own warm-up is optimizer_args = ["warmup_steps=100"].'
            notes.append(note)
        return notes
    if sets_its_own_rate(name, training.optimizer_args):
        notes.append(
            "unet_lr, text_encoder_lr and lr_scheduler have no effect: Adafactor sets its own rate. For a fixed one "
            'set optimizer_args = ["scale_parameter=False", "relative_step=False", "warmup_init=False"].'
        )
    return notes


def _schedule_keys(training: TrainingTable) -> list[str]:
    """The settings of the schedule that are not their defaults; lr_scheduler always, as its default is no constant."""
    fields = type(training).model_fields
    keys = [key for key in fields if key.startswith("lr_") and key != "lr_scheduler"]
    changed = [key for key in keys if getattr(training, key) != fields[key].default]
    names = [*(["lr_scheduler"] if training.lr_scheduler != "constant" else []), *changed]
    return [f"training.{name}" for name in names]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check_model(config: RunConfig, recognition: Recognition) -> None:
    """Refuse settings that the recognised checkpoint cannot have.

    Raises:
        UsageError: family or prediction type contradict the checkpoint.
    """
    wanted = config.model.family
    if wanted not in ("auto", recognition.family):
        raise UsageError(f"model.family is {wanted}, but the checkpoint is {recognition.family}.", "Leave it at auto.")
    is_v = recognition.prediction_type == "v_prediction"
    if config.model.v_parameterization is not None:
        is_v = config.model.v_parameterization
    if config.training.scale_v_pred_loss_like_noise_pred and not is_v:
        raise UsageError(
            "training.scale_v_pred_loss_like_noise_pred is for v-prediction models, and this one predicts "
            f"{recognition.prediction_type}.",
            "Switch it off.",
        )
    if config.training.v_pred_like_loss is not None and is_v:
        raise UsageError(
            "training.v_pred_like_loss is for epsilon models, and this one is a v-prediction model.", "Unset it."
        )


def require_paths(config: RunConfig) -> None:
    """Refuse a run that lacks a model, pictures or a name, or has paths of another system.

    Raises:
        UsageError: says which option is missing.
    """
    wanted = (
        (config.model.pretrained_model_name_or_path, "model", "--model PATH"),
        (config.dataset.train_data_dir or config.dataset.dataset_config, "pictures", "--images DIR"),
        (config.saving.output_name, "name", "--name NAME"),
    )
    missing = [(what, option) for value, what, option in wanted if not value]
    if missing:
        names = ", ".join(what for what, _ in missing)
        raise UsageError(f"Missing: {names}.", f"Add {' '.join(option for _, option in missing)}.")
    require_local_paths(config)
    name = config.saving.output_name
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise UsageError(f"The name {name!r} cannot be a file name.", "Choose letters, digits, - and _.")
