"""A run with `model.base_weights`: what it records, and that `try` and a resume have the same base."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from engine.drawing.drawer import ImageGenerator
from engine.models.header import read_header
from engine.results.base_choice import choose_base
from engine.results.of_run import lora_of_run
from engine.results.try_request import LoraFile, TryRequest, columns_of, prompts_of
from engine.results.what_now import in_short, snippet, uses
from engine.runs.compare_inputs import compare
from engine.runs.layout import RunDir
from engine.worker import Reporter
from tests.engine.adapters.test_base_weights import TINY
from tests.engine.adapters.tools.conftest import lora_tensors
from tests.engine.training.conftest import MakeRun

SHORT = {
    "training__max_train_steps": 2, "sampling__sample_every_n_steps": 100, "sampling__sample_at_first": True,
    "training__max_check_share": 0, "sampling__sample_prompts": "[\"zed\"]", "memory__mixed_precision": "no",
    "memory__device": "cpu",
}  # fmt: skip


def first_sample(run: RunDir) -> bytes:
    return pixels(sorted(run.samples.glob("*000000*.png"))[0])


def pixels(path: Path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


@pytest.mark.filterwarnings("ignore")
def test_a_run_and_its_base(
    make_run: MakeRun,
    train_here: Callable[[RunDir], int],
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    style = tmp_path / "style.safetensors"
    save_file(lora_tensors(TINY), style)
    listed = {"model__base_weights": json.dumps([str(style)]), "model__base_weights_multiplier": "[0.5]"}
    ours = make_run("ours", **SHORT, **listed)
    assert train_here(ours) == 0
    assert "Merged into the base: style.safetensors at strength 0.5, 3 layers." in capsys.readouterr().out

    metadata = json.loads(read_header(ours.lora_path()).metadata["ss_base_weights"])
    assert [(entry["name"], entry["multiplier"], len(entry["hash"])) for entry in metadata] == [
        ("style.safetensors", 0.5, 64)
    ]

    file = LoraFile(ours.lora_path())
    base = choose_base([file.path])
    columns = columns_of([file], (1.0,), compare=False)
    request = TryRequest(
        base.config, (file.path,), columns[:1], prompts_of(base, file.path, (), {}, lambda _: None), tmp_path, "t"
    )
    ImageGenerator(Reporter(io.StringIO())).generate(request)
    assert pixels(request.image_path(0, 0)) == first_sample(ours), "the base's column has the merged file"
    assert "<lora:style:0.5>" in Image.open(request.image_path(0, 0)).info["parameters"]
    moved = choose_base([file.path], str(tiny_model))
    assert not moved.config.model.base_weights and "base_weights" in moved.reason

    lora = lora_of_run(ours, file.path)
    assert any("lora_name style.safetensors" in line for line in uses(lora)[0].lines)
    assert "<lora:style:0.5> <lora:zed:0.8>" in uses(lora)[1].lines[0]
    assert "pipe.set_adapters(['base1', 'lora'], [0.5, 0.8])" in snippet(lora)
    assert "load that file too" in in_short(lora)[-1]

    assert (same := compare(ours)) is not None and not same.changes
    save_file(lora_tensors(TINY, seed=9), style)
    assert (after := compare(ours)) is not None
    assert after.changes == ("the LoRA in the base style.safetensors changed",)
