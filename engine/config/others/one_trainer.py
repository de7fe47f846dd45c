"""OneTrainer's JSON: a configuration or a preset, with the concepts and samples in it or in files of their own (facts:
Nerogar/OneTrainer)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import integer_of, number_of
from engine.config.kohya.arguments import installed_optimizer
from engine.config.others.folders import put_folders
from engine.config.others.one_trainer_images import folders_of, read_list, resolution
from engine.config.others.one_trainer_keys import (
    BETAS,
    KEYS,
    LAYERS,
    MODELS,
    OTHER_METHODS,
    OTHER_MODELS,
    SAMPLERS,
    SETTINGS,
    SETTINGS_DEFAULTS,
)
from engine.config.others.prompts import prompt_line
from engine.config.others.source import Source, not_converted, other_model, other_training
from engine.config.others.table import Reading, brief, flat, title
from engine.config.problems import Problem
from engine.errors import UsageError

NAME = "OneTrainer"
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
    if table.get("model_type") in {**MODELS, **OTHER_MODELS} and "training_method" in table:
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
    for part in (
        _network,
        _parts,
        _rates,
        _optimizer,
        _schedule,
        _loss,
        _noise,
        _timesteps,
        _memory,
        _saving,
        _samples,
    ):
        part(reading)
    _sample_file(reading, source)
    _images(reading, source)
    reading.rest()
    conversion.set("dataset.validation_split", 0.0)
    conversion.place(source.name, {_dotted(path): line for path, line in source.lines.items()})
    return conversion


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _require_lora(source: Source) -> None:
    method = source.table.get("training_method")
    if method == "LORA":
        return
    hint = 'For a LoRA choose LoRA as the training method: "training_method": "LORA".'
    if method in (None, ""):
        training = f"{OTHER_METHODS['FINE_TUNE']}: that is its default where training_method is absent"
        raise other_training(source, NAME, training, hint)
    raise other_training(source, NAME, OTHER_METHODS.get(str(method)) or f"the method {brief(method)}", hint)


def _network(reading: Reading) -> None:
    """The kind of adapter, rank and alpha, and which layers get one."""
    module = reading.chosen("peft_type")
    if module is not None:
        reading.use("peft_type", "network.network_module", module)
    rank, alpha = reading.get("lora_rank"), reading.get("lora_alpha")
    if rank is not None:
        reading.use("lora_rank", "network.network_dim", rank)
    if alpha is not None:
        reading.use("lora_alpha", "network.network_alpha", alpha)
    key = "lora_layer_preset" if reading.has("lora_layer_preset") else "layer_filter_preset"
    preset = str(reading.get(key) or "full")
    if preset not in LAYERS[reading.family]:
        allowed = " or ".join(LAYERS[reading.family])
        reading.fail(key, f"for {title(reading.family)} the layers of {allowed} are trained: choose one of these")
        return
    if reading.family != "flux" and preset == "full" and rank is not None and alpha is not None:
        text = "all layers: with conv_dim the convolutions too; the few layers outside of the blocks are not trained"
        reading.conversion.set("network.conv_dim", rank, "lora_rank")
        reading.conversion.set("network.conv_alpha", alpha, "lora_alpha")
        shown = preset if reading.has(key) else None
        if shown is None:
            text = reading.absent(text)
        reading.record(key, "honoured", text, "network.conv_dim", value=preset)
    elif reading.has(key):
        reading.record(key, "honoured", "the same layers as here")


def _parts(reading: Reading) -> None:
    """Which parts are trained."""
    denoiser = _denoiser(reading, "train", "train_unet")
    if denoiser:
        if reading.get(denoiser):
            reading.record(denoiser, "honoured")
        elif denoiser.startswith("prior"):  # older FLUX files have the switch of both here
            reading.record(denoiser, "no effect", "the transformer is what a LoRA trains")
        else:
            reading.use(denoiser, "network.network_train_text_encoder_only", True)
    trained = False
    for name in ("text_encoder", "text_encoder_2"):
        key = f"train_{name}" if reading.has(f"train_{name}") else f"{name}.train"
        if name == "text_encoder_2" and reading.family != "sdxl":
            if reading.family == "flux" and reading.has(key) and reading.get(key):
                reading.fail(key, "T5 is never trained: set it to false")
            elif reading.has(key):
                reading.record(key, "honoured" if reading.family == "flux" else "no effect", "it is not trained")
            continue
        value = reading.get(key)
        trained = trained or bool(value)
        if reading.has(key):
            reading.record(key, "honoured", "trained" if value else "not trained")
    if not trained:
        source = next((key for key in ("text_encoder.train", "train_text_encoder") if reading.has(key)), "")
        reading.conversion.set("network.network_train_unet_only", True, source)


def _denoiser(reading: Reading, name: str, older: str) -> str:
    """The key of the denoiser's table for a setting, in whichever form the file has it; "" where it has none."""
    tables = ("unet",) if reading.family != "flux" else ("transformer", "prior")
    keys = (*(f"{table}.{name}" for table in tables), *((older,) if older and reading.family != "flux" else ()))
    return next((key for key in keys if reading.has(key)), "")


def _rates(reading: Reading) -> None:
    """Learning rates of their own, and the dropout of captions."""
    key = _denoiser(reading, "learning_rate", "unet_learning_rate")
    if key and (value := reading.get(key)) is not None:
        reading.use(key, "training.unet_lr", value)
    encoders = ("text_encoder", "text_encoder_2")[: 2 if reading.family == "sdxl" else 1]
    rates = [key for name in encoders for key in (f"{name}.learning_rate", f"{name}_learning_rate") if reading.has(key)]
    values = [reading.get(key) for key in rates]
    if rates and values[0] is not None:
        other = any(value != values[0] for value in values)
        text = "the first rate is used for every text encoder" if other else ""
        reading.use(rates[0], "training.text_encoder_lr", values[0], text, "better" if other else "honoured")
    dropouts = {name: reading.get(f"{name}.dropout_probability") or 0 for name in encoders}
    if len(set(dropouts.values())) > 1:
        key = next(f"{name}.dropout_probability" for name, value in dropouts.items() if value)
        reading.fail(key, "captions are dropped for all text encoders at once: give both the same")
    elif reading.has("text_encoder.dropout_probability"):
        key = "text_encoder.dropout_probability"
        reading.use(key, "dataset.caption_dropout_rate", dropouts["text_encoder"], "for all text encoders at once")


def _optimizer(reading: Reading) -> None:
    """The optimizer and its settings."""
    if reading.has("optimizer"):
        message = f"{brief(repr(reading.content['optimizer']))} is given, allowed is a table."
        reading.conversion.problems.append(Problem("", "optimizer", message))
        return
    chosen = reading.chosen("optimizer.optimizer")
    if chosen is None:
        return
    name, text = installed_optimizer(chosen)
    reading.use("optimizer.optimizer", "training.optimizer_type", name, text, "better" if text else "honoured")
    rows = SETTINGS.get(chosen, {})
    values: dict[str, Any] = {**SETTINGS_DEFAULTS.get(chosen, {})}
    own = {key: key.removeprefix("optimizer.") for key in reading.content if key.startswith("optimizer.")}
    own.update({"weight_decay": "weight_decay"} if reading.has("weight_decay") else {})
    for key, setting in own.items():
        if setting == "optimizer":
            continue
        value = reading.content[key]
        if value is None:
            reading.conversion.unset.append(key)
        elif setting == "__version" or setting not in rows:
            reading.record(key, "no effect", f"no setting of {chosen} here")
        elif isinstance(value, bool) or number_of(value) is not None:
            values[setting] = value
            reading.record(key, "honoured", "", "training.optimizer_args")
        else:
            message = f"{brief(repr(value))} is given, allowed is a number, or true or false."
            reading.conversion.problems.append(Problem("", key, message))
    lines = _settings(chosen, rows, values)
    if lines:
        reading.conversion.set("training.optimizer_args", lines, "optimizer.optimizer")


def _settings(optimizer: str, rows: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """optimizer_args: those that are one list, as betas, together."""
    lines = [f"{rows[key]}={value}" for key, value in values.items() if rows.get(key) not in (None, "betas")]
    if any(rows.get(key) == "betas" for key in values):
        first, second = BETAS.get(optimizer, (0.9, 0.999))
        lines.append(f"betas={values.get('beta1', first)},{values.get('beta2', second)}")
    return lines


def _schedule(reading: Reading) -> None:
    """The schedule with warm-up, restarts and lowest rate."""
    schedule = reading.chosen("learning_rate_scheduler")
    warmup, cycles = reading.get("learning_rate_warmup_steps") or 0, reading.get("learning_rate_cycles")
    lowest, text = reading.get("learning_rate_min_factor") or 0, ""
    accumulated = reading.get("gradient_accumulation_steps") or 1
    if schedule is None:
        return
    if schedule == "constant" and warmup > 0:
        schedule, text = "constant_with_warmup", "with learning_rate_warmup_steps"
    elif schedule == "cosine" and lowest:
        schedule = "cosine_with_min_lr"
        reading.use("learning_rate_min_factor", "training.lr_scheduler_min_lr_ratio", lowest)
    elif schedule == "cosine":
        text = "the rate falls to 0; newer versions of OneTrainer end at half of it"
    elif lowest:
        reading.fail("learning_rate_min_factor", "only with COSINE: set it to 0")
    reading.use("learning_rate_scheduler", "training.lr_scheduler", schedule, text)
    if schedule == "cosine_with_restarts" and cycles is not None:
        whole = integer_of(cycles)
        if whole is None:
            reading.fail("learning_rate_cycles", "a whole number")
        else:
            reading.use("learning_rate_cycles", "training.lr_scheduler_num_cycles", whole)
    if warmup > 0 and schedule != "adafactor":
        steps: float = warmup
        if warmup > 1:
            steps = int(warmup / max(1, accumulated))
        elif warmup == 1:
            reading.fail(
                "learning_rate_warmup_steps", "the whole training as a warm-up: give steps, or a share below 1"
            )
        reading.use("learning_rate_warmup_steps", "training.lr_warmup_steps", steps)
    elif reading.has("learning_rate_warmup_steps"):
        reading.record("learning_rate_warmup_steps", "honoured" if not warmup else "no effect", "no warm-up")


def _loss(reading: Reading) -> None:
    """The loss, and its weight by noise level."""
    kinds = {"mse_strength": "l2", "mae_strength": "l1", "huber_strength": "huber", "log_cosh_strength": ""}
    strengths = {key: reading.get(key) or 0 for key in kinds}
    on = [key for key, value in strengths.items() if value]
    if len(on) != 1 or strengths[on[0]] != 1 or not kinds[on[0]]:
        key = on[-1] if on else "mse_strength"
        reading.fail(key, "one of mse_strength, mae_strength and huber_strength, of strength 1", brief(strengths[key]))
    else:
        reading.use(on[0], "training.loss_type", kinds[on[0]])
        for key in kinds:
            if key != on[0] and reading.has(key):
                reading.record(key, "honoured", "0 is off")
        if on[0] == "huber_strength":
            reading.use("huber_delta", "training.huber_c", reading.get("huber_delta"))
            reading.conversion.set("training.huber_schedule", "constant", "huber_strength")
    weight = reading.chosen("loss_weight_fn")
    older = reading.get("min_snr_gamma")
    if reading.family == "flux":
        if weight:
            reading.fail("loss_weight_fn", "only for Stable Diffusion 1.5 and SDXL: use CONSTANT")
        elif reading.has("loss_weight_fn") and weight is not None:
            reading.record("loss_weight_fn", "honoured")
    elif weight == "training.min_snr_gamma":
        reading.record("loss_weight_fn", "honoured", "", weight)
        reading.use("loss_weight_strength", weight, reading.get("loss_weight_strength"))
    elif weight:
        reading.use("loss_weight_fn", weight, True)
    elif older:
        reading.use("min_snr_gamma", "training.min_snr_gamma", older)
    elif reading.has("loss_weight_fn") and weight is not None:
        reading.record("loss_weight_fn", "honoured")


def _noise(reading: Reading) -> None:
    """Offset noise, prediction type, skipped layers of the text encoder."""
    offset = reading.get("offset_noise_weight")
    if offset and reading.family == "flux":
        reading.fail("offset_noise_weight", "only for Stable Diffusion 1.5 and SDXL: set it to 0")
    elif offset is not None:
        reading.use("offset_noise_weight", "training.noise_offset", offset or None, "" if offset else "0 is off")
    for key, target, value in (
        ("rescale_noise_scheduler_to_zero_terminal_snr", "model.zero_terminal_snr", True),
        ("force_v_prediction", "model.v_parameterization", True),
        ("force_epsilon_prediction", "model.v_parameterization", False),
    ):
        if not reading.has(key):
            continue
        if not reading.get(key):
            reading.record(key, "honoured", "read from the checkpoint")
        elif reading.family == "flux":
            reading.record(key, "no effect", "FLUX learns a flow")
        else:
            reading.use(key, target, value)
    skip = reading.get("text_encoder_layer_skip")
    if skip and reading.family == "sd15":
        reading.use(
            "text_encoder_layer_skip", "model.clip_skip", skip + 1, f"{skip} skipped is layer {skip + 1} from the end"
        )
    elif skip:
        reading.fail("text_encoder_layer_skip", f"{title(reading.family)} has its usual layer: set it to 0")
    elif reading.has("text_encoder_layer_skip"):
        reading.record("text_encoder_layer_skip", "honoured", "none is skipped")


def _timesteps(reading: Reading) -> None:
    """Which noise levels are trained, and how often."""
    for key, target, default in (("min_noising_strength", "training.min_timestep", 0.0),
                                 ("max_noising_strength", "training.max_timestep", 1.0)):  # fmt: skip
        if reading.has(key) and (value := reading.get(key)) is not None:
            reading.use(key, target, int(1000 * value), "" if value == default else "in thousandths")
    distribution = reading.chosen("timestep_distribution")
    if distribution is None:
        return
    if reading.family != "flux":
        if distribution != "uniform":
            reading.fail("timestep_distribution", "Stable Diffusion 1.5 and SDXL are trained with UNIFORM")
        elif reading.has("timestep_distribution"):
            reading.record("timestep_distribution", "honoured")
        return
    shift, dynamic = reading.get("timestep_shift") or 1.0, reading.get("dynamic_timestep_shifting")
    if distribution == "sigmoid":
        sampling = "flux_shift" if dynamic else "shift" if shift != 1 else "sigmoid"
        if reading.get("noising_bias"):
            reading.fail("noising_bias", "the distribution has its middle at 0: set it to 0")
        width = (reading.get("noising_weight") or 0.0) + 1
        reading.use("noising_weight", "flow.sigmoid_scale", width, "one more is the width")
    elif dynamic:
        reading.fail("dynamic_timestep_shifting", "with LOGIT_NORMAL only")
        return
    else:
        sampling = "sigma" if shift != 1 else "uniform"
    text = "shifted by the image's size" if sampling == "flux_shift" else ""
    reading.use("timestep_distribution", "flow.timestep_sampling", sampling, text)
    if dynamic:
        reading.record("dynamic_timestep_shifting", "honoured", "", "flow.timestep_sampling")
    elif shift != 1:
        reading.use("timestep_shift", "flow.discrete_flow_shift", shift)


def _memory(reading: Reading) -> None:
    """Caches, checkpointing and offloading, in the older forms too."""
    key = "image_caching" if reading.has("image_caching") else "latent_caching"
    cached = reading.get(key)
    if cached is not None:
        reading.use(key, "memory.cache_latents_to_disk", cached)
        if not cached:
            reading.conversion.set("memory.cache_latents", False, key)
    _checkpointing(reading)
    split = _denoiser(reading, "offload_fraction", "layer_offload_fraction")
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
            message = f"{brief(repr(older))} is given, allowed is OFF, ON or CPU_OFFLOADED."
            reading.conversion.problems.append(Problem("", "gradient_checkpointing", message))
            return
        on = word not in ("OFF", "FALSE")
        reading.use("gradient_checkpointing", "memory.gradient_checkpointing", on)
        if word == "CPU_OFFLOADED":
            reading.conversion.set("memory.cpu_offload_checkpointing", True, "gradient_checkpointing")
        return
    key = _denoiser(reading, "gradient_checkpointing", "")
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
            message = f"{brief(repr(item))} is given, allowed is a table with a prompt."
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
    conversion.place(source.name, {f"concepts{_dotted(path)}": line for path, line in source.lines.items()})
    return conversion
