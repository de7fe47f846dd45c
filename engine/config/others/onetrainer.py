"""OneTrainer's JSON: a configuration or a preset, with the concepts and samples in it or in files of their own (facts:
Nerogar/OneTrainer)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import integer_of
from engine.config.loggers import LOGGERS
from engine.config.others.folders import put_folders
from engine.config.others.onetrainer_images import folders_of, read_list, resolution
from engine.config.others.onetrainer_keys import (
    KEYS,
    MODELS,
    NAME,
    OTHER_METHODS,
    OTHER_MODELS,
    SAMPLERS,
)
from engine.config.others.onetrainer_training import denoiser, training
from engine.config.others.prompts import prompt_line
from engine.config.others.source import Source, dotted, not_converted, other_model, other_training
from engine.config.others.table import Reading, brief, flat
from engine.config.problems import Problem
from engine.errors import UsageError

_MARKS = frozenset({
    "training_method", "base_model_name", "output_model_destination", "output_model_format", "concept_file_name",
    "sample_definition_file_name", "learning_rate_scheduler", "learning_rate_warmup_steps", "workspace_dir",
    "aspect_ratio_bucketing", "latent_caching", "timestep_distribution", "layer_filter_preset", "train_dtype",
    "text_encoder_layer_skip", "offset_noise_weight", "peft_type", "clear_cache_before_training",
})  # fmt: skip
_FEWEST = 2
_CONCEPT_MARKS = frozenset({"balancing", "balancing_strategy", "image_variations", "text_variations",
                            "include_subdirectories", "validation_concept", "loss_weight"})  # fmt: skip
_SAMPLE_MARKS = frozenset({"negative_prompt", "diffusion_steps", "cfg_scale", "noise_scheduler", "random_seed",
                           "base_image_path"})  # fmt: skip


def recognise(source: Source) -> bool:
    """Whether a file is a configuration or preset of OneTrainer."""
    table = source.table
    if table.get("training_method") in ("LORA", *OTHER_METHODS):
        return True
    return source.form == "JSON" and len(_MARKS & table.keys()) >= _FEWEST


def refuse_part(source: Source) -> UsageError | None:
    """The refusal of a list of concepts or samples, which is a part of a configuration."""
    tables = [item for item in source.content if isinstance(item, dict)] if isinstance(source.content, list) else []
    if source.form != "JSON" or not tables:
        return None
    if any("path" in item and len(_CONCEPT_MARKS & item.keys()) >= _FEWEST for item in tables):
        hint = (
            "It has the images, not how to train: name a preset, and this file with it: "
            f"--preset sdxl --dataset_config {source.name}"
        )
        return not_converted(source, NAME, "a list of concepts", hint)
    if any("prompt" in item and len(_SAMPLE_MARKS & item.keys()) >= _FEWEST for item in tables):
        return not_converted(source, NAME, "a list of samples", "Name the configuration that it belongs to.")
    return None


def convert(source: Source) -> Conversion:
    """The configuration.

    Raises:
        UsageError: it is for another model, or trains something else.
    """
    _require_lora(source)
    conversion = Conversion("configuration", NAME)
    content = {**source.table}
    if isinstance(content.get("optimizer"), str):
        content = {**content, "optimizer": {"optimizer": content["optimizer"]}}
    reading = Reading(NAME, KEYS, flat(content, KEYS, conversion), conversion)
    kind = str(reading.get("model_type"))
    if kind not in MODELS:
        raise other_model(source, NAME, OTHER_MODELS.get(kind) or brief(kind))
    reading.family = MODELS[kind]
    reading.use("model_type", "model.family", reading.family)
    reading.record("training_method", "honoured")
    reading.convert()
    training(reading)
    for part in (_memory, _saving, _samples, _logger):
        part(reading)
    _sample_file(reading, source)
    _images(reading, source)
    reading.rest()
    conversion.set("dataset.validation_split", 0.0)
    conversion.place(source.name, {dotted(path): line for path, line in source.lines.items()})
    return conversion


def _require_lora(source: Source) -> None:
    method = source.table.get("training_method")
    if method == "LORA":
        return
    hint = 'For a LoRA choose LoRA as the training method: "training_method": "LORA".'
    if method in (None, ""):
        training = f"{OTHER_METHODS['FINE_TUNE']}: that is its default where training_method is absent"
        raise other_training(source, NAME, training, hint)
    raise other_training(source, NAME, OTHER_METHODS.get(str(method)) or f"the method {brief(method)}", hint)


def _memory(reading: Reading) -> None:
    """Caches, checkpointing and offloading, in the older forms too."""
    key = "image_caching" if reading.has("image_caching") else "latent_caching"
    cached = reading.get(key)
    if cached is not None:
        reading.use(key, "memory.cache_latents_to_disk", cached)
        if not cached:
            reading.conversion.set("memory.cache_latents", False, key)
    _checkpointing(reading)
    split = denoiser(reading, "offload_fraction", "layer_offload_fraction")
    split = split or ("layer_offload_fraction" if reading.has("layer_offload_fraction") else "")
    if split and (share := reading.get(split)) is not None:
        text = "all blocks; memory.blocks_to_swap sets a number" if share > 0 else "0 is off"
        reading.use(split, "memory.split_mode", share > 0, text)
    vae = "vae.model_name" if reading.has("vae.model_name") else "vae_model_name"
    if reading.has(vae) and (path := reading.get(vae)) is not None:
        reading.use(vae, "flux.ae" if reading.family == "flux" else "model.vae", path)


def _checkpointing(reading: Reading) -> None:
    """Gradient checkpointing: of the denoiser's table, or the older setting for all parts, a switch or a word."""
    older = reading.content.get("gradient_checkpointing")
    if reading.has("gradient_checkpointing"):
        word = str(older).upper()
        if word not in ("OFF", "ON", "CPU_OFFLOADED", "TRUE", "FALSE"):
            message = f"{brief(repr(older))} is not valid: enter OFF, ON or CPU_OFFLOADED."
            reading.conversion.problems.append(Problem("", "gradient_checkpointing", message))
            return
        on = word not in ("OFF", "FALSE")
        reading.use("gradient_checkpointing", "memory.gradient_checkpointing", on)
        if word == "CPU_OFFLOADED":
            reading.conversion.set("memory.cpu_offload_checkpointing", True, "gradient_checkpointing")
        return
    key = denoiser(reading, "gradient_checkpointing", "")
    key = key or ("transformer" if reading.family == "flux" else "unet") + ".gradient_checkpointing"
    if (on := reading.get(key)) is not None:
        reading.use(key, "memory.gradient_checkpointing", on)


def _saving(reading: Reading) -> None:
    """Where the file goes, and how often one is saved."""
    place = reading.get("output_model_destination")
    if place is not None:
        path = Path(place.replace("\\", "/"))
        folder = place[: len(place) - len(path.name)].rstrip("/\\") or "."
        reading.use("output_model_destination", "saving.output_dir", folder)
        reading.conversion.set("saving.output_name", path.stem or "model", "output_model_destination")
    every = "save_after" if reading.has("save_after") else "save_every"
    unit = "save_after_unit" if reading.has("save_after_unit") else "save_every_unit"
    _interval(reading, every, unit, "saving.save_every_n_epochs", "saving.save_every_n_steps", 0)


def _interval(reading: Reading, key: str, unit_key: str, epochs: str, steps: str, never: Any) -> None:
    """An interval with its unit; one in minutes has no equal."""
    unit, number = str(reading.get(unit_key) or "NEVER").upper(), integer_of(reading.get(key))
    if number is None and reading.get(key) is not None:
        reading.fail(key, "a whole number")
        return
    if unit == "EPOCH" and number:
        reading.use(key, epochs, number)
        reading.use(unit_key, epochs, number)
    elif unit == "STEP" and number:
        reading.use(key, steps, number)
        reading.use(unit_key, steps, number)
        if never == 0 and epochs.startswith("saving"):
            reading.conversion.set(epochs, 0, unit_key)
    elif unit in ("NEVER", "EPOCH", "STEP"):
        target = steps if epochs.startswith("sampling") else epochs
        reading.use(unit_key, target, never)
    else:
        text = f"an interval in time has no equal: {steps} sets one in steps"
        remark = text if reading.has(unit_key) else reading.absent(text)
        reading.record(unit_key, "no effect", remark, value=unit)
        if reading.has(key):
            reading.record(key, "no effect", text)


def _samples(reading: Reading) -> None:
    """How often samples are drawn."""
    _interval(reading, "sample_after", "sample_after_unit", "sampling.sample_every_n_epochs",
              "sampling.sample_every_n_steps", 0)  # fmt: skip
    if str(reading.get("sample_after_unit")).upper() == "NEVER":
        reading.conversion.set("sampling.sample_at_first", False, "sample_after_unit")


def _logger(reading: Reading) -> None:
    """TensorBoard, which OneTrainer has in every installation and this program as an extra."""
    on = reading.get("tensorboard") if reading.has("tensorboard") else None
    if on and find_spec("tensorboard") is None:
        text = f"TensorBoard is not installed: {LOGGERS['tensorboard'].install}, then logging.log_with = tensorboard"
        reading.record("tensorboard", "no effect", text)
    elif on:
        reading.use("tensorboard", "logging.log_with", "tensorboard", "in the folder logs of the output folder")
    elif on is not None:
        reading.record("tensorboard", "honoured", "off")


def _sample_file(reading: Reading, source: Source) -> None:
    """The prompts, from the file itself or the one that it names."""
    items = reading.get("samples") if reading.has("samples") else None
    key = "samples"
    if items is None and reading.has("sample_definition_file_name"):
        key = "sample_definition_file_name"
        items = read_list(reading.get(key), source.path)
        if items is None:
            reading.record(key, "no effect", "it is not on this machine: sampling.sample_prompts has the prompts")
            return
    if items is None:
        return
    lines = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("prompt", ""), str):
            message = f"{brief(repr(item))} is not valid: enter a table with a prompt."
            reading.conversion.problems.append(Problem("", f"samples[{place}]", message))
        elif item.get("enabled", True) and item.get("prompt"):
            lines.append(prompt_line(
                item["prompt"], negative=item.get("negative_prompt", ""), width=item.get("width", 512),
                height=item.get("height", 512), seed=None if item.get("random_seed") else item.get("seed", 42),
                steps=item.get("diffusion_steps", 20), guidance=item.get("cfg_scale", 7.0),
                sampler=SAMPLERS.get(str(item.get("noise_scheduler", "DDIM")), ""), flux=reading.family == "flux",
            ))  # fmt: skip
    reading.conversion.set("sampling.sample_prompts", lines, key)
    reading.record(key, "honoured", f"{len(lines)} with size, seed, steps and guidance", "sampling.sample_prompts")


def _images(reading: Reading, source: Source) -> None:
    """The concepts, from the file itself or the one that it names."""
    resolution(reading)
    items = reading.get("concepts") if reading.has("concepts") else None
    key, prefix = "concepts", "concepts"
    if items is None and reading.has("concept_file_name"):
        key = "concept_file_name"
        items = read_list(reading.get(key), source.path)
        if items is None:
            text = "it is not on this machine: name the images with --images DIR"
            reading.record(key, "no effect", text)
    folders = folders_of(items or [], prefix, reading) if items is not None else []
    if items is not None:
        reading.record(key, "honoured", f"{len(folders)} to train on", "dataset")
    batch = reading.get("batch_size")
    if batch is not None:
        reading.use("batch_size", "training.train_batch_size", batch)
        for folder in folders:
            folder.batch_size = batch
    put_folders(reading.conversion, folders, source.path)


def dataset_of_concepts(source: Source) -> Conversion | None:
    """The concepts of a file that is a list of them, as a conversion with its datasets; None for another file."""
    if refuse_part(source) is None or not any("path" in item for item in source.content if isinstance(item, dict)):
        return None
    conversion = Conversion("list of concepts", NAME)
    reading = Reading(NAME, KEYS, {}, conversion, "sd15")
    put_folders(conversion, folders_of(source.content, "concepts", reading), source.path)
    conversion.record("concepts", len(source.content), Rule("honoured", "dataset"))
    conversion.place(source.name, {f"concepts{dotted(path)}": line for path, line in source.lines.items()})
    return conversion
