"""Taggers: what the graph gets, and which tags are written in which order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.captioning.captioner import Subject
from engine.captioning.tagger import Tag, Tagger, preprocess, select_tags
from engine.captioning.tagger_options import TaggerOptions
from tests.refusals import refused
from tests.tiny_tagger import tiny_tagger

BLUE = Image.new("RGB", (40, 40), (0, 0, 255))
RED = Image.new("RGB", (40, 40), (255, 0, 0))


def tagged(folder: Path, *images: Image.Image, **values: Any) -> list[Any]:
    tagger = Tagger()
    tagger.load(TaggerOptions(model=str(folder), **values), print)
    return tagger.describe([Subject(Path("a.png"), image) for image in images])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_tagger(tmp_path / "tagger")


def test_tags_of_images(model: Path) -> None:
    """Blue comes first; 0.5 for the character, 0.27 for the rare tag, faces keep their underscore."""
    assert tagged(model, BLUE, RED) == [
        "robot (tin), first channel, ^_^",
        "robot (tin), last channel, ^_^",
    ]


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ({"character_threshold": 0.51}, "first channel, ^_^"),
        ({"general_threshold": 0.26}, "robot (tin), first channel, ^_^, rare thing"),
        ({"general_threshold": 0.999}, "robot (tin), first channel"),
        ({"character_tags_first": False}, "first channel, ^_^, robot (tin)"),
        ({"remove_underscore": False}, "robot_(tin), first_channel, ^_^"),
        ({"undesired_tags": "First Channel, robot_(tin)"}, "^_^"),
        ({"use_rating_tags": True}, "sensitive, robot (tin), first channel, ^_^"),
    ],
)
def test_choices(model: Path, values: dict[str, Any], tags: str) -> None:
    assert tagged(model, BLUE, **values) == [tags]


def test_a_graph_for_single_images_gets_them_one_by_one(tmp_path: Path) -> None:
    single = tiny_tagger(tmp_path / "single", batch=1)
    assert [len(text.split(", ")) for text in tagged(single, BLUE, RED, BLUE)] == [3, 3, 3]


def test_a_image_is_padded_to_a_white_square() -> None:
    """20 x 10 with red on the left and blue on the right: white above and below, blue first, averages exact."""
    image = Image.new("RGB", (20, 10), (200, 100, 0))
    image.paste((0, 50, 250), (10, 0, 20, 10))
    pixels = preprocess(image, 4)
    assert pixels.dtype == np.float32 and pixels.shape == (4, 4, 3)
    white, left, right = [255, 255, 255], [0, 100, 200], [250, 50, 0]
    assert pixels.tolist() == [[white] * 4, [left] * 2 + [right] * 2, [left] * 2 + [right] * 2, [white] * 4]


@pytest.mark.parametrize("face", ["^_^", "o_o", ">_<", "||_||", "(o)_(o)", "@_@", "6_9"])
def test_faces_keep_their_underscore(face: str) -> None:
    assert select_tags([Tag(face, 0), Tag("red_hair", 0)], [0.9, 0.9], TaggerOptions()) == [face, "red hair"]


def test_other_categories_are_never_written() -> None:
    tags = [Tag("artist_name", 1), Tag("series", 3), Tag("highres", 5), Tag("hat", 0)]
    assert select_tags(tags, [1.0] * 4, TaggerOptions()) == ["hat"]


def test_what_is_no_tagger(tmp_path: Path, model: Path) -> None:
    with refused("tags-do-not-fit"):
        tagged(tiny_tagger(tmp_path / "short", rows=5), BLUE)
    with refused("tagger-format-unknown"):
        tagged(tiny_tagger(tmp_path / "grey", channels=1), BLUE)
    (model / "selected_tags.csv").write_text("a,b\n1,2\n")
    with refused("tags-unreadable", model / "selected_tags.csv"):
        tagged(model, BLUE)
    (model / "selected_tags.csv").unlink()
    with refused("captioner-incomplete", "selected_tags.csv"):
        tagged(model, BLUE)
    (tmp_path / "short" / "model.onnx").write_bytes(b"cut")
    with refused("captioner-unreadable", tmp_path / "short"):
        tagged(tmp_path / "short", BLUE)


def test_without_onnxruntime_the_hint_is_how_to_install_it(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with refused("onnxruntime-missing", "pip install 'lorasmith[tagger]'"):
        tagged(model, BLUE)


def test_a_gpu_that_onnxruntime_does_not_have(model: Path) -> None:
    with refused("onnxruntime-without-gpu", "cuda"):
        tagged(model, BLUE, device="cuda")
