"""Resolves contradictions between settings, once, before the start, each with a note.

One pass over `RULES` is enough, and a second one changes and refuses nothing more: a rule changes a setting that an
earlier rule reads only if that rule stays satisfied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NewType

from engine.config.layers import RATIOS, WEIGHT_LISTS, WITHOUT_TEXT
from engine.config.local_paths import require_local_paths
from engine.config.network import FROM_BASE, IMPLIED, LYCORIS
from engine.config.optimizers import check_rates, optimizer_notes, sets_its_own_rate, shares_rate
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.config.training import TrainingTable, is_schedule_free
from engine.config.unused import idle_settings
from engine.errors import UsageError
from engine.text import NAME_HINT, plural

if TYPE_CHECKING:
    from engine.types import Recognition

ResolvedConfig = NewType("ResolvedConfig", RunConfig)
"""A configuration as it really runs: only `resolve` makes one. A changed one is a `RunConfig` again."""
Resolution = tuple[RunConfig, list[str]]
"""The configuration after a rule, and a note for each change."""
Rule = Callable[[RunConfig, bool], Resolution]
"""Takes a configuration, and whether one text encoder can be trained while the outputs of another are cached (FLUX).
Raises UsageError where only the person can resolve a contradiction."""


def resolve(config: RunConfig, *, partial_text_cache: bool = False) -> tuple[ResolvedConfig, list[str]]:
    """The configuration that will really run, and notes on changes and on settings without effect.

    `engine.families.resolved.resolve_run` applies the rules of the model family first; this function alone is for a
    normalized configuration.

    Args:
        partial_text_cache: a text encoder can be trained while the outputs of another are cached (FLUX).

    Raises:
        UsageError: a contradiction that only the person can resolve.
    """
    now, notes = config, list[str]()
    for rule in RULES:
        now, more = rule(now, partial_text_cache)
        notes += more
    notes += optimizer_notes(config.training)
    notes += _without_effect(config.training)
    notes += _rounded_weights(now)
    notes += idle_settings(config, texts_on_disk=partial_text_cache)
    if config.training.kohya_exact:
        notes.append("Numbers are Kohya's (kohya_exact): docs/kohya.md lists the differences.")
    if config.training.max_train_epochs is not None and config.training.max_train_steps != 1600:
        notes.append("max_train_steps is ignored: max_train_epochs is set.")
    return ResolvedConfig(now), notes


def _not_both_parts_only(config: RunConfig, _: bool) -> Resolution:
    """Each of the two switches trains one part only; with both nothing is trained."""
    network = config.network
    if network.network_train_unet_only and network.network_train_text_encoder_only:
        raise UsageError(
            "network.network_train_unet_only and network.network_train_text_encoder_only are both set.",
            "Nothing would be trained: switch one off.",
            code="nothing-trained",
        )
    return config, []


def _preset_by_part(config: RunConfig, _: bool) -> Resolution:
    """A preset without layers of text encoders trains none of them. Comes before the rules about what is trained."""
    network = config.network
    if network.preset not in WITHOUT_TEXT or network.network_train_unet_only or network.dim_from_weights:
        return config, []
    if network.network_train_text_encoder_only:
        raise UsageError(
            f"network.preset = {network.preset} contradicts network.network_train_text_encoder_only.",
            "Nothing would be trained: the preset selects layers of the denoiser only. Unset one of them.",
            code="nothing-trained",
        )
    note = f"No text encoder is trained: the preset {network.preset} selects layers of the denoiser only."
    return config.changed(network={"network_train_unet_only": True}), [note]


def _text_outputs_on_disk(config: RunConfig, _: bool) -> Resolution:
    """A place for cached outputs means that they are cached."""
    memory = config.memory
    if not memory.cache_text_encoder_outputs_to_disk or memory.cache_text_encoder_outputs:
        return config, []
    note = "Text outputs are cached, because cache_text_encoder_outputs_to_disk is set."
    return config.changed(memory={"cache_text_encoder_outputs": True}), [note]


def _cached_text_encoder(config: RunConfig, partial_text_cache: bool) -> Resolution:
    """The outputs of a trained text encoder change with each step: with cached outputs it is not trained.

    Must come before `_something_is_trained`.
    """
    unet_rate, text_rate = config.training.rates
    is_trained = text_rate > 0 and not config.network.network_train_unet_only and not partial_text_cache
    if not config.memory.cache_text_encoder_outputs or not is_trained:
        return config, []
    if config.network.network_train_text_encoder_only:
        raise UsageError(
            "memory.cache_text_encoder_outputs contradicts network.network_train_text_encoder_only.",
            "A cached text encoder cannot be trained: switch one off.",
            code="text-cache-needs-fixed-encoder",
        )
    if unet_rate == 0:
        raise UsageError(
            "memory.cache_text_encoder_outputs contradicts training.unet_lr = 0: nothing would be trained.",
            "A cached text encoder cannot be trained: switch the cache off, or set training.unet_lr.",
            code="text-cache-needs-fixed-encoder",
        )
    note = "The text encoder is not trained, because its outputs are cached (cache_text_encoder_outputs)."
    return config.changed(network={"network_train_unet_only": True}), [note]


def _something_is_trained(config: RunConfig, _: bool) -> Resolution:
    """A LoRA needs at least one module: a learning rate of 0 leaves a part untrained, as in Kohya."""
    if not is_trained(config, denoiser=True) and not is_trained(config, denoiser=False):
        raise UsageError(
            "Nothing would be trained: the learning rates of U-Net and text encoder are both 0 or switched off.",
            "Set training.unet_lr or training.text_encoder_lr.",
            code="nothing-trained",
        )
    return config, []


def _shared_rate(config: RunConfig, _: bool) -> Resolution:
    """Optimizers that find one factor for all parts need equal rates. Must come after `_cached_text_encoder`."""
    name, training = config.training.optimizer_type, config.training
    keys = [key for key in (*WEIGHT_LISTS, "network_reg_lrs", *RATIOS) if getattr(config.network, key) is not None]
    if keys and shares_rate(name):
        raise UsageError(
            f"network.{keys[0]} gives parts of the LoRA another learning rate, and {name} has one for all.",
            "Unset it, or choose another optimizer, as AdamW.",
            code="optimizer-needs-one-rate",
        )
    rates = {"U-Net": training.rates[0]} if is_trained(config, denoiser=True) else {}
    if is_trained(config, denoiser=False):
        several = training.text_rates
        titles = ["text encoder"] if len(several) == 1 else [f"text encoder {n + 1}" for n in range(len(several))]
        rates |= dict(zip(titles, several, strict=True))
    check_rates(name, rates)
    return config, []


def _ranks_of_weights(config: RunConfig, _: bool) -> Resolution:
    """Ranks can be read from a file only if one is set."""
    if config.network.dim_from_weights and config.network.network_weights is None:
        raise UsageError(
            "network.dim_from_weights is set without network.network_weights.",
            "Name the LoRA to start from.",
            code="dim-from-weights-without-file",
        )
    return config, []


_NOT_OF_KOHYA = ("use_tucker", "use_scalar", "dora_wd", "train_norm")
"""Settings that the scripts' own module for LoRAs does not have."""


def _kind_of_adapter(config: RunConfig, _: bool) -> Resolution:
    """Kohya's own modules train one kind each, and LyCORIS' module all of them."""
    network = config.network
    implied = IMPLIED.get(network.network_module)
    if implied is not None and network.algo not in ("lora", implied, *(["locon"] if implied == "lora" else [])):
        raise UsageError(
            f"network.network_module = {network.network_module} contradicts network.algo = {network.algo}.",
            f"Unset network_module, or set network.algo={implied}.",
            code="module-of-other-kind",
        )
    if implied is not None and network.algo == "lora" != implied:
        network = network.model_copy(update={"algo": implied})
        config = config.changed(network={"algo": implied})
    if implied is not None and network.is_decomposed:
        note = f"network_module is {LYCORIS}, because dora_wd is set: {network.network_module} has no DoRA."
        return config.changed(network={"network_module": LYCORIS}), [note]
    if network.is_kohyas and not (network.is_lora and not network.train_norm):
        why = f"algo is {network.algo}"
        if network.algo in ("lora", "locon"):
            why = f"{next(key for key in _NOT_OF_KOHYA if getattr(network, key))} is set"
        note = f"network_module is {LYCORIS}, because {why}: Kohya's own module trains plain LoRAs only."
        return config.changed(network={"network_module": LYCORIS}), [note]
    return config, []


def _plain_loras_only(config: RunConfig, _: bool) -> Resolution:
    """First values and T-LoRA's mask are those of two matrices; PiSSA and OLoRA need the base's exact weights."""
    network, memory = config.network, config.memory
    chosen = ["init_lora_weights"] if network.init_lora_weights != "default" else []
    chosen += ["tlora_min_rank"] if network.tlora_min_rank is not None else []
    if chosen and not network.is_lora:
        raise UsageError(
            f"network.{chosen[0]} is for plain LoRAs, and network.algo = {network.algo} with its settings trains "
            "another kind.",
            f"Unset {chosen[0]}, or set network.algo = lora without its variants.",
            code="setting-of-plain-lora",
        )
    if network.initialisation in FROM_BASE and memory.base_precision != "auto":
        raise UsageError(
            f"network.init_lora_weights = {network.init_lora_weights} is computed from the base's weights, which "
            f"memory.base_precision = {memory.base_precision} rounds.",
            "Set memory.base_precision = auto (memory.split_mode needs less memory too), or init_lora_weights = eva.",
            code="first-values-need-exact-base",
        )
    return config, []


def _cached_latents(config: RunConfig, _: bool) -> Resolution:
    """Pixels that change in each step cannot be cached; a place for latents means that they are cached."""
    memory = config.memory
    uncacheable = [name for name in ("color_aug", "random_crop") if getattr(config.dataset, name)]
    if config.dataset.crops_faces and not config.training.kohya_exact:
        uncacheable.append("face_crop_aug_range")
    if uncacheable and (memory.cache_latents or memory.cache_latents_to_disk):
        note = f"Latents are not cached: {' and '.join(uncacheable)} gives each image new pixels in every step."
        return config.changed(memory={"cache_latents": False, "cache_latents_to_disk": False}), [note]
    if memory.cache_latents_to_disk and not memory.cache_latents:
        note = "Latents are cached, because cache_latents_to_disk is set."
        return config.changed(memory={"cache_latents": True}), [note]
    return config, []


def _offloaded_checkpoints(config: RunConfig, _: bool) -> Resolution:
    """Only the activations of gradient checkpointing can be offloaded."""
    if not config.memory.cpu_offload_checkpointing or config.memory.gradient_checkpointing:
        return config, []
    note = "Gradient checkpointing is on, because cpu_offload_checkpointing is set."
    return config.changed(memory={"gradient_checkpointing": True}), [note]


def _swapped_blocks(config: RunConfig, _: bool) -> Resolution:
    """A number of swapped blocks means that blocks are swapped."""
    if config.memory.blocks_to_swap is None or config.memory.split_mode:
        return config, []
    return config.changed(memory={"split_mode": True}), ["Split mode is on, because blocks_to_swap is set."]


def _merged_strengths(config: RunConfig, _: bool) -> Resolution:
    """A strength without a file has no effect, as in Kohya."""
    files, strengths = config.model.base_weights, config.model.base_weights_multiplier
    if len(strengths) <= len(files):
        return config, []
    note = f"model.base_weights_multiplier has {len(strengths)} strengths for {plural(len(files), 'file')}"
    kept = strengths[: len(files)]
    return config.changed(model={"base_weights_multiplier": kept}), [f"{note}: the others have no effect."]


RULES: tuple[Rule, ...] = (
    _merged_strengths,
    _not_both_parts_only,
    _preset_by_part,
    _text_outputs_on_disk,
    _cached_text_encoder,
    _something_is_trained,
    _shared_rate,
    _ranks_of_weights,
    _kind_of_adapter,
    _plain_loras_only,
    _cached_latents,
    _offloaded_checkpoints,
    _swapped_blocks,
)
"""In the order of their notes."""


def _without_effect(training: TrainingTable) -> list[str]:
    """Notes on settings that the optimizer ignores."""
    name, notes = training.optimizer_type, []
    if is_schedule_free(name):
        ignored = _schedule_keys(training)
        if ignored:
            verb = "have" if len(ignored) > 1 else "has"
            note = f"{_listed(ignored)} {verb} no effect: {name} needs no schedule, and gets none, as in Kohya."
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


def _rounded_weights(config: RunConfig) -> list[str]:
    """A note on kinds that are computed from the base's own weights where these are quantised."""
    precision = config.memory.base_precision
    if config.network.algo not in ("glora", "diag-oft", "boft", "ia3") or precision == "auto":
        return []
    return [
        f"{config.network.algo} changes the base's own weights, which are rounded to {precision} here: with exact "
        "weights, as in other programs, its effect differs slightly."
    ]


def _schedule_keys(training: TrainingTable) -> list[str]:
    """The settings of the schedule that are not their defaults; lr_scheduler always, as its default is not constant."""
    fields = type(training).model_fields
    keys = [key for key in fields if key.startswith("lr_") and key != "lr_scheduler"]
    changed = [key for key in keys if getattr(training, key) != fields[key].default]
    names = [*(["lr_scheduler"] if training.lr_scheduler != "constant" else []), *changed]
    return [f"training.{name}" for name in names]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def check_model(config: RunConfig, recognition: Recognition) -> None:
    """Refuse settings that contradict the recognised checkpoint.

    Raises:
        UsageError: family or prediction type contradict the checkpoint.
    """
    family = config.model.family
    if family not in ("auto", recognition.family):
        raise UsageError(
            f"model.family is {family}, but the checkpoint is {recognition.family}.",
            "Leave it at auto.",
            code="family-not-of-checkpoint",
        )
    is_v = recognition.prediction_type == "v_prediction"
    if config.model.v_parameterization is not None:
        is_v = config.model.v_parameterization
    if config.training.scale_v_pred_loss_like_noise_pred and not is_v:
        raise UsageError(
            "training.scale_v_pred_loss_like_noise_pred is for v-prediction models, and this one predicts "
            f"{recognition.prediction_type}.",
            "Switch it off.",
            code="setting-of-other-prediction",
        )
    if config.training.v_pred_like_loss is not None and is_v:
        raise UsageError(
            "training.v_pred_like_loss is for epsilon models, and this one is a v-prediction model.",
            "Unset it.",
            code="setting-of-other-prediction",
        )


def require_paths(config: RunConfig) -> None:
    """Refuse a run without a model, images or a name, or with paths of another system.

    Raises:
        UsageError: with the missing options.
    """
    required = (
        (config.model.pretrained_model_name_or_path, "model", "--model PATH"),
        (config.dataset.train_data_dir or config.dataset.dataset_config, "images", "--images DIR"),
        (config.saving.output_name, "name", "--name NAME"),
    )
    missing = [(what, option) for value, what, option in required if not value]
    if missing:
        names = ", ".join(what for what, _ in missing)
        raise UsageError(
            f"Missing: {names}.", f"Add {' '.join(option for _, option in missing)}.", code="settings-missing"
        )
    require_local_paths(config)
    name = config.saving.output_name
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise UsageError(f"The name {name!r} cannot be a file name.", NAME_HINT, code="name-not-possible")
