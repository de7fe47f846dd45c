"""Other trainers' files train as they are: the images of the file are the run's dataset configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.models.header import read_header
from engine.runs import RunDir, prepare_run
from tests.engine.config.other_trainers import AI_TOOLKIT, ONETRAINER, changed, written

FAST = ["training.max_check_share=0"]


def test_a_job_of_ai_toolkit_in_two_resolutions(
    tmp_path: Path, tiny_model: Path, images: Path, train_here: Callable[[RunDir], int]
) -> None:
    folders = [{"folder_path": str(images), "resolution": [64, 96], "buckets": False, "caption_ext": "txt"}]
    content = changed(AI_TOOLKIT, {
        "training_folder": str(tmp_path / "out"), "datasets": folders, "model": {"name_or_path": str(tiny_model)},
        "train.steps": 2, "train.dtype": "fp32", "train.disable_sampling": True, "device": "cpu", "save.save_every": 2,
    }, "config.process.0.")  # fmt: skip
    run = prepare_run(load_config(written(tmp_path, "job.yaml", content), FAST))
    assert train_here(run) == ExitCode.DONE
    metadata = read_header(tmp_path / "out" / "ginkgo" / "ginkgo.safetensors").metadata
    datasets = json.loads(metadata["ss_datasets"])
    assert [entry["resolution"] for entry in datasets] == [[64, 64], [96, 96]]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_steps"]) == ("8", "4.0", "2")


def test_a_configuration_of_onetrainer(
    tmp_path: Path, tiny_model: Path, images: Path, train_here: Callable[[RunDir], int]
) -> None:
    concepts = [{"path": str(images), "image": {"enable_random_flip": False}}]
    content = changed(ONETRAINER, {
        "model_type": "STABLE_DIFFUSION_15", "base_model_name": str(tiny_model), "concepts": concepts, "epochs": 1,
        "output_model_destination": str(tmp_path / "out" / "oak.safetensors"), "train_device": "cpu",
        "train_dtype": "FLOAT_32", "resolution": "64", "aspect_ratio_bucketing": False, "batch_size": 4,
    })  # fmt: skip
    run = prepare_run(load_config(written(tmp_path, "job.json", content), FAST))
    assert train_here(run) == ExitCode.DONE
    metadata = read_header(tmp_path / "out" / "oak.safetensors").metadata
    assert metadata["ss_optimizer"].startswith("torch.optim.adamw.AdamW(weight_decay=0.1")
    assert (metadata["ss_network_dim"], metadata["ss_lr_scheduler"]) == ("8", "constant_with_warmup")
