"""Kohya's files train: a dataset configuration beside a preset, and a training TOML that points to one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.families.resolved import resolve_run
from engine.models.header import read_header
from engine.oom.remedies import remedies
from engine.runs import RunDir, prepare_resume, prepare_run, read_events
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun

Train = Callable[[RunDir], int]


@pytest.fixture
def dataset(tmp_path: Path, images: Path) -> Path:
    """Two datasets of other sizes and batches over one folder, with masks in the second."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for image in sorted(images.glob("*.png")):
        Image.new("RGB", (16, 16), (255, 0, 0)).save(masks / image.name)
    path = tmp_path / "dataset.toml"
    path.write_text(f"""
        [general]
        enable_bucket = true
        min_bucket_reso = 32
        bucket_reso_steps = 16
        shuffle_caption = true
        keep_tokens = 1
        [[datasets]]
        resolution = 64
        batch_size = 3
          [[datasets.subsets]]
          image_dir = "{images}"
          num_repeats = 1
          flip_aug = true
        [[datasets]]
        resolution = [64, 96]
        batch_size = 2
          [[datasets.subsets]]
          image_dir = "{images}"
          conditioning_data_dir = "{masks}"
          caption_prefix = "small"
    """)
    return path


def events_of(run: RunDir, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == kind]


def stop_at_two(monkeypatch: pytest.MonkeyPatch, run: RunDir) -> None:
    """The first life of `run` ends after two steps."""
    advance = Trainer.advance

    def stopping(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 2 and not events_of(run, "run_finished") else ""
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stopping)


def test_a_dataset_configuration_beside_a_preset(
    make_run: MakeRun, train_here: Train, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run keeps it: a resume takes the copy, whatever became of the file."""
    settings = {
        "dataset__dataset_config": dataset, "dataset__masked_loss": True, "training__max_train_epochs": 1,
        "memory__cache_text_encoder_outputs": True, "sampling__sample_every_n_steps": 0,
    }  # fmt: skip
    straight, halted = make_run("straight", **settings), make_run("halted", **settings)
    assert train_here(straight) == ExitCode.DONE
    notes = [str(note["text"]) for note in events_of(straight, "note")]
    assert any("dataset.train_data_dir not read: dataset.dataset_config is set" in note for note in notes)
    assert any("batches of 2, 3" in note for note in notes), notes
    steps = events_of(straight, "step")
    dataset.unlink()
    stop_at_two(monkeypatch, halted)
    assert train_here(halted) == ExitCode.STOPPED
    prepare_resume(halted)
    assert train_here(halted) == ExitCode.DONE
    assert len(events_of(halted, "step")) == len(steps)
    assert halted.lora_path().read_bytes() == straight.lora_path().read_bytes()


def test_it_goes_on_with_smaller_batches(
    make_run: MakeRun, train_here: Train, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the remedy for too little memory has it; the person's file may be gone."""
    settings = {
        "dataset__dataset_config": dataset, "dataset__masked_loss": True, "training__max_train_steps": 6,
        "sampling__sample_every_n_steps": 0,
    }  # fmt: skip
    run = make_run(**settings)
    dataset.unlink()
    stop_at_two(monkeypatch, run)
    assert train_here(run) == ExitCode.STOPPED
    offered = remedies(resolve_run(run.with_own_datasets(load_config(run.config_path))), None, "train")
    remedy = next(remedy for remedy in offered if remedy.name == "smaller_batch")
    prepare_resume(run, changes=remedy.changes)
    assert train_here(run) == ExitCode.DONE
    notes = [str(note["text"]) for note in events_of(run, "note")]
    assert "From step 3 on images come in another order, 1 at a time; a step still takes 3." in notes
    assert any("batch_size 3 is cut to 1 (memory.max_batch_size)" in note for note in notes), notes
    assert any("batches of 1 " in note or "batches of 1," in note for note in notes), notes
    assert [step["step"] for step in events_of(run, "step")] == [1, 2, 3, 4, 5, 6]


def check_metadata(metadata: dict[str, str]) -> None:
    """As sd-scripts writes them for a dataset configuration: by dataset, and not by folder."""
    first, second = json.loads(metadata["ss_datasets"])
    tags = {"zed": 6, "blue": 6, "round": 6, "big": 6, **{f"tag{number}": 1 for number in range(6)}}
    for dataset, batch, size in ((first, 3, [64, 64]), (second, 2, [64, 96])):
        assert (dataset["batch_size_per_device"], dataset["num_train_images"], dataset["resolution"]) == (
            batch,
            6,
            size,
        )
        assert dataset["tag_frequency"] == {"images": tags}
        buckets = dataset["bucket_info"]["buckets"]
        assert list(buckets) == [str(number) for number in range(len(buckets))]
        assert sum(bucket["count"] for bucket in buckets.values()) == 6
    assert first["bucket_info"]["buckets"] != second["bucket_info"]["buckets"]
    assert (first["subsets"][0]["flip_aug"], second["subsets"][0]["caption_prefix"]) == (True, "small")
    assert json.loads(metadata["ss_tag_frequency"]) == {"images": tags}
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        name: {"n_repeats": 1, "img_count": 6} for name in ("images", "images (2)")
    }
    assert not {"ss_bucket_info", "ss_resolution", "ss_batch_size_per_device", "ss_reg_dataset_dirs"} & set(metadata)


def test_a_training_toml_that_points_to_one(
    tiny_model: Path, tmp_path: Path, dataset: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "train.toml"
    path.write_text(f"""
        [model_arguments]
        pretrained_model_name_or_path = "{tiny_model}"
        [training_arguments]
        output_dir = "{tmp_path / "out"}"
        output_name = "cat"
        max_train_steps = 2
        mixed_precision = "no"
        cache_latents = true
        save_precision = "fp16"
        masked_loss = true
        xformers = true
        [network_arguments]
        network_module = "networks.lora"
        network_dim = 4
        network_alpha = 2
        network_args = ["conv_dim=2"]
        unet_lr = 1e-3
        text_encoder_lr = 1e-4
        [dataset_arguments]
        dataset_config = "{dataset}"
    """)
    run = prepare_run(load_config(path))
    assert train_here(run) == ExitCode.DONE
    report = inspect_lora(tmp_path / "out" / "cat.safetensors")
    assert set(report.modules) == {"U-Net", "text encoder"}
    assert report.metadata["ss_network_args"] == '{"conv_dim": "2", "dropout": null}'
    check_metadata(read_header(tmp_path / "out" / "cat.safetensors").metadata)
