"""The tools' process: it answers, ends when nobody waits any more, and leaves no unfinished file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.adapters.tools.process import run_tool
from engine.adapters.tools.report import LayerLoss, Loss, ToolReport
from engine.adapters.tools.requests import MergeRequest, ResizeRequest
from engine.errors import ModelError
from tests.engine.adapters.tools.conftest import SD15, lora_tensors
from tests.refusals import refused


def test_progress_and_the_report_come_back(saved: Callable[..., Path], tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    out = tmp_path / "out.safetensors"
    request = ResizeRequest(file=str(saved(lora_tensors(SD15))), rank=2, out=str(out))
    report = run_tool(request, lambda *words: calls.append(words))
    assert report.output == str(out) and {loss.name for loss in report.layers} == SD15.keys()
    assert ("resizing", 0, 5) in calls and calls[-1][1] == calls[-1][2]


def test_an_error_keeps_its_kind_and_an_unexpected_one_its_last_line(tmp_path: Path) -> None:
    with refused("model-file-missing") as error:
        run_tool(ResizeRequest(file=str(tmp_path / "a.safetensors"), rank=2, dry_run=True))
    assert isinstance(error.value, ModelError)
    with refused("worker-failed", "Error"):
        run_tool(MergeRequest(files=[(["no path"], 1.0)], dry_run=True))  # type: ignore[list-item]


class Gone(Exception):
    """Whoever waits is gone."""


def test_a_tool_that_is_not_waited_for_ends(saved: Callable[..., Path], tmp_path: Path) -> None:
    def leave(*_: object) -> None:
        raise Gone

    with pytest.raises(Gone):
        run_tool(ResizeRequest(file=str(saved(lora_tensors(SD15))), rank=2, out=str(tmp_path / "o.safetensors")), leave)
    assert [path.name for path in tmp_path.iterdir()] in (["a.safetensors"], ["a.safetensors", "o.safetensors"])


def test_losses_together() -> None:
    layers = [LayerLoss("a", "unet", 3.0, 0.3, 4), LayerLoss("b", "unet", 4.0, 0.0, 2), LayerLoss("c", "te", 0.0, 0.0)]
    loss = Loss.of(layers)
    assert loss is not None and (loss.worst, loss.worst_layer) == (pytest.approx(0.1), "a")
    assert loss.mean == pytest.approx(0.1 / 3) and loss.total == pytest.approx(0.3 / 5)
    assert Loss.of([]) is None and layers[0].kept == pytest.approx(0.99**0.5)
    report = ToolReport("resize", ["a"], None, layers=layers)
    assert report.ranks == {"2": 1, "4": 1} and report.components.keys() == {"unet", "te"}
    assert ToolReport.restored(report.as_json()) == report
