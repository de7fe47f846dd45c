"""A configuration as files that Kohya's scripts run: dataset.toml, a commented training.toml, train.sh and train.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from engine.config.kohya.dataset_file import DATASET_KEYS, SHARED_KEYS, frozen_text
from engine.config.kohya.export_fit import Fitted, fitted, is_a_run
from engine.config.kohya.rules import SCRIPT_ARGUMENTS
from engine.config.schema import RunConfig

SCRIPTS = {"sd15": "train_network.py", "sdxl": "sdxl_train_network.py", "flux": "flux_train_network.py"}
_SECTIONS = {
    "model": "model_arguments", "dataset": "dataset_arguments", "network": "network_arguments",
    "training": "training_arguments", "memory": "memory_arguments", "sampling": "sample_arguments",
    "saving": "saving_arguments",
}  # fmt: skip
_NOT_COPIED = frozenset({
    "train_data_dir", "reg_data_dir", "dataset_config", "conditioning_data_dir", "sample_prompts", "network_module",
    "text_encoder_lr", "mixed_precision", "save_precision", "max_token_length", "split_mode", "blocks_to_swap",
    "sample_at_first", "sample_every_n_steps", "sample_every_n_epochs", "save_every_n_epochs",
    "validate_every_n_epochs", "validate_every_n_steps", "validation_split", "validation_seed", "min_timestep",
    "max_timestep", "max_train_steps", "output_dir",
})  # fmt: skip
"""Written by hand below, where they need more than their value."""
_FLUX_ONLY = frozenset({
    "clip_l", "t5xxl", "ae", "t5xxl_max_token_length", "apply_t5_attn_mask", "timestep_sampling", "sigmoid_scale",
    "discrete_flow_shift", "guidance_scale", "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std",
    "mode_scale", "cpu_offload_checkpointing", "blocks_to_swap", "split_mode",
})  # fmt: skip
_NOT_SD15 = frozenset({"cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"})
_OF_THE_TABLE = DATASET_KEYS | SHARED_KEYS
_MISREAD = re.compile(r"(?:[wdhs] \d|l [\d.]|g [\d.]|(?:n|ss|cn) .|#)", re.IGNORECASE)
"""What the scripts take for a flag or a comment at the beginning of a prompt."""
_ELSEWHERE = frozenset({
    "model.family", "dataset.train_data_dir", "dataset.reg_data_dir", "dataset.dataset_config", "dataset.num_repeats",
    "dataset.alpha_mask", "dataset.conditioning_data_dir", "network.conv_dim", "network.conv_alpha",
    "network.rank_dropout", "network.module_dropout", "training.num_processes", "training.train_batch_size",
    "training.kohya_exact", "memory.split_mode", "memory.num_cpu_threads_per_process", "sampling.sample_prompts",
    "sampling.sample_steps", "sampling.sample_scale", "sampling.sample_seed", "saving.output_dir",
    "network.network_module", "training.max_train_steps",
    "training.validate_every_n_epochs",
})  # fmt: skip
"""What dataset.toml, network_args, the prompts or the launcher have, or the choice of the script."""


@dataclass(frozen=True)
class ExportedSubset:
    """One folder of pictures."""

    image_dir: str
    num_repeats: int
    class_tokens: str = ""
    is_reg: bool = False


@dataclass(frozen=True)
class KohyaExport:
    """Files for Kohya's scripts."""

    files: dict[str, str]
    """By name."""
    notes: list[str]
    """What is otherwise than in the run or left out, one sentence each; training.toml has them too."""


def kohya_export(
    config: RunConfig, family: str, subsets: Sequence[ExportedSubset], prompts: Sequence[str]
) -> KohyaExport:
    """The run as files that the scripts take.

    Args:
        family: "sd15", "sdxl" or "flux".
        subsets: the folders, as a scan found them; not used where the run has a dataset configuration.
        prompts: one line each, in Kohya's syntax.

    Raises:
        UsageError: the run contradicts itself, or its dataset configuration cannot be read.
        ConfigError: the dataset configuration is not valid.
    """
    given = None
    if config.dataset.dataset_config:
        given = _present(json.loads(frozen_text(Path(config.dataset.dataset_config))))
    made = fitted(config, family, given)
    files = {"dataset.toml": _dataset_toml(made, subsets)}
    files["training.toml"] = _training_toml(made, family, bool(prompts))
    script, launch = SCRIPTS[family], _launch(made.config)
    files |= {"train.sh": _shell(script, launch), "train.py": _python(script, launch)}
    if prompts:
        files["prompts.txt"] = "\n".join(prompts) + "\n"
        made.notes += [
            f"Prompt {number} begins like a flag ({text[:20]!r}), and the scripts misread it: reword it."
            for number, text in enumerate(prompts, 1) if _MISREAD.match(text)
        ]  # fmt: skip
    return KohyaExport(files, made.notes)


def _dataset_toml(made: Fitted, subsets: Sequence[ExportedSubset]) -> str:
    """The dataset configuration: that of the run, if it has one, filled up with what the run says itself."""
    config = made.config
    document = tomlkit.document()
    document.add(tomlkit.comment("Images and captions, for --dataset_config."))
    general = {
        key: value
        for key, value in config.dataset.model_dump().items()
        if key in _OF_THE_TABLE and key not in ("num_repeats", "class_tokens") and value is not None
    }
    general["batch_size"] = config.training.train_batch_size
    if made.datasets is not None:
        given = made.datasets
        if config.dataset.num_repeats is not None:
            general["num_repeats"] = config.dataset.num_repeats
        if config.dataset.alpha_mask:
            for subset in (subset for dataset in given["datasets"] for subset in dataset["subsets"]):
                if "conditioning_data_dir" not in subset:
                    subset.setdefault("alpha_mask", True)
        document.add("general", tomlkit.item(general | given.get("general", {})))
        document.add("datasets", tomlkit.item(given["datasets"]))
        return tomlkit.dumps(document)
    document.add("general", tomlkit.item(general))
    dataset, inner = tomlkit.table(), tomlkit.aot()
    masks = config.dataset.conditioning_data_dir if config.dataset.masked_loss else None
    if masks:
        _note_masks(made, subsets)
    for subset in [subset for subset in subsets if not (masks and subset.is_reg)]:
        inner.append(_subset(subset, masks, config.dataset.alpha_mask))
    dataset.add("subsets", inner)
    datasets = tomlkit.aot()
    datasets.append(dataset)
    document.add("datasets", datasets)
    return tomlkit.dumps(document)


def _subset(subset: ExportedSubset, masks: str | None, alpha_mask: bool) -> Any:
    """A subset with images and captions; with masks it is of a kind that knows fewer keys."""
    entry = tomlkit.table()
    entry.add("image_dir", subset.image_dir)
    entry.add("num_repeats", subset.num_repeats)
    if masks:
        entry.add("conditioning_data_dir", masks)
        return entry
    if subset.class_tokens:
        entry.add("class_tokens", subset.class_tokens)
    for key, wanted in (("is_reg", subset.is_reg), ("alpha_mask", alpha_mask)):
        if wanted:
            entry.add(key, True)
    return entry


def _note_masks(made: Fitted, subsets: Sequence[ExportedSubset]) -> None:
    """What a dataset with masks cannot have in the scripts."""
    if any(subset.is_reg for subset in subsets):
        made.notes.append("Regularization images are left out: the scripts have no masks for them.")
    if any(subset.class_tokens for subset in subsets):
        text = "class_tokens are left out: a dataset with masks has none, and"
        made.notes.append(f"{text} images without a caption get an empty one.")
    if made.config.dataset.alpha_mask:
        made.notes.append("alpha_mask is left out: a dataset with masks has none.")
    if made.config.dataset.validation_split:
        made.notes.append("validation_split has no effect in the scripts: a dataset with masks is not split.")


def _present(value: Any) -> Any:
    """JSON without its nulls, which TOML lacks."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value


def _training_toml(made: Fitted, family: str, has_prompts: bool) -> str:
    """The arguments of the training script, each with what it does; also notes what is left out."""
    config = made.config
    sections: dict[str, Any] = {}
    left_out: list[str] = []
    for name, section in _SECTIONS.items():
        model = getattr(config, name)
        table = tomlkit.table()
        for key, value in _plain(model.model_dump(), family).items():
            _add(table, key, value, type(model).model_fields[key].description or "")
        for key, value, why in _by_hand(config, name, family, has_prompts):
            _add(table, key, value, why)
        if name != "sampling" or has_prompts:
            left_out += [f"{name}.{key}" for key in _missing(model, name, table, family)]
        sections[section] = table
    if left_out:
        made.notes.append(f"Left out, {SCRIPTS[family]} has no such argument: {', '.join(left_out)}.")
    if is_a_run(config.saving.output_dir):
        made.notes.append("output_dir is output, beside these files: the run's own folder is not written into.")
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Run it from this folder: bash train.sh ({SCRIPTS[family]} --config_file)."))
    for note in made.notes:
        document.add(tomlkit.comment(" ".join(note.split())))
    for section, table in sections.items():
        document.add(section, table)
    return tomlkit.dumps(document)


def _missing(model: Any, name: str, written: Any, family: str) -> list[str]:
    """Keys of a table whose value is not the default, and which neither file nor launcher has."""
    elsewhere = set(_ELSEWHERE)
    if name == "memory":
        elsewhere |= {"memory.device"} if model.device == "cpu" else set()
        elsewhere |= {"memory.base_precision"} if "fp8_base" in written else set()
    if family == "flux":
        elsewhere |= {"sampling.sample_guidance", "sampling.sample_sampler"}
    return [
        key for key, value in model.model_dump().items()
        if value != type(model).model_fields[key].default and (value or key not in SCRIPT_ARGUMENTS)
        and key not in written and value is not None
        and not (name == "dataset" and key in _OF_THE_TABLE) and f"{name}.{key}" not in elsewhere
    ]  # fmt: skip


def _plain(values: dict[str, Any], family: str) -> dict[str, Any]:
    """Arguments whose value is simply copied; flags that are off and unset ones are left away."""
    foreign = {"flux": frozenset[str](), "sdxl": _FLUX_ONLY, "sd15": _FLUX_ONLY | _NOT_SD15}[family]
    return {
        key: value
        for key, value in values.items()
        if key in SCRIPT_ARGUMENTS
        and key not in _NOT_COPIED
        and (key not in _OF_THE_TABLE or key in ("masked_loss",))
        and key not in foreign
        and value is not None
        and value is not False
        and value != []
        and value != ""
    }


def _add(table: Any, key: str, value: Any, why: str) -> None:
    if key in ("lr_warmup_steps", "lr_decay_steps") and value >= 1:
        value = int(value)  # Kohya takes any number with a point for a share of all steps
    item = tomlkit.item(value)
    if why:
        item.comment(why)
    table.add(key, item)


def _by_hand(config: RunConfig, table: str, family: str, has_prompts: bool) -> list[tuple[str, Any, str]]:
    """Arguments of a section that need more than their value: (name, value, why)."""
    network, training, memory = config.network, config.training, config.memory
    rows: list[tuple[str, Any, str]] = []
    if table == "model":
        if config.model.max_token_length != 75:
            rows.append(("max_token_length", config.model.max_token_length, "Captions in chunks of 75 tokens."))
    elif table == "dataset":
        rows.append(("dataset_config", "dataset.toml", "Pictures, buckets and captions."))
    elif table == "network":
        module = "networks.lora_flux" if family == "flux" else "networks.lora"
        rows.append(("network_module", module, "The kind of LoRA."))
        args = {
            "conv_dim": network.conv_dim,
            "conv_alpha": network.conv_alpha if network.conv_dim else None,
            "rank_dropout": network.rank_dropout or None,
            "module_dropout": network.module_dropout or None,
        }
        given = [f"{key}={value:g}" for key, value in args.items() if value is not None]
        if given:
            rows.append(("network_args", given, "What the LoRA has besides."))
    elif table == "training":
        if training.max_train_epochs is None:
            rows.append(("max_train_steps", training.max_train_steps, "Optimizer updates."))
        if training.text_encoder_lr is not None:
            rates = [training.text_encoder_lr] * (2 if family == "flux" else 1)
            rows.append(("text_encoder_lr", rates, "Of the text encoders."))
        rows += _validation(config)
        for key, usual in (("min_timestep", 0), ("max_timestep", 1000)):
            if getattr(training, key) != usual:
                rows.append((key, getattr(training, key), "The range of timesteps that is trained."))
    elif table == "memory":
        rows.append(("mixed_precision", _precision(config), "What is computed in."))
        if memory.base_precision == "fp8":
            rows.append(("fp8_base", True, "The frozen weights in 8 bits."))
        if memory.split_mode and family == "flux":
            rows.append(("blocks_to_swap", memory.blocks_to_swap, "Blocks that wait in host memory."))
        rows.append(("sdpa", True, "PyTorch's attention."))
    elif table == "sampling":
        if has_prompts:
            rows.append(("sample_prompts", "prompts.txt", "One prompt a line."))
        rows += _samples(config) if has_prompts else []
    elif table == "saving":
        own = "" if is_a_run(config.saving.output_dir) else config.saving.output_dir
        rows.append(("output_dir", own or "output", "Where the files go, from this folder."))
        rows.append(("save_precision", config.saving.save_precision, "The number format in the file."))
        rows.append(("save_model_as", "safetensors", "The format that every reader takes."))
        if config.saving.save_every_n_epochs:
            rows.append(("save_every_n_epochs", config.saving.save_every_n_epochs, "A file every so many epochs."))
    return rows


def _validation(config: RunConfig) -> list[tuple[str, Any, str]]:
    """How often is validated; the share that is set aside is in dataset.toml."""
    training = config.training
    if training.validate_every_n_steps is not None:
        return [("validate_every_n_steps", training.validate_every_n_steps, "Validation every so many steps.")]
    if training.validate_every_n_epochs < 1:
        return []
    return [("validate_every_n_epochs", training.validate_every_n_epochs, "Validation every so many epochs.")]


def _samples(config: RunConfig) -> list[tuple[str, Any, str]]:
    """When samples are made; without prompts the scripts stop at the first one."""
    sampling = config.sampling
    rows: list[tuple[str, Any, str]] = []
    if sampling.sample_at_first:
        rows.append(("sample_at_first", True, "Samples before the first step."))
    if sampling.sample_every_n_epochs is not None:
        rows.append(("sample_every_n_epochs", sampling.sample_every_n_epochs, "Samples every so many epochs."))
    elif sampling.sample_every_n_steps:
        rows.append(("sample_every_n_steps", sampling.sample_every_n_steps, "Samples every so many steps."))
    return rows


def _precision(config: RunConfig) -> str:
    if config.memory.mixed_precision == "auto":
        return "no" if config.memory.device == "cpu" else "bf16"
    return config.memory.mixed_precision


def _launch(config: RunConfig) -> list[str]:
    """What accelerate is told: how the run is spread, which the training script itself cannot be told."""
    threads = str(config.memory.num_cpu_threads_per_process or 1)
    words = ["accelerate", "launch", "--num_cpu_threads_per_process", threads, "--mixed_precision", _precision(config)]
    if config.memory.device == "cpu":
        words.append("--cpu")
    elif config.training.num_processes > 1:
        words.append("--multi_gpu")
    if config.training.num_processes > 1:
        words += ["--num_processes", str(config.training.num_processes)]
    return words


def _shell(script: str, launch: Sequence[str]) -> str:
    return f"""#!/usr/bin/env bash
# Trains with Kohya's scripts. SD_SCRIPTS is their folder.
set -euo pipefail
cd "$(dirname "$0")"
{" ".join(launch)} \\
  "${{SD_SCRIPTS:?set it to the folder of sd-scripts}}/{script}" --config_file training.toml "$@"
"""


def _python(script: str, launch: Sequence[str]) -> str:
    return f'''"""Trains with Kohya's scripts, where there is no shell: python train.py FOLDER_OF_SD_SCRIPTS"""

import subprocess
import sys
from pathlib import Path

if len(sys.argv) < 2:
    sys.exit("usage: python train.py FOLDER_OF_SD_SCRIPTS [more arguments]")
command = {json.dumps(launch)}
command += [str(Path(sys.argv[1]).resolve() / "{script}"), "--config_file", "training.toml", *sys.argv[2:]]
sys.exit(subprocess.call(command, cwd=Path(__file__).resolve().parent))
'''
