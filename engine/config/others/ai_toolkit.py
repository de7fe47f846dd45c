"""ai-toolkit's YAML or JSON: one process that trains a LoRA becomes a configuration (facts: ostris/ai-toolkit)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import integer_of
from engine.config.others.ai_toolkit_keys import (
    ARCHS,
    DATASET_KEYS,
    KEYS,
    NAME,
    OTHER_ARCHS,
    OTHER_JOBS,
    OTHER_SWITCHES,
    SWITCHES,
    TRAINERS,
)
from engine.config.others.ai_toolkit_training import training
from engine.config.others.folders import Folder, put_folders
from engine.config.others.prompts import prompt_line
from engine.config.others.source import Source, dotted, other_model, other_training
from engine.config.others.table import KINDS, Reading, brief, flat
from engine.config.problems import Problem

_OF_ALL_SAMPLES = ("width", "height", "neg", "guidance_scale", "sample_steps")
_VARIABLE = re.compile(r"\$\{[^}]*\}")


def recognise(source: Source) -> bool:
    """Whether a file is a job of ai-toolkit."""
    config = source.table.get("config")
    if isinstance(config, dict) and isinstance(config.get("process"), list):
        return True
    return "job" in source.table and (isinstance(config, dict) or isinstance(source.table.get("process"), list))


def convert(source: Source) -> Conversion:
    """The first process that trains a LoRA.

    Raises:
        UsageError: it is for another model, or trains something else.
    """
    conversion = Conversion("configuration", NAME)
    process, number, config = _process(source, conversion)
    name = _job(source, conversion, config)
    process = _named(process, name)
    reading = Reading(NAME, KEYS, flat(process, KEYS, conversion), conversion)
    _variables(reading)
    reading.family = _family(source, reading)
    reading.record("type", "honoured", "a training")
    reading.convert()
    training(reading)
    _model(reading)
    _saving(reading, name)
    _samples(reading)
    _logger(reading)
    _datasets(reading, source)
    reading.rest()
    conversion.set("dataset.validation_split", 0.0)
    conversion.place(source.name, {_dotted(path, number): line for path, line in source.lines.items()})
    return conversion


def _dotted(path: tuple[str | int, ...], number: int) -> str:
    """The key of a place in the file, as the report names it."""
    path = path[1:] if path[:1] == ("config",) else path
    return dotted(path[2:] if path[:2] == ("process", number) else path)


def _process(source: Source, conversion: Conversion) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """The process that trains, its number, and the table that holds it."""
    config = source.table.get("config")
    config = config if isinstance(config, dict) else {}
    processes = config.get("process", source.table.get("process"))
    tables = [item for item in processes if isinstance(item, dict)] if isinstance(processes, list) else []
    job = str(source.table.get("job", "")).lower()
    kinds = [str(item.get("type", "")).lower() for item in tables]
    if job in OTHER_JOBS:
        raise other_training(source, NAME, OTHER_JOBS[job])
    number = next((place for place, kind in enumerate(kinds) if kind in TRAINERS), None)
    if number is None:
        raise other_training(source, NAME, _other(kinds))
    process = tables[number]
    if not isinstance(process.get("network"), dict):
        inner = next((key for key in ("embedding", "adapter", "slider") if process.get(key)), "")
        what = {"embedding": OTHER_JOBS["textual_inversion"], "adapter": "an adapter for control images or IP-Adapter",
                "slider": OTHER_JOBS["slider"]}.get(inner, OTHER_JOBS["fine_tune"])  # fmt: skip
        hint = "For a LoRA add the table network with type: lora, linear: 16 and linear_alpha: 16." if not inner else ""
        raise other_training(source, NAME, what, hint)
    for place, kind in enumerate(kinds):
        if place != number:
            text = f"only one process is converted, that with number {number}: give each a file of its own"
            conversion.record(f"process[{place}]", kind or "a table", Rule("no effect", "", text))
    return process, processes.index(process) if isinstance(processes, list) else 0, config


def _other(kinds: list[str]) -> str:
    if not kinds:
        return "no process: it trains nothing"
    return next(
        (OTHER_JOBS[kind] for kind in kinds if kind in OTHER_JOBS), f"a process of type {brief(kinds[0]) or 'none'}"
    )


def _job(source: Source, conversion: Conversion, config: Mapping[str, Any]) -> str:
    """Report what is outside the process; returns the name of the job."""
    for key, value in source.table.items():
        if key in ("job", "config", "process"):
            if key == "job":
                conversion.record(key, brief(value), Rule("honoured", "", "a training"))
        elif key == "meta":
            text = "saving.metadata_title, saving.metadata_author and the like set a file's metadata"
            conversion.record(key, brief(value), Rule("no effect", "", text))
        else:
            conversion.record(key, brief(value), Rule("no effect", "", f"no key of {NAME} that is known here"))
    for key, value in config.items():
        if key not in ("name", "process"):
            conversion.record(key, brief(value), Rule("no effect", "", "only a process trains: it belongs into one"))
    name = config.get("name")
    if not isinstance(name, (str, int, float)) or isinstance(name, bool) or name == "":
        if name not in (None, ""):
            conversion.problems.append(Problem("", "name", f"{brief(repr(name))} is not valid: enter text."))
        return ""
    conversion.record("name", str(name), Rule("honoured", "saving.output_name"))
    conversion.set("saving.output_name", str(name), "name")
    return str(name)


def _named(value: Any, name: str) -> Any:
    """The same with the job's name for [name], as ai-toolkit puts it in."""
    if isinstance(value, str):
        return value.replace("[name]", name)
    if isinstance(value, dict):
        return {key: _named(inner, name) for key, inner in value.items()}
    return [_named(inner, name) for inner in value] if isinstance(value, list) else value


def _variables(reading: Reading) -> None:
    """Variables of the environment in a value: they are not known here."""
    for key, value in reading.content.items():
        if isinstance(value, str) and (match := _VARIABLE.search(value)):
            message = f"{match[0]} stands for a variable of the environment."
            reading.conversion.problems.append(Problem("", key, message, "Write the value out."))


def _family(source: Source, reading: Reading) -> str:
    """The family of the model.

    Raises:
        UsageError: it cannot be trained here.
    """
    for switch, model in OTHER_SWITCHES.items():
        if KINDS["flag"][0](reading.content.get(f"model.{switch}")):
            raise other_model(source, NAME, model)
    arch = str(reading.get("model.arch") or "").partition(":")[0].lower()
    if arch:
        family = ARCHS.get(arch)
        if family is None:
            raise other_model(source, NAME, OTHER_ARCHS.get(arch) or ("Wan" if arch.startswith("wan") else brief(arch)))
        reading.use("model.arch", "model.family", family)
    else:
        on = [switch for switch in SWITCHES if reading.get(f"model.{switch}")]
        family = SWITCHES[on[0]] if on else "sd15"
        if on:
            reading.use(f"model.{on[0]}", "model.family", family)
        else:
            reading.conversion.set("model.family", family)
            text = f"neither arch nor is_xl nor is_flux is set: Stable Diffusion 1.5, as in {NAME}"
            reading.record("model.arch", "honoured", text, "model.family", value="sd1")
    path = str(reading.get("model.name_or_path") or "")
    if family == "flux" and re.search(r"kontext|flex\.[12]|chroma|flux\.2", path, re.IGNORECASE):
        raise other_model(source, NAME, brief(path))
    return family


def _model(reading: Reading) -> None:
    """What depends on the model: its noise, its VAE, the number format of its weights."""
    scheduler = str(reading.get("train.noise_scheduler") or "").lower()
    flow = reading.family == "flux"
    if scheduler and (scheduler == "flowmatch") != flow:
        own = "flowmatch" if flow else "ddpm"
        reading.fail("train.noise_scheduler", f"this model is trained with {own}")
    elif scheduler:
        reading.record("train.noise_scheduler", "honoured", "the model's own noise")
    offset = reading.get("train.noise_offset")
    if offset and flow:
        reading.fail("train.noise_offset", "only for Stable Diffusion 1.5 and SDXL: leave it out")
    elif offset is not None:
        reading.use("train.noise_offset", "training.noise_offset", offset or None, "" if offset else "0 is off")
    if (vae := reading.get("model.vae_path")) is not None:
        reading.use("model.vae_path", "flux.ae" if flow else "model.vae", vae)
    if reading.has("model.is_v_pred"):
        value = reading.get("model.is_v_pred")
        text = "" if value else "read from the checkpoint"
        reading.use("model.is_v_pred", "model.v_parameterization", True if value else None, text)
    if reading.get("model.quantize"):
        precision = reading.chosen("model.qtype")
        if precision is not None:
            reading.record("model.quantize", "honoured", "with qtype", "memory.base_precision")
            reading.use("model.qtype", "memory.base_precision", precision)
    elif reading.has("model.qtype"):
        reading.record("model.qtype", "no effect", "quantize is off")
    for key in ("model.layer_offloading", "model.auto_memory"):
        if reading.has(key) and (value := reading.get(key)) is not None:
            reading.use(key, "memory.split_mode", value)


def _saving(reading: Reading, name: str) -> None:
    """Where the files go, and how often they are saved."""
    folder = reading.get("training_folder")
    if folder is not None:
        reading.use("training_folder", "saving.output_dir", f"{folder.rstrip('/')}/{name}" if name else folder,
                    f"with the name as a folder in it, as in {NAME}")  # fmt: skip
    every, kept = reading.get("save.save_every"), reading.get("save.max_step_saves_to_keep")
    reading.conversion.set("saving.save_every_n_epochs", 0)
    if not every or every < 1:
        reading.conversion.set("saving.save_every_n_steps", None)
        return
    reading.use("save.save_every", "saving.save_every_n_steps", every)
    if kept is not None:
        steps = max(1, (kept - 1) * every)
        text = f"files of the last {steps} steps are kept, that is {kept}"
        reading.use("save.max_step_saves_to_keep", "saving.save_last_n_steps", steps, text)


def _logger(reading: Reading) -> None:
    """Weights & Biases; TensorBoard follows from log_dir."""
    on = reading.get("logging.use_wandb")
    if not on:
        if reading.has("logging.use_wandb") and on is not None:
            reading.record("logging.use_wandb", "honoured", "off")
        return
    reading.use("logging.use_wandb", "logging.log_with", "wandb")
    if (project := reading.get("logging.project_name")) is not None:
        reading.use("logging.project_name", "logging.log_tracker_name", project)
    if (name := reading.get("logging.run_name")) is not None:
        reading.use("logging.run_name", "logging.wandb_run_name", name)


def _samples(reading: Reading) -> None:
    """The prompts, with everything that holds for all of them, and how often they are drawn."""
    off, skip = reading.get("train.disable_sampling"), reading.get("train.skip_first_sample")
    every = 0 if off else reading.get("sample.sample_every")
    if every is not None:
        key = "train.disable_sampling" if off else "sample.sample_every"
        reading.use(key, "sampling.sample_every_n_steps", every)
    reading.use("train.skip_first_sample", "sampling.sample_at_first", not (skip or off))
    key = "sample.samples" if reading.has("sample.samples") else "sample.prompts"
    seed, walks = reading.get("sample.seed") or 0, reading.get("sample.walk_seed")
    lines = []
    for place, item in enumerate(reading.get(key) or []):
        own = item if isinstance(item, dict) else {"prompt": item}
        common = {name: reading.get(f"sample.{name}") for name in _OF_ALL_SAMPLES}
        used = {**common, "seed": seed + place if walks else seed}
        for name, value in own.items():
            if name in used and value is not None:
                _own_value(reading, used, name, value, f"{key}[{place}].{name}")
            elif name != "prompt" and value not in (None, ""):
                text = "a sample is drawn from its prompt, size, seed, steps and guidance"
                reading.record(f"{key}[{place}].{name}", "no effect", text, value=brief(value))
        if not isinstance(own.get("prompt"), str):
            message = f"{brief(repr(own.get('prompt')))} is not valid: enter text."
            reading.conversion.problems.append(Problem("", f"{key}[{place}]", message))
            continue
        lines.append(_line(str(own["prompt"]), used, reading.family))
    reading.conversion.set("sampling.sample_prompts", lines, key if lines else "")
    for name in ("prompts", "samples", "seed", "walk_seed", *_OF_ALL_SAMPLES):
        if not reading.is_open(f"sample.{name}"):
            continue
        if name == "neg" and reading.family == "flux":
            reading.record("sample.neg", "no effect", "FLUX has no negative prompt")
        else:
            reading.record(f"sample.{name}", "honoured", "in the lines of the prompts", "sampling.sample_prompts")


def _own_value(reading: Reading, used: dict[str, Any], name: str, value: Any, place: str) -> None:
    """A setting of one prompt alone."""
    read, allowed = KINDS[KEYS[f"sample.{name}"].kind]
    if read(value) is None:
        message = f"{brief(repr(value))} is not valid: enter {allowed}."
        reading.conversion.problems.append(Problem("", place, message))
    else:
        used[name] = value


def _line(prompt: str, used: Mapping[str, Any], family: str) -> str:
    return prompt_line(
        prompt.replace("[trigger]", "{trigger}"), negative=used["neg"] or "", width=used["width"],
        height=used["height"], seed=used["seed"], steps=used["sample_steps"], guidance=used["guidance_scale"],
        flux=family == "flux",
    )  # fmt: skip


def _datasets(reading: Reading, source: Source) -> None:
    """The folders of images."""
    folders: list[Folder] = []
    trigger = reading.get("trigger_word")
    for place, item in enumerate(reading.get("datasets") or []):
        if isinstance(item, dict):
            folders += _folders(reading, item, f"datasets[{place}].", trigger)
        else:
            message = f"{brief(repr(item))} is not valid: enter a table."
            reading.conversion.problems.append(Problem("", f"datasets[{place}]", message))
    batch = reading.get("train.batch_size")
    if batch is not None:
        reading.use("train.batch_size", "training.train_batch_size", batch)
        for folder in folders:
            folder.batch_size = batch
    if folders:
        text = "one folder" if len(folders) == 1 else "a dataset configuration"
        reading.record("datasets", "honoured", f"{text}; small images are not enlarged, as in {NAME}", "dataset")
    put_folders(reading.conversion, folders, source.path)


def _folders(reading: Reading, item: Mapping[str, Any], prefix: str, trigger: str | None) -> Iterator[Folder]:
    """The folder of one entry, once for each of its resolutions."""
    own = Conversion("", NAME)
    inner = Reading(NAME, DATASET_KEYS, flat(item, DATASET_KEYS, own, prefix), own, reading.family, prefix)
    inner.convert()
    key = "folder_path" if inner.has("folder_path") else "dataset_path"
    folder = inner.get(key)
    if folder is None and not inner.has(key):
        own.problems.append(Problem("", f"{prefix}folder_path", "required, and missing: the folder of the images."))
    elif folder is not None:
        inner.record(key, "honoured", "", "dataset.train_data_dir")
    extension = inner.get("caption_type") or inner.get("caption_ext")
    name = "caption_type" if inner.has("caption_type") else "caption_ext"
    inner.use(name, "dataset.caption_extension", f".{str(extension).lstrip('.')}")
    if inner.has("cache_latents_to_disk") and (value := inner.get("cache_latents_to_disk")) is not None:
        inner.record("cache_latents_to_disk", "honoured", "", "memory.cache_latents_to_disk")
        if value or "cache_latents_to_disk" not in reading.conversion.values.get("memory", {}):
            reading.conversion.set("memory.cache_latents_to_disk", value, f"{prefix}cache_latents_to_disk")
    sizes = _resolutions(inner)
    is_reg = bool(inner.get("is_reg"))
    if inner.has("is_reg"):
        inner.record("is_reg", "honoured", "a subset with is_reg" if is_reg else "")
    inner.rest()
    reading.conversion.entries += own.entries
    reading.conversion.problems += own.problems
    reading.conversion.unset += own.unset
    settings = {**({"class_tokens": trigger} if trigger else {}), **own.values.get("dataset", {})}
    settings["bucket_no_upscale"] = True
    for size in sizes:
        yield Folder(
            folder or "", f"{prefix}{key}", {**settings, "resolution": size}, is_reg=is_reg, sources=own.sources
        )


def _resolutions(inner: Reading) -> list[int]:
    """The sides of the squares that give the areas; a list has several."""
    raw = inner.get("resolution")
    sizes = [integer_of(part) for part in (raw if isinstance(raw, list) else [raw])]
    if not sizes or not all(sizes):
        message = f"{brief(repr(raw))} is not valid: enter a side in pixels, or a list of them."
        inner.conversion.problems.append(Problem("", f"{inner.prefix}resolution", message))
        return []
    text = "" if len(sizes) == 1 else "each image once in each of them"
    if inner.has("resolution"):
        inner.record("resolution", "honoured", text, "dataset.resolution")
    return [size for size in sizes if size]
