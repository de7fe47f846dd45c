"""The figures, computed by hand from embeddings that are colours."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.results.similarity import Request, Sample
from engine.similarity.measuring import measure, without
from tests.refusals import refused

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Colours:
    """An image's embedding is its colour; a text's is that of the first letter of its first word."""

    def __init__(self, path: Path) -> None:
        self.texts: list[str] = []

    def image(self, image: Image.Image) -> Tensor:
        return torch.tensor([float(value) for value in image.getpixel((0, 0))]) / 255  # type: ignore[union-attr]

    def text(self, text: str) -> Tensor:
        return torch.eye(3)["rgb".index(text[0])]


LOADERS = {"clip": Colours, "dino": Colours, "face": Colours}


def saved(folder: Path, name: str, colour: tuple[int, int, int]) -> str:
    Image.new("RGB", (9, 9), colour).save(folder / f"{name}.png")
    return str(folder / f"{name}.png")


def request(folder: Path, **models: str) -> Request:
    prompts = {"zed, red": RED, "blue zed": GREEN, "green house": BLUE, "ZED": RED}
    samples = tuple(
        Sample(step, saved(folder, f"{step}{index}", colour), prompt)
        for step, drawn in ((0, [BLUE] * 4), (5, list(prompts.values())))
        for index, (prompt, colour) in enumerate(zip(prompts, drawn, strict=True))
    )
    training = [saved(folder, f"t{number}", colour) for number, colour in enumerate((RED, RED, GREEN, BLUE))]
    digests = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in training]
    return Request(samples, tuple(zip(training, digests, strict=True)), "zed", **models)


def test_figures_by_hand(tmp_path: Path) -> None:
    asked = request(tmp_path, clip="/models/tiny-clip", face="/models/face.onnx")
    progress: list[tuple[str, int, int]] = []
    measured = measure(asked, lambda *values: progress.append(values), LOADERS)
    assert set(measured) == {"clip_i", "clip_t", "face"} and measured["clip_i"]["model"] == "tiny-clip"
    # of step 5 the samples that name zed: red, green, red; red has a cosine of 1 to two of four images
    assert measured["clip_i"]["steps"] == pytest.approx({"0": 0.25, "5": (0.5 + 0.25 + 0.5) / 3})
    assert measured["face"] == {**measured["clip_i"], "model": "face.onnx"} and measured["face"]["images"] == 4
    # prompts without zed: red (red), blue (green), green house (blue); the fourth is nothing but zed
    assert measured["clip_t"]["steps"] == pytest.approx({"0": 1 / 3, "5": 1 / 3})
    assert progress[-1] == ("images", 24, 24)


def test_where_no_prompt_names_the_trigger_all_samples_count(tmp_path: Path) -> None:
    asked = request(tmp_path, dino="/models/dino")
    other = Request(asked.samples, asked.training, "nobody", dino=asked.dino)
    assert measure(other, lambda *_: None, LOADERS)["dino"]["steps"]["5"] == pytest.approx(
        (0.5 + 0.25 + 0.25 + 0.5) / 4
    )


def test_a_request_comes_through_json(tmp_path: Path) -> None:
    import json

    asked = request(tmp_path, dino="/models/dino")
    assert Request.restored(json.loads(json.dumps(asked.as_json()))) == asked


def test_images_that_changed_are_left_out(tmp_path: Path) -> None:
    asked = request(tmp_path, dino="/models/dino")
    for path, colour in zip([path for path, _ in asked.training[1:]], (GREEN, RED, None), strict=True):
        if colour is None:
            Path(path).unlink()
        else:
            Image.new("RGB", (5, 5), colour).save(path)
    measured = measure(asked, lambda *_: None, LOADERS)["dino"]
    assert measured["images"] == 1 and measured["steps"]["5"] == pytest.approx(2 / 3)
    Path(asked.training[0][0]).write_bytes(b"no image")
    with refused("training-images-changed"):
        measure(asked, lambda *_: None, LOADERS)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("zed on a beach", "on a beach"),
        ("a photo of Zed, on a beach", "a photo of, on a beach"),
        ("zed, red hair", "red hair"),
        ("zedland", "zedland"),
        ("ZED", ""),
        ("a  (zed:1.2) house,,", "a ( :1.2) house"),
    ],
)
def test_the_trigger_is_taken_out(prompt: str, text: str) -> None:
    assert without(prompt, "zed") == text
    assert without("a house", "") == "a house"
