"""The truth check: a file that is tried out at strength 1 draws what its own run drew, to the byte."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.drawing.drawer import ImageGenerator
from engine.errors import ModelError
from engine.results.base_choice import choose_base
from engine.results.try_request import LoraFile, TryRequest, columns_of, prompts_of
from engine.runs import RunDir, read_events
from engine.runs.contact import collect
from engine.worker import Reporter
from tests.engine.results.test_png_info import read_as_a1111


def request_of(
    trained: RunDir, directory: Path, files: list[LoraFile], *strengths: float, **options: Any
) -> TryRequest:
    paths = tuple(file.path for file in files)
    base = choose_base(paths)
    prompts = prompts_of(base, paths[0], (), {}, lambda _: None)
    columns = columns_of(files, strengths, compare=options.get("compare", False))
    return TryRequest(base.config, paths, columns, prompts, directory, "t")


@pytest.fixture(scope="module")
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def generator(threads: None) -> ImageGenerator:
    """One for all tests: its model is loaded once."""
    return ImageGenerator(Reporter(reported))


reported = io.StringIO()


def pixels(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


@pytest.mark.parametrize("step", [2, 4])
def test_strength_1_is_the_runs_own_sample_and_column_0_its_first(
    trained: RunDir, generator: ImageGenerator, tmp_path: Path, step: int
) -> None:
    file = trained.lora_path(step=step) if step < 4 else trained.lora_path()
    request = request_of(trained, tmp_path, [LoraFile(file)], 1.0)
    generator.generate(request)
    samples = collect(read_events(trained.events_path), trained).images
    for prompt in (0, 1):
        assert pixels(request.image_path(prompt, 0)) == pixels(samples[prompt, 0])
        assert pixels(request.image_path(prompt, 1)) == pixels(samples[prompt, step])
        assert pixels(samples[prompt, step]) != pixels(samples[prompt, 0])


def test_a_strength_between_is_neither(trained: RunDir, generator: ImageGenerator, tmp_path: Path) -> None:
    request = request_of(trained, tmp_path, [LoraFile(trained.lora_path())], 0.5, 1.0)
    generator.generate(request)
    assert len({pixels(request.image_path(0, column)) for column in range(3)}) == 3


def test_the_model_stays_and_other_files_take_the_place_of_the_first(
    trained: RunDir, generator: ImageGenerator, tmp_path: Path
) -> None:
    files = [LoraFile(trained.lora_path(step=2)), LoraFile(trained.lora_path())]
    request = request_of(trained, tmp_path / "a", files, 1.0, compare=True)
    generator.generate(request)
    model = generator._model
    alone = request_of(trained, tmp_path / "b", files[1:], 1.0)
    generator.generate(alone)
    assert generator._model is model is not None
    assert pixels(request.image_path(0, 2)) == pixels(alone.image_path(0, 1))
    assert pixels(request.image_path(0, 0)) == pixels(alone.image_path(0, 0))


def test_images_record_how_they_were_drawn(trained: RunDir, generator: ImageGenerator, tmp_path: Path) -> None:
    file = trained.lora_path()
    request = request_of(trained, tmp_path, [LoraFile(file)], 0.8)
    reported.seek(0)
    reported.truncate()
    generator.generate(request)
    messages = [json.loads(line) for line in reported.getvalue().splitlines()]
    drawn = [message["event"]["path"] for message in messages if "path" in message.get("event", {})]
    assert drawn == [str(request.image_path(prompt, column)) for column in (0, 1) for prompt in (0, 1)]
    base, with_lora = (read_as_a1111(Image.open(request.image_path(1, column)).info["parameters"]) for column in (0, 1))
    assert with_lora["Prompt"] == "a house <lora:zed:0.8>" and base["Prompt"] == "a house"
    assert with_lora["Sampler"] == "Euler a" and with_lora["Negative prompt"] == "dull"
    assert "Lora hashes" not in base and with_lora["Lora hashes"].startswith("zed: ")


def test_the_runs_samples_record_it_too(trained: RunDir) -> None:
    samples = collect(read_events(trained.events_path), trained).images
    parameters = {step: read_as_a1111(Image.open(samples[0, step]).info["parameters"]) for step in (0, 2, 4)}
    assert parameters[0]["Prompt"] == "zed in blue"
    assert parameters[2]["Prompt"] == "zed in blue <lora:zed-step00000002:1>"
    assert parameters[2]["Lora hashes"].startswith("zed-step00000002: ")
    assert parameters[4]["Prompt"] == "zed in blue <lora:zed:1>"


def test_a_broken_file_is_refused_and_the_next_request_is_answered(
    trained: RunDir, generator: ImageGenerator, tmp_path: Path
) -> None:
    request = request_of(trained, tmp_path, [LoraFile(trained.lora_path())], 1.0)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ModelError):
        generator.generate(TryRequest(**{**request.__dict__, "files": (broken,)}))
    generator.generate(request)
    assert request.image_path(0, 1).is_file()
