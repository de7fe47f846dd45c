"""The two templates of a Kohya user train on the demo's base and images, from a fresh folder with relative paths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.config import RunConfig, load_config
from engine.exit_codes import ExitCode
from engine.models.header import read_header
from engine.paths import ASSETS
from engine.runs import RunDir, prepare_run

Train = Callable[[RunDir], int]
DATASET = f"""
[general]
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"

[[datasets]]
resolution = 64
batch_size = 2
enable_bucket = true
min_bucket_reso = 32
max_bucket_reso = 128
bucket_reso_steps = 16

  [[datasets.subsets]]
  image_dir = "{ASSETS / "demo_pictures"}"
  class_tokens = "smithy"
  num_repeats = 2
"""
TRAINING = f"""
[model_arguments]
pretrained_model_name_or_path = "{ASSETS / "demo_base"}"
v_parameterization = true

[dataset_arguments]
dataset_config = "dataset.toml"

[training_arguments]
output_dir = "out"
output_name = "smithy"
save_model_as = "safetensors"
save_precision = "fp16"
max_train_steps = 2
mixed_precision = "no"
cache_latents = true
xformers = true
max_token_length = 75

[network_arguments]
network_module = "networks.lora"
network_dim = 4
network_alpha = 2
network_args = ["conv_dim=2", "conv_alpha=1"]
unet_lr = 1e-3
text_encoder_lr = 5e-4

[optimizer_arguments]
optimizer_type = "AdamW"
optimizer_args = ["weight_decay=0.1"]
lr_scheduler = "cosine"
lr_warmup_steps = 1
min_snr_gamma = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    monkeypatch.chdir(fresh)
    (fresh / "dataset.toml").write_text(DATASET)
    (fresh / "train.toml").write_text(TRAINING)
    return fresh


def trained(config: RunConfig, train_here: Train) -> Path:
    """The last file of a run; both parts are in it and have moved from their start, but for the layer of the text
    encoder that the preset's clip_skip leaves out."""
    run = prepare_run(config)
    assert train_here(run) == ExitCode.DONE
    path = run.lora_path()
    assert set(inspect_lora(path).modules) == {"U-Net", "text encoder"}
    tensors = load_file(path)
    ups = [name for name in tensors if name.endswith("lora_up.weight")]
    still = [name for name in ups if not tensors[name].any()]
    assert len(tensors) == 3 * len(ups) and len(still) == (6 if config.model.clip_skip == 2 else 0)
    return path


def test_a_dataset_configuration_alone_with_a_preset(folder: Path, train_here: Train) -> None:
    overrides = ["training.max_train_steps=2", "sampling.sample_every_n_steps=0", "saving.output_name=ann",
                 "memory.device=cpu", "network.network_dim=4", "training.text_encoder_lr=1e-4",
                 "training.lr_warmup_steps=0"]  # fmt: skip
    options = {"dataset.dataset_config": ("--dataset_config", "dataset.toml"),
               "model.pretrained_model_name_or_path": ("--model", str(ASSETS / "demo_base"))}  # fmt: skip
    path = trained(load_config("sd15-anime", overrides, options), train_here)
    assert path == folder / "ann" / "results_current" / "ann.safetensors"


def test_a_training_toml_that_points_to_it(folder: Path, train_here: Train) -> None:
    config = load_config("train.toml", ["training.kohya_exact=true", "memory.device=cpu"])
    path = trained(config, train_here)
    assert path == folder / "out" / "smithy.safetensors"
    metadata = read_header(path).metadata
    (dataset,) = json.loads(metadata["ss_datasets"])
    assert (dataset["num_train_images"], dataset["batch_size_per_device"], dataset["resolution"]) == (32, 2, [64, 64])
    (subset,) = dataset["subsets"]
    assert (subset["img_count"], subset["num_repeats"], subset["class_tokens"]) == (16, 2, "smithy")
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "1", "dropout": None}
    assert (metadata["ss_lr_warmup_steps"], metadata["ss_base_model_version"]) == ("1", "sd_v1_v")
