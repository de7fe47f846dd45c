"""What a run has to change so that Kohya's scripts take it: they stop at combinations that this program resolves.

What is computed goes before what it costs: where the scripts cannot cache, the captions stay and the cache is left out.
Every change is a sentence. Facts: sd-scripts `train_network.py`, `sdxl_train_network.py`, `flux_train_network.py`,
`library/train_util.py`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.key_values import split_arguments
from engine.config.optimizers import is_schedule_free, optimizer_settings, schedule_settings, sets_its_own_rate
from engine.config.resolve import resolve
from engine.config.schema import RunConfig

BUCKET_MULTIPLE = {"sd15": 64, "sdxl": 32, "flux": 64}
"""What `bucket_reso_steps` must be a multiple of."""
MOST_BLOCKS = 35
"""The largest `blocks_to_swap` of the FLUX script."""
_CHANCE = ("shuffle_caption", "token_warmup_step", "caption_dropout_rate", "caption_tag_dropout_rate")
"""The scripts stop where these are set and text outputs are cached."""
_UNREAD = ("caption_dropout_every_n_epochs", "enable_wildcard", "caption_prefix", "caption_suffix",
           "keep_tokens_separator", "secondary_separator")  # fmt: skip
"""What the scripts pass over where text outputs are cached: they encode the captions as they stand in the files."""
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
"""Settings in lr_scheduler_args that the scripts pass themselves, and the argument that they pass."""


@dataclass
class Fitted:
    """A run as the scripts take it."""

    config: RunConfig
    datasets: dict[str, Any] | None
    """The dataset configuration of the run, where it has one."""
    notes: list[str]
    """What is otherwise than in the run, and why."""

    def change(self, note: str, **tables: dict[str, Any]) -> None:
        """Change settings and note it."""
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
        """Those of the keys that are set in any subset."""
        return [key for key in keys if any(table.get(key) for table in self.tables())]


def fitted(config: RunConfig, family: str, datasets: Mapping[str, Any] | None) -> Fitted:
    """The run with everything that the scripts would stop at changed.

    Args:
        family: "sd15", "sdxl" or "flux".
        datasets: the run's dataset configuration.

    Raises:
        UsageError: a contradiction that only the person can resolve.
    """
    config, notes = resolve(config, partial_text_cache=family == "flux")
    made = Fitted(config, None if datasets is None else deepcopy(dict(datasets)), notes)
    _caches(made, family)
    _memory(made, family)
    _buckets(made, family)
    _training(made, family)
    _schedule(made)
    _validation(made)
    if family == "flux":
        _flux_files(made)
    return made


def _caches(made: Fitted, family: str) -> None:
    if made.config.memory.cache_text_encoder_outputs:
        off = {"cache_text_encoder_outputs": False, "cache_text_encoder_outputs_to_disk": False}
        named = _left([key for key in off if getattr(made.config.memory, key)])
        chance, unread = made.set_in(*_CHANCE), made.set_in(*_UNREAD)
        cost = " T5 then stays loaded, which takes about 9 GiB more;" if family == "flux" else ""
        if family == "sd15":
            made.change(f"{named}: train_network.py has no such argument.", memory=off)
        elif chance:
            made.change(
                f"{named}: the scripts refuse it with {_and(chance)}.{cost} to cache, "
                f"remove {_and(chance)} from dataset.toml and add cache_text_encoder_outputs = true.", memory=off,
            )  # fmt: skip
        elif unread:
            made.change(
                f"{named}: with it, the scripts ignore {_and(unread)}.{cost} to cache, "
                f"remove them from dataset.toml and add cache_text_encoder_outputs = true.", memory=off,
            )  # fmt: skip
    moving = made.set_in("color_aug", "random_crop")
    if made.config.memory.cache_latents and moving:
        off = {"cache_latents": False, "cache_latents_to_disk": False}
        made.change(f"cache_latents is left out: the scripts refuse it with {_and(moving)}.", memory=off)
    unscaled = [table for table in made.tables() if not table["enable_bucket"] and not table["random_crop"]]
    if unscaled and not made.config.memory.cache_latents:
        if moving:
            made.notes.append("Without buckets the scripts take only images of exactly the resolution, or random_crop.")
        else:
            note = "cache_latents is set: without it and without buckets the scripts scale no images."
            made.change(note, memory={"cache_latents": True})


def _memory(made: Fitted, family: str) -> None:
    memory = made.config.memory
    if family != "flux":
        off = {"split_mode": False, "blocks_to_swap": None, "cpu_offload_checkpointing": False}
        given = [key for key, value in off.items() if getattr(memory, key) != value]
        if given:
            made.change(f"{_left(given)}: only Kohya's FLUX script has it.", memory=off)
    elif memory.split_mode:
        if memory.cpu_offload_checkpointing:
            note = "cpu_offload_checkpointing is left out: the FLUX script refuses it with blocks_to_swap."
            made.change(note, memory={"cpu_offload_checkpointing": False})
        if (memory.blocks_to_swap or MOST_BLOCKS + 1) > MOST_BLOCKS:
            count = "all blocks" if memory.blocks_to_swap is None else f"{memory.blocks_to_swap} blocks"
            note = f"blocks_to_swap is {MOST_BLOCKS}, the script's largest: here {count} wait in host memory."
            made.change(note, memory={"blocks_to_swap": MOST_BLOCKS})
    if memory.base_precision in ("int8", "nf4"):
        note = f"memory.base_precision = {memory.base_precision} is left out: the scripts have fp8_base only."
        made.change(note, memory={"base_precision": "auto"})


def _buckets(made: Fitted, family: str) -> None:
    """Bucket sides in the scripts' multiples, also on each level of a dataset configuration."""
    multiple = BUCKET_MULTIPLE[family]
    datasets = made.datasets or {"datasets": []}
    levels = [datasets.get("general", {}), *datasets["datasets"]]
    base = made.config.dataset
    if base.enable_bucket and base.bucket_reso_steps % multiple:
        levels.append(changes := {"bucket_reso_steps": base.bucket_reso_steps})
    else:
        changes = {}
    for level in levels:
        step = level.get("bucket_reso_steps")
        if isinstance(step, int) and step % multiple:
            level["bucket_reso_steps"] = math.ceil(step / multiple) * multiple
            note = f"bucket_reso_steps is {level['bucket_reso_steps']} instead of {step}: the script for this family "
            made.notes.append(f"{note}needs a multiple of {multiple}. Buckets, and so the images' crops, differ.")
    if changes:
        step = changes["bucket_reso_steps"]
        least = max(step, min(base.min_bucket_reso, min(base.size)) // step * step)
        changes["min_bucket_reso"] = least
        if least != base.min_bucket_reso:
            made.notes.append(f"min_bucket_reso is {least} instead of {base.min_bucket_reso}, to fit that.")
        made.config = made.config.changed(dataset=changes)


def _training(made: Fitted, family: str) -> None:
    training = made.config.training
    if family == "flux" and training.loss_type in ("huber", "smooth_l1") and training.huber_schedule == "snr":
        note = "huber_schedule is constant: the FLUX script has no snr."
        made.change(note, training={"huber_schedule": "constant"})
    name, arguments = training.optimizer_type, training.optimizer_args
    values, lost = _literals(optimizer_settings(name, arguments), split_arguments(arguments, ""))
    if values != arguments:
        made.config = made.config.changed(training={"optimizer_args": values})
    if lost:
        made.notes.append(f"optimizer_args: {_left(lost)}: the scripts read Python's literals only.")
    if sets_its_own_rate(name, arguments):
        ignored = {"lr_warmup_steps": 0, "lr_scheduler_args": []}
        given = [key for key, value in ignored.items() if getattr(training, key) != value]
        if given:
            note = f"{_left(given)}: {name} sets its own rate, and the scripts refuse a warm-up then."
            made.change(note, training=ignored)


def _schedule(made: Fitted) -> None:
    """`lr_scheduler_args` as Python's literals, and in arguments of their own where the scripts pass those."""
    training = made.config.training
    name, exact = training.lr_scheduler, training.kohya_exact
    if is_schedule_free(training.optimizer_type) or sets_its_own_rate(training.optimizer_type, training.optimizer_args):
        return
    if name == "constant" and training.lr_scheduler_args:
        note = "lr_scheduler_args is left out: it has no effect with constant, and the scripts refuse it."
        made.change(note, training={"lr_scheduler_args": []})
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
            made.notes.append(f"lr_scheduler_args: {_left([key])}: the scripts take a whole number, twice that.")
            continue
        changes[own] = int(value) if own == "lr_scheduler_num_cycles" else value
    texts, lost = _literals(settings, split_arguments(training.lr_scheduler_args, ""))
    if lost:
        made.notes.append(f"lr_scheduler_args: {_left(lost)}: the scripts read Python's literals only.")
    if name == "cosine_with_min_lr" and "min_lr" not in settings:
        changes.setdefault("lr_scheduler_min_lr_ratio", training.lr_scheduler_min_lr_ratio or 0.0)
    if name == "warmup_stable_decay" and not exact and not (training.lr_decay_steps or changes.get("lr_decay_steps")):
        changes["lr_decay_steps"] = 0.1  # what is done here where nothing is set; nothing decays in the scripts
    try:
        made.config = made.config.changed(training={**changes, "lr_scheduler_args": texts})
    except ValidationError:
        made.notes.append(f"lr_scheduler_args: {_left(list(changes))}: the scripts take no such value.")
        made.config = made.config.changed(training={"lr_scheduler_args": texts})


def _literals(settings: Mapping[str, Any], given: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Settings as the scripts read them, by `ast.literal_eval`; and the names of those that have no literal."""
    texts, lost = [], []
    for key, value in settings.items():
        text = given.get(key, "")
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


def _validation(made: Fitted) -> None:
    training = made.config.training
    if not made.set_in("validation_split"):
        return
    if training.validate_every_n_epochs == 0 and training.validate_every_n_steps is None:
        note = "validate_every_n_epochs = 0 is left out: the scripts validate after each epoch."
        made.change(note, training={"validate_every_n_epochs": 1})


def _flux_files(made: Fitted) -> None:
    model = made.config.model
    if model.ae is None and model.vae is not None:
        made.config = made.config.changed(model={"ae": model.vae, "vae": None})
    missing = [key for key in ("clip_l", "t5xxl", "ae") if getattr(made.config.model, key) is None]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        note = f"{_and(missing)} {verb} missing: the FLUX script loads these from files of their own. Add their paths."
        made.notes.append(note)


def is_a_run(folder: str) -> bool:
    """Whether a folder is a run directory of this program, into which the scripts must not write."""
    return bool(folder) and Path(folder, ".run").exists()


def _left(names: list[str]) -> str:
    return f"{_and(names)} {'is' if len(names) == 1 else 'are'} left out"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
