"""The counter against torch's own accounting, and against sums done by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from engine.estimate.worker.counter import StorageCounter, Watching

UNIT = 64 * 128 * 4
"""Bytes of one activation: [64, 128] float32."""
WEIGHT = 128 * 128 * 4


def layers(count: int = 6) -> nn.ModuleList:
    """Frozen, as a base model is: only their inputs get gradients."""
    return nn.ModuleList(nn.Linear(128, 128, bias=False).requires_grad_(False) for _ in range(count))


def plain(stack: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in stack:
        x = torch.sigmoid(layer(x))
    return x


def part(layer: nn.Module, x: Tensor) -> Tensor:
    return torch.sigmoid(layer(x))


def recomputed(stack: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in stack:
        # Random states are no results of operations, and on a GPU they are on the host.
        x = checkpoint(part, layer, x, use_reentrant=False, preserve_rng_state=False)
    return x


def peak_by_torch(work: Callable[[], object]) -> int:
    """The most bytes that torch's allocator had given out at once, by the events of its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        work()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def peak_by_counter(work: Callable[[], object]) -> int:
    counter = StorageCounter("cpu")
    with Watching(counter):
        work()
    return counter.peak


@pytest.mark.parametrize("forward", [plain, recomputed])
def test_a_step_peaks_where_torch_counts_it(forward: Callable[[nn.ModuleList, Tensor], Tensor]) -> None:
    def step() -> None:
        x = torch.ones(64, 128).requires_grad_()
        forward(layers(), x).sum().backward()

    step()  # what torch keeps from a first call is no part of a step
    expected = peak_by_torch(step)
    assert expected > 7 * WEIGHT  # six layers, and more than one activation
    assert peak_by_counter(step) == pytest.approx(expected, abs=4 * 512)


def test_the_forward_keeps_what_the_backward_needs() -> None:
    """By hand: the input, and of each layer the sigmoid's output; at the last one also what goes into the sigmoid."""
    counter = StorageCounter("cpu")
    with Watching(counter):
        stack, x = layers(), torch.ones(64, 128).requires_grad_()
        counter.restart()
        result = plain(stack, x)
        assert counter.live == 6 * WEIGHT + (1 + 6) * UNIT
        assert counter.peak == 6 * WEIGHT + (1 + 7) * UNIT
        del result
        assert counter.live == 6 * WEIGHT + UNIT


def test_checkpointing_keeps_the_inputs_of_the_parts() -> None:
    counter = StorageCounter("cpu")
    with Watching(counter):
        stack, x = layers(), torch.ones(64, 128).requires_grad_()
        result = checkpoint(plain, stack, x, use_reentrant=False)
        assert counter.live == 6 * WEIGHT + 2 * UNIT  # input and result
        del result


def test_each_storage_counts_once_and_whole() -> None:
    counter = StorageCounter("cpu")
    with Watching(counter):
        base = torch.zeros(1000)  # 4000 bytes, in the allocator 4096
        view, same = base[10:], base.view(10, 100)
        same.add_(1)
    assert counter.live == counter.peak == 4096
    del base, same
    assert counter.live == 4096, "the view still holds all of it"
    del view
    assert counter.live == 0


def test_kinds_at_the_peak() -> None:
    counter = StorageCounter("cpu")
    with Watching(counter):
        with counter.kind("weights"):
            weights = torch.zeros(256)
        gradient = torch.zeros(512)
        counter.rename(gradient, "adapter")
        passing = torch.zeros(1024)
        del passing
    assert counter.kinds_at_peak == {"weights": 1024, "adapter": 2048, "activations": 4096, "workspace": 0}
    counter.restart()
    assert counter.peak == counter.live == 1024 + 2048
    del weights, gradient


def test_a_kernels_workspace_counts_while_it_runs() -> None:
    counter = StorageCounter("cpu", lambda operation, *_: 10_000 if "mm" in str(operation) else 0)
    with Watching(counter):
        product = torch.ones(16, 16) @ torch.ones(16, 16)
    assert counter.peak == 3 * 1024 + 10_000
    assert counter.live == 1024
    del product
