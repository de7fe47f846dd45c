"""memory.torch_compile = auto: what is decided from what, and runs with both decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.exit_codes import ExitCode
from engine.lowmem import compiled
from engine.lowmem.compile_cache import VARIABLE
from engine.runs import RunDir, read_events
from engine.training import compiling
from tests.engine.training.conftest import MakeRun

SETTINGS = {
    "network__network_train_unet_only": True,
    "training__max_train_steps": 3,
    "sampling__sample_every_n_steps": 0,
    "saving__save_every_n_epochs": 0,
}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Blocks are traced, and no code is made of them: that takes minutes here."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend="eager", **how))
    monkeypatch.setattr(compiled, "why_broken", lambda _: "")
    monkeypatch.setattr(compiling, "why_broken", lambda _: "")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def losses(run: RunDir) -> list[float]:
    return [event.data["loss"] for event in read_events(run.events_path) if event.type == "step"]


def test_without_a_reason_to_compile_the_run_is_that_without_the_setting(
    make_run: MakeRun, train_here: Callable[[RunDir], int], unread_files: None
) -> None:
    plain, auto = make_run("plain", **SETTINGS), make_run("auto", memory__torch_compile="auto", **SETTINGS)
    assert train_here(plain) == train_here(auto) == ExitCode.DONE
    notes = [event.data.get("text", "") for event in read_events(auto.events_path)]
    assert any("Blocks are not compiled: only GPUs with tensor cores gain by it." in str(note) for note in notes)
    assert losses(plain) == losses(auto)
    first, second = (load_file(run.lora_path()) for run in (plain, auto))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_with_one_its_blocks_are_compiled(
    make_run: MakeRun,
    train_here: Callable[[RunDir], int],
    unread_files: None,
    traced: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def never_a_reason(*_: Any, **facts: Any) -> str:
        asked.append(facts)
        return ""

    monkeypatch.setattr(compiling, "why_not", never_a_reason)
    plain, auto = make_run("plain", **SETTINGS), make_run("auto", memory__torch_compile="auto", **SETTINGS)
    assert train_here(plain) == ExitCode.DONE
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert train_here(auto) == ExitCode.DONE
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    (facts,) = asked
    assert facts["updates"] == 3 and not facts["half"] and not facts["has_tokens"]
    assert {images for _, images in facts["sizes"]} <= {1, 2}
    assert losses(auto) == pytest.approx(losses(plain), rel=1e-4)
