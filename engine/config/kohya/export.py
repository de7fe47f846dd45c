"""A configuration as files that Kohya's scripts run: dataset.toml, a commented training.toml, train.sh and train.py."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tomlkit

from engine.config.key_values import number_text
from engine.config.kohya.dataset_keys import DATASET_KEYS, SHARED_KEYS
from engine.config.kohya.export_dataset import ExportedSubset, dataset_toml, own_datasets
from engine.config.kohya.export_fit import Fitted, fitted, is_a_run
from engine.config.kohya.layer_args import exported_by, layer_args
from engine.config.kohya.rules import SCRIPT_ARGUMENTS
from engine.config.kohya.trainers import KohyaTrainer
from engine.config.network import LYCORIS, READ_BY_SCRIPTS, NetworkTable
from engine.config.resolve import ResolvedConfig
from engine.config.schema import RunConfig

_SECTIONS = {name: f"{name}_arguments" for name in RunConfig.model_fields} | {"sampling": "sample_arguments"}
_NOT_COPIED = frozenset({
    "train_data_dir", "in_json", "reg_data_dir", "dataset_config", "conditioning_data_dir", "sample_prompts",
    "network_module", "text_encoder_lr", "mixed_precision", "save_precision", "max_token_length", "split_mode",
    "blocks_to_swap", "sample_at_first", "sample_every_n_steps", "sample_every_n_epochs", "save_every_n_epochs",
    "validate_every_n_epochs", "validate_every_n_steps", "validation_split", "validation_seed", "min_timestep",
    "max_timestep", "max_train_steps", "output_dir", "torch_compile",
})  # fmt: skip
"""Handled in `_by_hand`, where they need more than a copy."""
_OF_THE_TABLE = DATASET_KEYS | SHARED_KEYS
_MISREAD = re.compile(r"(?:[wdhs] \d|l [\d.]|g [\d.]|(?:n|ss|cn) .|#)", re.IGNORECASE)
"""A beginning of a prompt that the scripts misread as a flag or a comment."""
_ELSEWHERE = frozenset({
    "model.family", "dataset.train_data_dir", "dataset.in_json",
    "dataset.reg_data_dir", "dataset.dataset_config", "dataset.num_repeats",
    "dataset.alpha_mask", "dataset.conditioning_data_dir", "network.conv_dim", "network.conv_alpha",
    "network.rank_dropout", "network.module_dropout", "training.num_processes", "training.train_batch_size",
    "training.kohya_exact", "memory.split_mode", "memory.num_cpu_threads_per_process", "sampling.sample_prompts",
    "sampling.sample_steps", "sampling.sample_scale", "sampling.sample_seed", "saving.output_dir",
    "network.network_module", "training.max_train_steps", "network.algo",
    "training.validate_every_n_epochs",
})  # fmt: skip
"""Settings in dataset.toml, network_args, the prompts or the launcher, or in the choice of the script."""


@dataclass(frozen=True)
class KohyaExport:
    """Files for Kohya's scripts."""

    files: dict[str, str]
    """By name."""
    notes: list[str]
    """Differences from the run and omissions, one sentence each; training.toml has them too."""


def kohya_export(
    config: ResolvedConfig,
    trainer: KohyaTrainer,
    subsets: Sequence[ExportedSubset],
    prompts: Sequence[str],
    notes: Sequence[str] = (),
) -> KohyaExport:
    """The run as files for the scripts.

    Args:
        trainer: the script for the run's family.
        subsets: the folders from a scan; unused where the run has a dataset configuration.
        prompts: one line each, in Kohya's syntax.
        notes: `ResolvedRun.rule_notes`.

    Raises:
        UsageError: its dataset configuration cannot be read.
        ConfigError: the dataset configuration is not valid.
    """
    fit = fitted(config, trainer, own_datasets(config), notes)
    files = {"dataset.toml": dataset_toml(fit, subsets)}
    files["training.toml"] = _training_toml(fit, trainer, bool(prompts))
    script, launch = trainer.script, _launch(fit.config)
    files |= {"train.sh": _shell(script, launch), "train.py": _python(script, launch)}
    if prompts:
        files["prompts.txt"] = "\n".join(prompts) + "\n"
        fit.notes += [
            f"Prompt {number} begins like a flag ({text[:20]!r}), and the scripts misread it: reword it."
            for number, text in enumerate(prompts, 1) if _MISREAD.match(text)
        ]  # fmt: skip
    return KohyaExport(files, fit.notes)


def _training_toml(fit: Fitted, trainer: KohyaTrainer, has_prompts: bool) -> str:
    """The arguments of the training script, each with a comment; also adds a note on what is left out."""
    config = fit.config
    sections: dict[str, Any] = {}
    left_out: list[str] = []
    for name, section in _SECTIONS.items():
        model = getattr(config, name)
        table = tomlkit.table()
        for key, value in _plain(model.model_dump(), trainer).items():
            _add(table, key, value, type(model).model_fields[key].description or "")
        for key, value, why in _by_hand(config, name, trainer, has_prompts):
            _add(table, key, value, why)
        if name != "sampling" or has_prompts:
            left_out += [f"{name}.{key}" for key in _missing(model, name, table, trainer, _module(config, trainer))]
        if table:
            sections[section] = table
    if left_out:
        fit.notes.append(f"Left out, {trainer.script} has no such argument: {', '.join(left_out)}.")
    if not has_prompts and (intervals := [key for key, _, _ in _samples(config)]):
        fit.notes.append(f"Left out, as there are no prompts for samples: {', '.join(intervals)}.")
    if is_a_run(config.saving.output_dir):
        fit.notes.append("output_dir is output, next to these files: nothing is written into the run's own folder.")
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Run it from this folder: bash train.sh ({trainer.script} --config_file)."))
    for note in fit.notes:
        document.add(tomlkit.comment(" ".join(note.split())))
    for section, table in sections.items():
        document.add(section, table)
    return tomlkit.dumps(document)


def _module(config: RunConfig, trainer: KohyaTrainer) -> str:
    """`network_module`: the script's own for plain LoRAs."""
    module = config.network.network_module
    return trainer.network_module if config.network.is_kohyas else module


def _missing(model: Any, name: str, written: Any, trainer: KohyaTrainer, module: str) -> list[str]:
    """Keys of a table with a value other than the default that neither files nor launcher have."""
    elsewhere = _ELSEWHERE | trainer.other_sample_keys
    if name == "memory":
        elsewhere |= {"memory.device"} if model.device == "cpu" else set()
        elsewhere |= {"memory.base_precision"} if "fp8_base" in written else set()
    if name == "network":
        passed = READ_BY_SCRIPTS if model.network_module != LYCORIS else model.lycoris_arguments.keys()
        elsewhere |= {f"network.{key}" for key in (*passed, *model.idle_settings)}
    elsewhere |= {f"{name}.{key}" for key in exported_by(module)}
    if "down_lr_weight" in exported_by(module):
        elsewhere |= {"network.block_lr_weight"}
    return [
        key for key, value in model.model_dump().items()
        if value != type(model).model_fields[key].default and (value or key not in SCRIPT_ARGUMENTS)
        and key not in written and value is not None
        and not (name == "dataset" and key in _OF_THE_TABLE) and f"{name}.{key}" not in elsewhere
    ]  # fmt: skip


def _plain(values: dict[str, Any], trainer: KohyaTrainer) -> dict[str, Any]:
    """Arguments whose value is simply copied, without unset ones and flags that are off."""
    return {
        key: value
        for key, value in values.items()
        if key in SCRIPT_ARGUMENTS
        and key not in _NOT_COPIED
        and (key not in _OF_THE_TABLE or key in ("masked_loss",))
        and key not in trainer.foreign
        and value is not None
        and value is not False
        and value != []
        and value != ""
    }


def _add(table: Any, key: str, value: Any, why: str) -> None:
    if key in ("lr_warmup_steps", "lr_decay_steps") and value >= 1:
        value = int(value)  # Kohya reads any number with a decimal point as a share of all steps
    item = tomlkit.item(value)
    if why:
        item.comment(why)
    table.add(key, item)


def _by_hand(config: RunConfig, table: str, trainer: KohyaTrainer, has_prompts: bool) -> list[tuple[str, Any, str]]:
    """Arguments of a section that need more than their value: (name, value, why)."""
    training, memory = config.training, config.memory
    rows: list[tuple[str, Any, str]] = []
    if table == "model":
        if config.model.max_token_length != 75:
            rows.append(("max_token_length", config.model.max_token_length, "Captions in chunks of 75 tokens."))
    elif table == "dataset":
        rows.append(("dataset_config", "dataset.toml", "Images, buckets and captions."))
    elif table == "network":
        own = _module(config, trainer)
        rows.append(("network_module", own, "The kind of LoRA."))
        if texts := _network_args(config, own):
            rows.append(("network_args", texts, "Further settings of the LoRA."))
    elif table == "training":
        if training.max_train_epochs is None:
            rows.append(("max_train_steps", training.max_train_steps, "Optimizer updates."))
        if training.text_encoder_lr is not None:
            rates = [training.text_rates[0]] * trainer.num_text_rates
            rows.append(("text_encoder_lr", rates, "Of the text encoders."))
        rows += _validation(config)
        for key, usual in (("min_timestep", 0), ("max_timestep", 1000)):
            if getattr(training, key) != usual:
                rows.append((key, getattr(training, key), "The range of timesteps that is trained."))
    elif table == "memory":
        rows.append(("mixed_precision", _precision(config), "Number format of the computation."))
        if memory.torch_compile == "on":
            rows.append(("torch_compile", True, "Blocks are compiled."))
        if memory.base_precision == "fp8":
            rows.append(("fp8_base", True, "The frozen weights in 8 bits."))
        if memory.split_mode and trainer.most_swapped_blocks is not None:
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


def _network_args(config: RunConfig, module: str) -> list[str]:
    """The settings that the scripts pass on to the module of the adapter."""
    layers = [f"{key}={text}" for key, text in layer_args(config).items() if key in exported_by(module)]
    return [*_adapter_args(config.network), *layers]


def _adapter_args(network: NetworkTable) -> list[str]:
    """The arguments of the kind of adapter."""
    if network.is_kohyas:
        args = {
            "conv_dim": network.conv_dim,
            "conv_alpha": network.conv_alpha if network.conv_dim else None,
            "rank_dropout": network.rank_dropout or None,
            "module_dropout": network.module_dropout or None,
        }
        return [f"{key}={number_text(value)}" for key, value in args.items() if value is not None]
    arguments = dict(network.lycoris_arguments)
    if network.network_module != LYCORIS:
        arguments = {key: text for key, text in arguments.items() if key in READ_BY_SCRIPTS}
    if network.algo == "ia3" and network.preset is None:
        arguments["preset"] = "ia3"
    return [f"{key}={text}" for key, text in arguments.items()]


def _validation(config: RunConfig) -> list[tuple[str, Any, str]]:
    """The validation interval; the share that is set aside is in dataset.toml."""
    training = config.training
    if training.validate_every_n_steps is not None:
        return [("validate_every_n_steps", training.validate_every_n_steps, "Validation every so many steps.")]
    if training.validate_every_n_epochs < 1:
        return []
    return [("validate_every_n_epochs", training.validate_every_n_epochs, "Validation every so many epochs.")]


def _samples(config: RunConfig) -> list[tuple[str, Any, str]]:
    """When samples are generated; without prompts the scripts stop at the first one."""
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
    """The call of accelerate, with the settings that the training script has no argument for."""
    threads = str(config.memory.num_cpu_threads_per_process or 1)
    words = ["accelerate", "launch", "--num_cpu_threads_per_process", threads, "--mixed_precision", _precision(config)]
    if config.memory.device == "cpu":
        words.append("--cpu")
    elif config.training.processes > 1:
        words.append("--multi_gpu")
    if config.training.processes > 1:
        words += ["--num_processes", str(config.training.processes)]
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
