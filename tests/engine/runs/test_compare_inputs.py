"""What a record holds of images from a dataset configuration and of model files, and what counts as a change."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.config import RunConfig
from engine.dataset.digests import FileDigests
from engine.dataset.scan import scan
from engine.runs.compare_inputs import collect_inputs, completed, model_files
from engine.runs.inputs import Inputs, changes, environment_changes, read_inputs, write_inputs
from engine.runs.layout import RunDir
from tests.refusals import refused


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two images with captions from a metadata file, one of them in two subsets, and FLUX's separate files."""
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "images" / f"{name}.png")
    write_metadata(tmp_path, {"a": "first", "b": "second"})
    subset = {"image_dir": str(tmp_path / "images"), "metadata_file": str(tmp_path / "captions.json")}
    put(tmp_path / "datasets.json", json.dumps({"datasets": [{"subsets": [subset, {**subset, "num_repeats": 2}]}]}))
    for name in ("base", "clip_l", "t5xxl", "ae"):
        put(tmp_path / f"{name}.safetensors", name)
    put(tmp_path / "tokenizer" / "tokenizer.json")
    return tmp_path


def write_metadata(place: Path, captions: dict[str, str]) -> None:
    put(place / "captions.json", json.dumps({name: {"caption": text} for name, text in captions.items()}))


def inputs_of(place: Path, recorded: Inputs | None = None, **options: Any) -> Inputs:
    config = RunConfig().changed(
        dataset={"dataset_config": str(place / "datasets.json"), "min_bucket_reso": 64, "resolution": 64},
        model={
            **{key: str(place / f"{key}.safetensors") for key in ("clip_l", "t5xxl", "ae")},
            "t5_tokenizer": str(place / "tokenizer"),
        },
    )
    return collect_inputs(config, scan(config), place / "base.safetensors", recorded, **options)


CASES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda _: None, []),
    "metadata of an image": (lambda p: write_metadata(p, {"a": "other", "b": "second"}), ["1 caption changed: a.png"]),
    "an image left out of the metadata": (lambda p: write_metadata(p, {"b": "second"}), ["1 image is missing: a.png"]),
    "metadata in another order": (lambda p: write_metadata(p, {"b": "second", "a": "first"}), []),
    "CLIP-L": (lambda p: put(p / "clip_l.safetensors"), ["the text encoder CLIP-L clip_l.safetensors changed"]),
    "T5": (lambda p: put(p / "t5xxl.safetensors"), ["the text encoder T5-XXL t5xxl.safetensors changed"]),
    "the autoencoder": (lambda p: put(p / "ae.safetensors"), ["the autoencoder ae.safetensors changed"]),
    "the tokenizer": (lambda p: put(p / "tokenizer/tokenizer.json", "y"), ["the T5 tokenizer tokenizer changed"]),
    "a file of the tokenizer more": (
        lambda p: put(p / "tokenizer/added.json"), ["the T5 tokenizer tokenizer changed (added.json)"],
    ),
    "several": (
        lambda p: [put(p / "base.safetensors"), write_metadata(p, {"a": "1", "b": "2"})],
        ["2 captions changed: a.png, b.png", "the base model base.safetensors changed"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_named(name: str, place: Path) -> None:
    before = inputs_of(place)
    change, phrases = CASES[name]
    change(place)
    after = inputs_of(place, before)
    assert changes(before, after) == phrases
    assert (before.digest == after.digest) == (not phrases)


def test_another_order_is_a_change(place: Path) -> None:
    before = inputs_of(place)
    other = replace(before, images=dict(reversed(before.images.items())))
    assert changes(before, other) == ["the images come in another order"] and before.digest != other.digest


def test_the_record_is_read_as_it_was_written(place: Path) -> None:
    run_dir = RunDir(place / "run")
    run_dir.private.mkdir(parents=True)
    inputs = replace(inputs_of(place), environment={"torch": "2.9.0", "device": "a card"})
    write_inputs(run_dir, inputs)
    recorded = read_inputs(run_dir)
    assert recorded == inputs and list(recorded.images) == list(inputs.images)
    other = replace(inputs, environment={"torch": "2.10.0", "device": "a card", "peft": "1"})
    assert environment_changes(recorded, other) == ["torch was 2.9.0 and is 2.10.0"]


def test_reading_a_record_takes_memory_by_its_size(place: Path) -> None:
    run_dir = RunDir(place / "run")
    run_dir.private.mkdir(parents=True)
    write_inputs(run_dir, inputs_of(place))
    tracemalloc.start()
    try:
        assert read_inputs(run_dir) is not None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_record_behind_a_link_is_not_read(place: Path) -> None:
    run_dir = RunDir(place / "run")
    run_dir.private.mkdir(parents=True)
    write_inputs(run_dir, inputs_of(place))
    run_dir.inputs_path.rename(place / "elsewhere.json")
    run_dir.inputs_path.symlink_to(place / "elsewhere.json")
    assert read_inputs(run_dir) is None


def test_of_a_folder_only_what_is_used_counts(tmp_path: Path) -> None:
    used = [
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    for name in (*used, "checkpoint.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "README.md"):
        put(tmp_path / "model" / name)
    names = [str(file.relative_to(tmp_path / "model")) for file in model_files(tmp_path / "model")]
    assert sorted(names) == used


def test_digests_of_large_files_may_be_computed_later(place: Path) -> None:
    put(place / "base.safetensors", "base " * 9)
    digests = FileDigests()
    first = inputs_of(place, digests=digests, largest=20)
    unknown = {key: [name for name, file in files.items() if not file.digest] for key, files in first.models.items()}
    assert unknown.pop("model.pretrained_model_name_or_path") == ["base.safetensors"]
    assert not first.is_complete and not any(unknown.values())
    last = completed(first, digests)
    assert last.is_complete and last == inputs_of(place) and last.digest == inputs_of(place).digest
    assert inputs_of(place, digests=digests, largest=20).is_complete, "a digest that is known is used"


def test_a_large_file_that_changed_before_it_was_read_counts_as_changed_ever_after(place: Path) -> None:
    digests = FileDigests()
    first = inputs_of(place, digests=digests, largest=3)
    put(place / "base.safetensors", "other")
    last = completed(first, digests)
    assert last.is_complete
    assert changes(last, inputs_of(place, last)) == ["the base model base.safetensors changed"]
    put(place / "base.safetensors", "base")
    assert changes(last, inputs_of(place, last)) == ["the base model base.safetensors changed"]


def test_a_large_file_that_is_gone_is_an_error(place: Path) -> None:
    first = inputs_of(place, largest=3)
    (place / "base.safetensors").unlink()
    with refused("file-unreadable", "base.safetensors"):
        completed(first, FileDigests())
