"""A configuration as files that Kohya's scripts run: dataset.toml, a commented training.toml, train.sh and train.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from engine.config.kohya.dataset_file import DATASET_KEYS, SHARED_KEYS, frozen_text
from engine.config.kohya.rules import SCRIPT_ARGUMENTS
from engine.config.schema import RunConfig

SCRIPTS = {"sd15": "train_network.py", "sdxl": "sdxl_train_network.py", "flux": "flux_train_network.py"}
_SECTIONS = {
    "model": "model_arguments", "dataset": "dataset_arguments", "network": "network_arguments",
    "training": "training_arguments", "memory": "memory_arguments", "sampling": "sample_arguments",
    "saving": "saving_arguments",
}  # fmt: skip
_NOT_COPIED = frozenset({
    "train_data_dir", "reg_data_dir", "dataset_config", "sample_prompts", "network_module", "text_encoder_lr",
    "mixed_precision", "save_precision", "optimizer_args", "max_token_length", "split_mode", "blocks_to_swap",
    "sample_every_n_steps", "save_every_n_epochs", "validate_every_n_epochs", "validation_split", "validation_seed",
    "min_timestep", "max_timestep", "max_train_steps", "torch_compile",
})  # fmt: skip
"""Written by hand below, where they need more than their value."""
_FLUX_ONLY = frozenset({
    "clip_l", "t5xxl", "ae", "t5xxl_max_token_length", "apply_t5_attn_mask", "timestep_sampling", "sigmoid_scale",
    "discrete_flow_shift", "guidance_scale", "model_prediction_type", "weighting_scheme", "logit_mean", "logit_std",
    "mode_scale", "cpu_offload_checkpointing",
})  # fmt: skip
_OF_THE_TABLE = DATASET_KEYS | SHARED_KEYS


@dataclass(frozen=True)
class ExportedSubset:
    """One folder of pictures."""

    image_dir: str
    num_repeats: int
    class_tokens: str = ""
    is_reg: bool = False


def kohya_files(
    config: RunConfig, family: str, subsets: Sequence[ExportedSubset], prompts: Sequence[str]
) -> dict[str, str]:
    """The files by name.

    Args:
        family: "sd15", "sdxl" or "flux".
        subsets: the folders, as a scan found them; not used where the run has a dataset configuration.
        prompts: one line each, in Kohya's syntax.
    """
    files = {
        "dataset.toml": dataset_toml(config, subsets),
        "training.toml": training_toml(config, family, bool(prompts)),
        "train.sh": _shell(SCRIPTS[family], _launch(config)),
        "train.py": _python(SCRIPTS[family], _launch(config)),
    }
    if prompts:
        files["prompts.txt"] = "\n".join(prompts) + "\n"
    return files


def dataset_toml(config: RunConfig, subsets: Sequence[ExportedSubset]) -> str:
    """The dataset configuration: that of the run, if it has one, filled up with what the run says itself.

    Raises:
        UsageError: the run's dataset configuration cannot be read.
        ConfigError: it is not valid.
    """
    document = tomlkit.document()
    document.add(tomlkit.comment("Pictures and captions, for --dataset_config."))
    general = {
        key: value
        for key, value in config.dataset.model_dump().items()
        if key in _OF_THE_TABLE and key not in ("num_repeats", "class_tokens") and value is not None
    }
    general["batch_size"] = config.training.train_batch_size
    if config.dataset.dataset_config:
        given = _present(json.loads(frozen_text(Path(config.dataset.dataset_config))))
        if config.dataset.num_repeats is not None:
            general["num_repeats"] = config.dataset.num_repeats
        if config.dataset.alpha_mask:
            for subset in (subset for dataset in given["datasets"] for subset in dataset["subsets"]):
                subset.setdefault("alpha_mask", True)
        document.add("general", tomlkit.item(general | given.get("general", {})))
        document.add("datasets", tomlkit.item(given["datasets"]))
        return tomlkit.dumps(document)
    document.add("general", tomlkit.item(general))
    dataset, inner = tomlkit.table(), tomlkit.aot()
    masks = config.dataset.conditioning_data_dir if config.dataset.masked_loss else None
    if masks and any(subset.is_reg for subset in subsets):
        document.add(tomlkit.comment("Left out: regularization pictures, which Kohya has no masks for."))
    for subset in [subset for subset in subsets if not (masks and subset.is_reg)]:
        entry = tomlkit.table()
        entry.add("image_dir", subset.image_dir)
        entry.add("num_repeats", subset.num_repeats)
        if subset.class_tokens:
            entry.add("class_tokens", subset.class_tokens)
        for key, wanted in (("is_reg", subset.is_reg), ("alpha_mask", config.dataset.alpha_mask)):
            if wanted:
                entry.add(key, True)
        if masks:
            entry.add("conditioning_data_dir", masks)
        inner.append(entry)
    dataset.add("subsets", inner)
    datasets = tomlkit.aot()
    datasets.append(dataset)
    document.add("datasets", datasets)
    return tomlkit.dumps(document)


def _present(value: Any) -> Any:
    """JSON without its nulls, which TOML lacks."""
    if isinstance(value, dict):
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    return [_present(inner) for inner in value] if isinstance(value, list) else value


def training_toml(config: RunConfig, family: str, has_prompts: bool) -> str:
    """The arguments of the training script, each with what it does."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"Run it from this folder: bash train.sh ({SCRIPTS[family]} --config_file)."))
    left_out: list[str] = []
    for name, section in _SECTIONS.items():
        model = getattr(config, name)
        table = tomlkit.table()
        for key, value in _plain(model.model_dump(), family).items():
            _add(table, key, value, type(model).model_fields[key].description or "")
        for key, value, why in _by_hand(config, name, family, has_prompts):
            _add(table, key, value, why)
        left_out += [
            f"{name}.{key}" for key, value in model.model_dump().items()
            if key not in SCRIPT_ARGUMENTS and key not in _OF_THE_TABLE and _differs(type(model), key, value)
        ]  # fmt: skip
        document.add(section, table)
    said = {"network.conv_dim", "network.conv_alpha", "network.rank_dropout", "network.module_dropout", "model.family",
            "training.num_processes"}  # fmt: skip
    if config.memory.device == "cpu":
        said.add("memory.device")
    ours = [key for key in left_out if key not in said]
    if ours:
        document.add(tomlkit.comment(f"Left out, Kohya has no such argument: {', '.join(ours)}."))
    return tomlkit.dumps(document)


def _plain(values: dict[str, Any], family: str) -> dict[str, Any]:
    """Arguments whose value is simply copied; flags that are off and unset ones are left away."""
    return {
        key: value
        for key, value in values.items()
        if key in SCRIPT_ARGUMENTS
        and key not in _NOT_COPIED
        and (key not in _OF_THE_TABLE or key in ("masked_loss",))
        and (family == "flux" or key not in _FLUX_ONLY)
        and value is not None
        and value is not False
        and value != []
        and value != ""
    }


def _differs(model: Any, key: str, value: Any) -> bool:
    return bool(value != model.model_fields[key].default)


def _add(table: Any, key: str, value: Any, why: str) -> None:
    if key in ("lr_warmup_steps", "lr_decay_steps") and value >= 1:
        value = int(value)  # Kohya takes any number with a point for a share of all steps
    item = tomlkit.item(value)
    if why:
        item.comment(why)
    table.add(key, item)


def _by_hand(config: RunConfig, table: str, family: str, has_prompts: bool) -> list[tuple[str, Any, str]]:
    """Arguments of a section that need more than their value: (name, value, why)."""
    network, training, memory, sampling = config.network, config.training, config.memory, config.sampling
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
        rates = [training.rates[1]] * (2 if family == "flux" else 1)
        if not network.network_train_unet_only:
            rows.append(("text_encoder_lr", rates, "Of the text encoders."))
        if training.optimizer_args:
            rows.append(("optimizer_args", training.optimizer_args, "Settings of the optimizer."))
        for key, usual in (("min_timestep", 0), ("max_timestep", 1000)):
            if getattr(training, key) != usual:
                rows.append((key, getattr(training, key), "The range of timesteps that is trained."))
    elif table == "memory":
        rows.append(("mixed_precision", _precision(config), "What is computed in."))
        if memory.base_precision == "fp8":
            rows.append(("fp8_base", True, "The frozen weights in 8 bits."))
        if memory.split_mode and family == "flux":
            rows.append(("blocks_to_swap", min(memory.blocks_to_swap or 35, 35), "Blocks that wait in host memory."))
        rows.append(("sdpa", True, "PyTorch's attention."))
    elif table == "sampling":
        if has_prompts:
            rows.append(("sample_prompts", "prompts.txt", "One prompt a line."))
        if sampling.sample_every_n_steps and sampling.sample_every_n_epochs is None and has_prompts:
            rows.append(("sample_every_n_steps", sampling.sample_every_n_steps, "Samples every so many steps."))
    elif table == "saving":
        rows.append(("save_precision", config.saving.save_precision, "The number format in the file."))
        rows.append(("save_model_as", "safetensors", "The format that every reader takes."))
        if config.saving.save_every_n_epochs:
            rows.append(("save_every_n_epochs", config.saving.save_every_n_epochs, "A file every so many epochs."))
    return rows


def _precision(config: RunConfig) -> str:
    if config.memory.mixed_precision == "auto":
        return "no" if config.memory.device == "cpu" else "bf16"
    return config.memory.mixed_precision


def _launch(config: RunConfig) -> list[str]:
    """What accelerate is told: how the run is spread, which the training script itself cannot be told."""
    words = ["accelerate", "launch", "--num_cpu_threads_per_process", "1", "--mixed_precision", _precision(config)]
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
