"""Changes of a run that Kohya's scripts need: they refuse combinations that this program resolves.

The computation has precedence over its cost: where the scripts cannot cache, the captions stay and the cache is left
out.
Every change has a note. Facts: sd-scripts `train_network.py`, `sdxl_train_network.py`, `flux_train_network.py`,
`library/train_util.py`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.flux import RANKS
from engine.config.key_values import split_arguments
from engine.config.kohya.trainers import KohyaTrainer
from engine.config.network import IMPLIED, LYCORIS
from engine.config.optimizers import optimizer_settings, schedule_settings, sets_its_own_rate
from engine.config.resolve import ResolvedConfig
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.config.training import is_schedule_free

_OWN_ADAPTER_KEYS = ("init_lora_weights", "tlora_min_rank", "tlora_alpha")
"""Settings of the adapter that no script has."""
_CHANCE = ("shuffle_caption", "token_warmup_step", "caption_dropout_rate", "caption_tag_dropout_rate")
"""The scripts refuse these where text outputs are cached."""
_UNREAD = ("caption_dropout_every_n_epochs", "enable_wildcard", "caption_prefix", "caption_suffix",
           "keep_tokens_separator", "secondary_separator")  # fmt: skip
"""The scripts ignore these where text outputs are cached: they encode the captions of the files."""
_OWN_KEYS = {
    ("polynomial", "power"): "lr_scheduler_power",
    ("cosine_with_restarts", "num_cycles"): "lr_scheduler_num_cycles",
    ("inverse_sqrt", "timescale"): "lr_scheduler_timescale",
    ("cosine_with_min_lr", "min_lr_rate"): "lr_scheduler_min_lr_ratio",
    ("cosine_with_min_lr", "num_cycles"): "lr_scheduler_num_cycles",
    ("warmup_stable_decay", "min_lr_ratio"): "lr_scheduler_min_lr_ratio",
    ("warmup_stable_decay", "num_cycles"): "lr_scheduler_num_cycles",
    ("warmup_stable_decay", "num_decay_steps"): "lr_decay_steps",
}
"""Settings in lr_scheduler_args that the scripts pass themselves, with the argument from which they take them."""


@dataclass
class Fitted:
    """A run, adapted to the scripts."""

    config: RunConfig
    datasets: dict[str, Any] | None
    """The dataset configuration of the run, where it has one."""
    notes: list[str]
    """The differences from the run, with reasons."""

    def change(self, note: str, **tables: dict[str, Any]) -> None:
        """Change settings and add a note."""
        self.config = self.config.changed(**tables)
        self.notes.append(note)

    def tables(self) -> Iterator[dict[str, Any]]:
        """The settings of each subset, merged from all levels."""
        base = self.config.dataset.model_dump()
        if self.datasets is None:
            yield base
            return
        general = self.datasets.get("general", {})
        for dataset in self.datasets["datasets"]:
            outer = {key: value for key, value in dataset.items() if key != "subsets"}
            for subset in dataset["subsets"]:
                yield {**base, **general, **outer, **subset}

    def set_in(self, *keys: str) -> list[str]:
        """The keys of `keys` that are set in any subset."""
        return [key for key in keys if any(table.get(key) for table in self.tables())]


def fitted(
    config: ResolvedConfig, trainer: KohyaTrainer, datasets: Mapping[str, Any] | None, notes: Sequence[str]
) -> Fitted:
    """The run with changes of everything that the scripts refuse.

    Args:
        trainer: the script for the run's family.
        datasets: the run's dataset configuration.
        notes: the differences so far.
    """
    fit = Fitted(config, None if datasets is None else deepcopy(dict(datasets)), list(notes))
    _caches(fit, trainer)
    _memory(fit, trainer)
    _buckets(fit, trainer)
    _training(fit, trainer)
    _schedule(fit)
    _validation(fit)
    _adapter(fit)
    _loggers(fit)
    if trainer.files:
        _files(fit, trainer)
    return fit


def _caches(fit: Fitted, trainer: KohyaTrainer) -> None:
    if fit.config.memory.cache_text_encoder_outputs:
        off = {"cache_text_encoder_outputs": False, "cache_text_encoder_outputs_to_disk": False}
        names = _left([key for key in off if getattr(fit.config.memory, key)])
        chance, unread = fit.set_in(*_CHANCE), fit.set_in(*_UNREAD)
        cost = trainer.cost_of_texts
        if not trainer.caches_texts:
            fit.change(f"{names}: {trainer.script} has no such argument.", memory=off)
        elif chance:
            fit.change(
                f"{names}: the scripts refuse it with {_and(chance)}.{cost} to cache, "
                f"remove {_and(chance)} from dataset.toml and add cache_text_encoder_outputs = true.", memory=off,
            )  # fmt: skip
        elif fit.config.model.weighted_captions:
            note = f"{names}: with it, the scripts ignore the weights of captions (weighted_captions).{cost}"
            fit.change(f"{note} to cache, remove weighted_captions and the weights.", memory=off)
        elif unread:
            fit.change(
                f"{names}: with it, the scripts ignore {_and(unread)}.{cost} to cache, "
                f"remove them from dataset.toml and add cache_text_encoder_outputs = true.", memory=off,
            )  # fmt: skip
        elif not (fit.config.network.network_train_unet_only or is_trained(fit.config, denoiser=False)):
            note = "network_train_unet_only is set: the scripts need it with cached text outputs; text_encoder_lr is 0."
            fit.change(note, network={"network_train_unet_only": True})
    moving = fit.set_in("color_aug", "random_crop")
    if fit.config.memory.cache_latents and moving:
        off = {"cache_latents": False, "cache_latents_to_disk": False}
        fit.change(f"cache_latents is left out: the scripts refuse it with {_and(moving)}.", memory=off)
    unscaled = [table for table in fit.tables() if not table["enable_bucket"] and not table["random_crop"]]
    if unscaled and not fit.config.memory.cache_latents:
        if moving or fit.set_in("face_crop_aug_range"):
            note = "Without buckets the scripts take only images of exactly the resolution, or random_crop"
            faces = any(table.get("face_crop_aug_range") for table in unscaled)
            fit.notes.append(f"{note}, or those with the place of a face in their name." if faces else f"{note}.")
        else:
            note = "cache_latents is set: without it and without buckets the scripts scale no images."
            fit.change(note, memory={"cache_latents": True})


def _memory(fit: Fitted, trainer: KohyaTrainer) -> None:
    memory, most = fit.config.memory, trainer.most_swapped_blocks
    if most is None:
        off = {"split_mode": False, "blocks_to_swap": None, "cpu_offload_checkpointing": False}
        changed = [key for key, value in off.items() if getattr(memory, key) != value]
        if changed:
            fit.change(f"{_left(changed)}: only Kohya's FLUX script has it.", memory=off)
    elif memory.split_mode:
        if memory.cpu_offload_checkpointing:
            note = "cpu_offload_checkpointing is left out: the FLUX script refuses it with blocks_to_swap."
            fit.change(note, memory={"cpu_offload_checkpointing": False})
        if (memory.blocks_to_swap or most + 1) > most:
            count = "all blocks" if memory.blocks_to_swap is None else f"{memory.blocks_to_swap} blocks"
            note = f"blocks_to_swap is {most}, the script's largest: here {count} wait in host memory."
            fit.change(note, memory={"blocks_to_swap": most})
    if memory.base_precision == "fp8_w8a8":
        note = "memory.base_precision = fp8_w8a8 is written as fp8_base: the scripts have no products in 8 bits."
        fit.change(note, memory={"base_precision": "fp8"})
    elif memory.base_precision not in ("auto", "fp8"):
        note = f"memory.base_precision = {memory.base_precision} is left out: the scripts have fp8_base only."
        fit.change(note, memory={"base_precision": "auto"})


def _buckets(fit: Fitted, trainer: KohyaTrainer) -> None:
    """Round bucket steps up to the scripts' multiples, also on each level of a dataset configuration."""
    multiple = trainer.bucket_multiple
    datasets = fit.datasets or {"datasets": []}
    levels = [datasets.get("general", {}), *datasets["datasets"]]
    base = fit.config.dataset
    if base.enable_bucket and base.bucket_reso_steps % multiple:
        levels.append(changes := {"bucket_reso_steps": base.bucket_reso_steps})
    else:
        changes = {}
    for level in levels:
        step = level.get("bucket_reso_steps")
        if isinstance(step, int) and step % multiple:
            level["bucket_reso_steps"] = math.ceil(step / multiple) * multiple
            note = f"bucket_reso_steps is {level['bucket_reso_steps']} instead of {step}: the script for this family "
            fit.notes.append(f"{note}needs a multiple of {multiple}. Buckets, and so the images' crops, differ.")
    if changes:
        step = changes["bucket_reso_steps"]
        least = max(step, min(base.min_bucket_reso, min(base.size)) // step * step)
        changes["min_bucket_reso"] = least
        if least != base.min_bucket_reso:
            fit.notes.append(f"min_bucket_reso is {least} instead of {base.min_bucket_reso}, to fit that.")
        fit.config = fit.config.changed(dataset=changes)


def _training(fit: Fitted, trainer: KohyaTrainer) -> None:
    training = fit.config.training
    if not trainer.has_snr and training.loss_type in ("huber", "smooth_l1") and training.huber_schedule == "snr":
        note = "huber_schedule is constant: the FLUX script has no snr."
        fit.change(note, training={"huber_schedule": "constant"})
    name, arguments = training.optimizer_type, training.optimizer_args
    values, lost = _literals(optimizer_settings(name, arguments), split_arguments(arguments, ""))
    if values != arguments:
        fit.config = fit.config.changed(training={"optimizer_args": values})
    if lost:
        fit.notes.append(f"optimizer_args: {_left(lost)}: the scripts read Python's literals only.")
    if sets_its_own_rate(name, arguments):
        ignored = {"lr_warmup_steps": 0, "lr_scheduler_args": []}
        changed = [key for key, value in ignored.items() if getattr(training, key) != value]
        if changed:
            note = f"{_left(changed)}: {name} sets its own rate, and the scripts refuse a warm-up then."
            fit.change(note, training=ignored)


def _schedule(fit: Fitted) -> None:
    """Write `lr_scheduler_args` as Python literals, or as separate arguments where the scripts have them."""
    training = fit.config.training
    name, exact = training.lr_scheduler, training.kohya_exact
    if is_schedule_free(training.optimizer_type) or sets_its_own_rate(training.optimizer_type, training.optimizer_args):
        return
    if name == "constant" and training.lr_scheduler_args:
        note = "lr_scheduler_args is left out: it has no effect with constant, and the scripts refuse it."
        fit.change(note, training={"lr_scheduler_args": []})
        return
    settings = schedule_settings(training) if training.lr_scheduler_args else {}
    changes: dict[str, Any] = {}
    for key in list(settings):
        own = _OWN_KEYS.get((name, key))
        if own is None:
            continue
        value = settings.pop(key)
        if own == "lr_scheduler_num_cycles" and name != "cosine_with_restarts":
            value = value * 2  # the scripts halve it
        if value != int(value) and own == "lr_scheduler_num_cycles":
            fit.notes.append(f"lr_scheduler_args: {_left([key])}: the scripts take a whole number, twice that.")
            continue
        changes[own] = int(value) if own == "lr_scheduler_num_cycles" else value
    texts, lost = _literals(settings, split_arguments(training.lr_scheduler_args, ""))
    if lost:
        fit.notes.append(f"lr_scheduler_args: {_left(lost)}: the scripts read Python's literals only.")
    if name == "cosine_with_min_lr" and "min_lr" not in settings:
        changes.setdefault("lr_scheduler_min_lr_ratio", training.lr_scheduler_min_lr_ratio or 0.0)
    if name == "warmup_stable_decay" and not exact and not (training.lr_decay_steps or changes.get("lr_decay_steps")):
        changes["lr_decay_steps"] = 0.1  # the default here; in the scripts nothing decays
    try:
        fit.config = fit.config.changed(training={**changes, "lr_scheduler_args": texts})
    except ValidationError:
        fit.notes.append(f"lr_scheduler_args: {_left(list(changes))}: the scripts take no such value.")
        fit.config = fit.config.changed(training={"lr_scheduler_args": texts})


def _literals(settings: Mapping[str, Any], originals: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Settings as text for `ast.literal_eval`, with which the scripts read them; and the names of those without a
    literal."""
    texts, lost = [], []
    for key, value in settings.items():
        text = originals.get(key, "")
        if not _is_literal(text, value):
            text = repr(value)
        if _is_literal(text, value):
            texts.append(f"{key}={text}")
        else:
            lost.append(f"{key}={text}")
    return texts, lost


def _is_literal(text: str, value: Any) -> bool:
    try:
        read = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return type(read) is type(value) and bool(read == value)


def _validation(fit: Fitted) -> None:
    training = fit.config.training
    if not fit.set_in("validation_split"):
        if fit.config.sets_aside:
            fit.notes.append("validation_split is unset: the scripts train on every image, and set none aside.")
        return
    if training.validate_every_n_epochs == 0 and training.validate_every_n_steps is None:
        note = "validate_every_n_epochs = 0 is left out: the scripts validate after each epoch."
        fit.change(note, training={"validate_every_n_epochs": 1})


def _adapter(fit: Fitted) -> None:
    """Modules of the adapter that are no part of every version of the scripts; settings that they take otherwise."""
    network, training = fit.config.network, fit.config.training
    plain = type(network)()
    lost = [key for key in _OWN_ADAPTER_KEYS if getattr(network, key) != getattr(plain, key)]
    if lost:
        changes = {key: getattr(plain, key) for key in lost}
        note = f"{_left(lost)}: the scripts have no such argument."
        if network.rank_factor > 1 and network.network_weights is not None:
            ranks = {"network_dim", "network_alpha"} | ({"conv_dim", "conv_alpha"} if network.conv_rank else set())
            changes |= {key: getattr(network.in_file, key) for key in ranks}
            note += f" network_dim is {changes['network_dim']}, the rank of the file to start from."
        fit.change(note, network=changes)
    if network.preset is not None and network.is_kohyas:
        note = f"network_module is {LYCORIS}: only it has presets of layers."
        fit.change(note, network={"network_module": LYCORIS})
    _rank_stabilised(fit)
    if len(set(training.text_rates)) > 1:
        fit.notes.append("text_encoder_lr: the script takes the first rate for every text encoder.")
    if fit.config.flux.split_qkv:
        fit.notes.append(
            "split_qkv: the scripts save the alpha of one layer, so that their file is three to four times too weak."
        )
    module = fit.config.network.network_module
    if module == LYCORIS:
        fit.notes.append(f"network_module is {module}: install LyCORIS beside the scripts (pip install lycoris-lora).")
    elif module in IMPLIED:
        fit.notes.append(f"network_module is {module}: sd-scripts has it from version 0.11 on.")


def _rank_stabilised(fit: Fitted) -> None:
    """Modules of the scripts divide alpha by the rank: the alpha of the same strength is passed."""
    network = fit.config.network
    if not network.rs_lora or network.network_module == LYCORIS:
        return
    changes: dict[str, Any] = {
        "rs_lora": False,
        "network_alpha": network.network_alpha * math.sqrt(network.network_dim),
    }
    if network.conv_rank:
        changes["conv_alpha"] = network.conv_scale * math.sqrt(network.conv_rank)
    note = "network_alpha and conv_alpha are multiplied by the root of the rank: the scripts have no rs_lora."
    own_ranks = [key for key in RANKS if getattr(fit.config.flux, key) is not None]
    if network.has_block_ranks or network.network_reg_dims or own_ranks:
        note += " Layers with a rank of their own get another strength."
    fit.change(note, network=changes)


def _loggers(fit: Fitted) -> None:
    if fit.config.logging.log_with == "trackio":
        fit.change("log_with is left out: the scripts have no trackio.", logging={"log_with": None})
    if fit.config.logging.log_with in ("tensorboard", "all") and not fit.config.logging.logging_dir:
        note = "logging_dir is logs, next to these files: the scripts need one for TensorBoard."
        fit.change(note, logging={"logging_dir": "logs"})


def _files(fit: Fitted, trainer: KohyaTrainer) -> None:
    """The parts of a model that the script loads from separate files."""
    vae = fit.config.model.vae
    if fit.config.value(trainer.vae_file) is None and vae is not None:
        table, _, key = trainer.vae_file.partition(".")
        fit.config = fit.config.changed(model={"vae": None}).changed(**{table: {key: vae}})
    missing = [key.partition(".")[2] for key in trainer.files if fit.config.value(key) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        note = f"{_and(missing)} {verb} missing: the FLUX script loads these from separate files. Add their paths."
        fit.notes.append(note)


def is_a_run(folder: str) -> bool:
    """Whether a folder is a run directory of this program; the scripts must not write into it."""
    return bool(folder) and Path(folder, ".run").exists()


def _left(names: list[str]) -> str:
    return f"{_and(names)} {'is' if len(names) == 1 else 'are'} left out"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
