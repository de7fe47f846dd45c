"""Finding a captioning model, and the captioner itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.captioning.blip import Blip
from engine.captioning.captioner import Subject
from engine.captioning.model_files import find_model, models_folder
from engine.captioning.model_options import BlipOptions
from tests.refusals import refused


def find(model: str) -> Path:
    return find_model(model, "blip", title="BLIP", allow_download=False, log=print)


@pytest.fixture
def copy(model: Path, place: Path) -> Path:
    """A model of one's own, to break."""
    return Path(shutil.copytree(model, place / "copy"))


def test_a_model_in_the_models_folder_is_found(copy: Path) -> None:
    target = models_folder("Someone/some-captions")
    target.parent.mkdir(parents=True)
    copy.rename(target)
    assert find("Someone/some-captions") == target


def test_a_pickled_model_is_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with refused("captioner-incomplete", "model.safetensors", "pytorch_model.bin"):
        find(str(copy))


def test_other_things_than_a_model(copy: Path, place: Path) -> None:
    with refused("captioner-folder-missing", place / "nowhere" / "deep"):
        find(str(place / "nowhere" / "deep"))
    with refused("captioner-folder-is-a-file", copy / "config.json"):
        find(str(copy / "config.json"))
    (copy / "config.json").write_text('{"model_type": "llama"}')
    with refused("captioner-of-other-kind", copy, "llama", "blip"):
        find(str(copy))


def test_damaged_weights_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if name.endswith("query.weight"))
    save_file({name: tensor for name, tensor in weights.items() if name != gone}, copy / "model.safetensors")
    with refused("captioner-incomplete", "1 weight", gone):
        Blip().load(BlipOptions(model=str(copy)), print)
    (copy / "model.safetensors").write_bytes(b"cut")
    with refused("captioner-unreadable", copy):
        Blip().load(BlipOptions(model=str(copy)), print)


def captions(model: Path, seed: int, **options: object) -> list[str]:
    blip = Blip()
    blip.load(BlipOptions.model_validate({"model": str(model), "max_length": 16, "seed": seed, **options}), print)
    images = [Image.new("RGB", (50, 30), "red"), Image.new("RGB", (30, 50), "blue")]
    return [str(answer) for answer in blip.describe([Subject(Path("a.png"), image) for image in images])]


def test_beam_search_is_the_same_each_time_and_drawing_follows_the_seed(model: Path) -> None:
    assert captions(model, 1) == captions(model, 2)
    sampled = [captions(model, seed, beam_search=False) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_the_words_it_begins_with_are_cut_off(model: Path) -> None:
    for text in captions(model, 1, prompt="red robot on grass", max_length=12, min_length=8):
        assert 1 <= len(text.split()) <= 12 - len(["[DEC]", "red", "robot", "on", "grass"])
    assert all(len(text.split()) <= 11 for text in captions(model, 1, prompt="", max_length=12))
