"""Compiled blocks: traced blocks compute what the plain ones do, and whatever cannot be compiled runs as it is.

The graphs run through the backends "eager" and a broken one: what Inductor makes of them takes minutes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.adapters.twins import twin_of
from engine.config.memory import MemoryTable
from engine.hardware.abilities import CPU, abilities
from engine.lowmem import compiled
from engine.lowmem.compile_cache import VARIABLE
from engine.training.attention import recorded_calls
from tests.small_denoisers import Small, small_flux, small_unet


@pytest.fixture(autouse=True)
def no_inductor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: compile_module(self, backend=BACKEND, **how))
    monkeypatch.setattr(compiled, "why_broken", lambda _: "")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


BACKEND: Any = "eager"


def flux() -> Small:
    return small_flux(num_layers=1, num_single_layers=1)


def test_traced_blocks_compute_the_same() -> None:
    plain, traced = (
        flux().climb(gradient_checkpointing=True),
        flux().climb(gradient_checkpointing=True, torch_compile="on"),
    )
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert traced.steps(2) == plain.steps(2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 2
    assert not torch._dynamo.utils.counters["graph_break"]
    assert "2 blocks are compiled in their first step, once for each bucket; those steps take long." in traced.messages


@pytest.mark.parametrize("precision", ["int8_w8a8", "fp8_w8a8"])
def test_products_in_8_bits_are_traced_in_one_piece(precision: str) -> None:
    plain, traced = (flux().climb(base_precision=precision, torch_compile=setting) for setting in ("off", "on"))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert traced.steps(2) == plain.steps(2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_recording_attention_compiles_nothing() -> None:
    """It would compile graphs that no step uses."""
    small = flux().climb(torch_compile="on")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert len(recorded_calls(small.predict)) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert small.steps(1) == flux().climb().steps(1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs + 2


def test_a_block_that_cannot_be_compiled_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setitem(globals(), "BACKEND", broken)
    small = flux().climb(torch_compile="on")
    assert small.steps(2) == flux().climb().steps(2)
    (sentence,) = [text for text in small.messages if "no longer" in text]
    assert "no such instruction" in sentence and "\n" not in sentence


def test_a_compiler_out_of_memory_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Any, inputs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(globals(), "BACKEND", full)
    small = flux()
    small.blocks = small.blocks[1:]
    small.climb(torch_compile="on")
    with pytest.raises(Exception, match="out of memory"):
        small.steps(1)


def test_without_a_compiler_it_is_logged_and_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Failed to find a working C++ compiler.\nTried g++")

    monkeypatch.setattr(torch, "compile", missing)
    small = flux().climb(torch_compile="on")
    expected = "Blocks are not compiled: torch.compile does not work here (Failed to find a working C++ compiler)."
    assert expected in small.messages
    assert not any(block._compiled_call_impl for block in small.blocks)


def test_what_split_mode_moves_is_left_out() -> None:
    small = small_unet().climb(torch_compile="on", split_mode=True, blocks_to_swap=2)
    units = [unit for block in small.blocks for unit in compiled._units(block)]
    left = [unit for unit in units if not unit._compiled_call_impl]
    assert 0 < len(left) < len(units)
    assert f"{len(left)} of {len(units)} blocks are not compiled: split mode moves their weights." in small.messages


def test_the_twin_of_a_compiled_block_does_not_run_the_block() -> None:
    """The check of a saved file would otherwise look at the adapter in memory twice."""
    small = flux().climb(torch_compile="on")
    compiled_block = small.denoiser.single_transformer_blocks[0]
    twin: Any = twin_of(small.denoiser, keep_adapter=False)
    assert compiled_block._compiled_call_impl is not None
    assert not any(module._compiled_call_impl for module in twin.modules())
    assert twin.single_transformer_blocks[0].proj_out is not compiled_block.proj_out


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


@pytest.mark.parametrize("in_a_thread", [False, True])
def test_every_thread_may_compile_more_shapes_than_torch_allows(in_a_thread: bool) -> None:
    """A checkpoint is computed again in a thread of autograd, which does not have the settings of the main one."""
    block, shapes = Doubled(), range(2, 14)
    compiled.compile_blocks([block], torch.device("cpu"), lambda _: None)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]

    with ThreadPoolExecutor(1) as pool:
        for size in shapes:
            pool.submit(block, torch.ones(size)).result() if in_a_thread else block(torch.ones(size))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs == len(shapes)


def test_a_new_shape_is_refused_where_nothing_may_be_compiled() -> None:
    block = Doubled()
    compiled.compile_blocks([block], torch.device("cpu"), lambda _: None)
    block(torch.ones(2))
    with compiled.nothing_compiled():
        assert torch.equal(block(torch.ones(2)), torch.full((2,), 2.0))
        with pytest.raises(RuntimeError, match="recompile"):
            block(torch.ones(3))
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="recompile"):
            pool.submit(block, torch.ones(3)).result()
    assert len(block(torch.ones(3))) == 3


SQUARE = [((1024, 1024), 1)]
TURNED = [((832, 1216), 1), ((1216, 832), 1)]


@pytest.mark.parametrize(
    ("capability", "facts", "memory", "reason"),
    [
        ((7, 5), {}, {}, ""),
        ((8, 6), {"sizes": TURNED, "has_tokens": True}, {}, ""),
        (None, {}, {}, ""),
        ("cpu", {}, {}, "only GPUs with tensor cores gain by it"),
        ((6, 1), {}, {}, "only GPUs with tensor cores gain by it"),
        ((8, 6), {"half": False}, {}, "the model computes in float32"),
        ((8, 6), {}, {"split_mode": True}, "split mode moves the weights"),
        ((8, 6), {"updates": 499}, {},
         "it takes longer than it saves in fewer than 500 steps (500 for each shape of a batch)"),
        ((8, 6), {"sizes": TURNED}, {},
         "it takes longer than it saves in fewer than 1000 steps (500 for each shape of a batch)"),
        ((8, 6), {"sizes": [*SQUARE, ((1024, 1024), 2)], "has_tokens": True}, {},
         "it takes longer than it saves in fewer than 1000 steps (500 for each shape of a batch)"),
    ],
)  # fmt: skip
def test_where_auto_compiles(capability: Any, facts: dict[str, Any], memory: dict[str, Any], reason: str) -> None:
    able = CPU if capability == "cpu" else abilities(capability)
    usual = {"half": True, "updates": 500, "sizes": SQUARE, "has_tokens": False}
    assert compiled.why_not(MemoryTable.model_validate(memory), able, **{**usual, **facts}) == reason
