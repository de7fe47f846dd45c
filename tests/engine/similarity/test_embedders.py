"""Embeddings are those of the model itself, and folders that hold no such model are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import CLIPModel, CLIPTokenizer, ViTModel

from engine.paths import ASSETS
from engine.similarity.embedders import Clip, Dino, pixels
from engine.similarity.face import Face
from tests.engine.similarity.conftest import tiny_clip
from tests.refusals import refused

PLAIN = (torch.zeros(3, 1, 1), torch.ones(3, 1, 1))


def image(size: tuple[int, int] = (40, 32), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(32, 32), (64, 33), (33, 64), (8, 500), (1, 1)])
def test_pixels_are_the_middle_square(size: tuple[int, int]) -> None:
    square = pixels(image(size), 32, PLAIN)
    assert square.shape == (1, 3, 32, 32) and float(square.min()) >= 0 and float(square.max()) <= 1
    if size == (32, 32):
        assert torch.equal(square[0], torch.from_numpy(np.array(image(size))).permute(2, 0, 1) / 255)


def test_pixels_are_normalised_and_nothing_is_squeezed() -> None:
    bars = Image.new("RGB", (96, 32), (0, 0, 0))
    bars.paste((255, 102, 0), (32, 0, 64, 32))
    look = (torch.tensor([0.5, 0.4, 0.0]).view(3, 1, 1), torch.tensor([0.5, 0.1, 1.0]).view(3, 1, 1))
    middle = pixels(bars, 32, look)[0]
    assert middle.mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=1e-6) and float(middle.std()) < 1


@torch.no_grad()
def test_clip_embeds_as_the_whole_model_does(clip: Path, tmp_path: Path) -> None:
    look = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
    folder = shutil.copytree(clip, tmp_path / "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(look))
    model, own = CLIPModel.from_pretrained(folder).eval(), Clip(folder)
    values = [torch.tensor(value).view(3, 1, 1) for value in look.values()]
    ids = CLIPTokenizer.from_pretrained(ASSETS / "clip_tokenizer")("a red house", return_tensors="pt").input_ids
    whole = model(input_ids=ids, pixel_values=pixels(image(), 32, (values[0], values[1])))
    assert torch.allclose(own.image(image()), whole.image_embeds[0], atol=1e-6)
    assert torch.allclose(own.text("a red house"), whole.text_embeds[0], atol=1e-6)
    assert not torch.allclose(Clip(clip).image(image()), whole.image_embeds[0], atol=1e-3), "another look"
    assert own.text("word " * 300).shape == (8,)


@torch.no_grad()
def test_dino_is_the_class_token(vit: Path) -> None:
    look = (torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
    whole = ViTModel.from_pretrained(vit).eval()(pixel_values=pixels(image(), 32, look)).last_hidden_state[0, 0]
    assert torch.allclose(Dino(vit).image(image()), normalize(whole, dim=0), atol=1e-6)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[min(tensors)]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


CHANGES: tuple[tuple[Callable[[Path], Any], str, str], ...] = (
    (shutil.rmtree, "not-an-embedder-folder", "config.json"),
    (lambda folder: (folder / "config.json").unlink(), "not-an-embedder-folder", "config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "not-an-embedder-folder", "config.json"),
    (
        lambda folder: (folder / "config.json").write_text('{"model_type": "siglip"}'),
        "embedder-of-other-type",
        "siglip",
    ),
    (lambda folder: (folder / "config.json").write_text("[]"), "embedder-of-other-type", "None"),
    (pickled, "embedder-without-safetensors", "pytorch_model.bin"),
    (lambda folder: (folder / "model.safetensors").unlink(), "embedder-without-safetensors", "model.safetensors"),
    (cut, "embedder-not-loadable", ""),
    (lacking, "embedder-incomplete", "1 weight"),
)


@pytest.mark.parametrize("kind", ["clip", "vit"])
@pytest.mark.parametrize(("change", "code", "part"), CHANGES)
def test_another_folder_is_one_sentence(
    kind: str, change: Callable[[Path], Any], code: str, part: str, clip: Path, vit: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree({"clip": clip, "vit": vit}[kind], tmp_path / "model")
    change(folder)
    with refused(code, folder, part) as error:
        (Clip if kind == "clip" else Dino)(folder)
    assert error.value.hint and error.value.message.count("\n") == 0


def test_clip_and_dino_are_not_mistaken_for_each_other(clip: Path, vit: Path, tmp_path: Path) -> None:
    with refused("embedder-of-other-type", "type clip", "DINO", "type vit"):
        Dino(clip)
    with refused("embedder-of-other-type", "type vit", "CLIP", "type clip"):
        Clip(vit)
    with refused("embedder-wrong-vocabulary", "1000 words"):
        Clip(tiny_clip(tmp_path / "other", 1000))


class Session:
    """onnxruntime's, as far as it is asked."""

    def __init__(self, shape: list[Any], output: Any = None) -> None:
        self.shape, self.output, self.seen = shape, output, np.zeros(0)
        self.name = "in"

    def get_inputs(self) -> list[Any]:
        return [self]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen = inputs["in"]
        return [self.seen.reshape(1, -1) if self.output is None else self.output]


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ([1, 3, 112, 112], (1, 3, 112, 112)),
        (["batch", 3, 64, 64], (1, 3, 64, 64)),
        (["batch", 3, "height", "width"], (1, 3, 112, 112)),
        ([None, 160, 160, 3], (1, 160, 160, 3)),
    ],
)
def test_a_face_embedder_gets_what_it_takes(shape: list[Any], seen: tuple[int, ...]) -> None:
    session = Session(shape)
    embedding = Face(Path("face.onnx"), session).image(Image.new("RGB", (200, 150), (255, 0, 127)))
    assert (
        session.seen.shape == seen
        and session.seen.dtype == np.float32
        and float(embedding.norm()) == pytest.approx(1, abs=1e-3)
    )
    colours = session.seen[0, 5, 5] if seen[3] == 3 else session.seen[0, :, 5, 5]
    assert colours.tolist() == pytest.approx([1, -1, 127 / 127.5 - 1], abs=1e-5), "red first"


@pytest.mark.parametrize("shape", [[1, 1, 112, 112], [1, 3, 112, 96], [1, 512], [1, 3, 1, 112, 112]])
def test_a_graph_for_something_else_is_refused(shape: list[Any]) -> None:
    with refused("face-embedder-wrong-input"):
        Face(Path("face.onnx"), Session(shape))
    with refused("face-embedder-wrong-output", "[1, 4, 4]"):
        Face(Path("face.onnx"), Session([1, 3, 8, 8], np.zeros((1, 4, 4)))).image(image())


def test_a_graph_of_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    value, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["in"], ["out"])],
        "face",
        [helper.make_tensor_value_info("in", value, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("out", value, ["n", 192])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "face.onnx")
    embedding = Face(tmp_path / "face.onnx").image(image((8, 8)))
    expected = (torch.from_numpy(np.array(image((8, 8)))).permute(2, 0, 1).flatten() - 127.5) / 127.5
    assert torch.allclose(embedding, normalize(expected.float(), dim=0), atol=1e-5)

    (tmp_path / "other.onnx").write_bytes(b"no graph")
    for name in ("other.onnx", "gone.onnx"):
        with refused("embedder-not-loadable", tmp_path / name):
            Face(tmp_path / name)
