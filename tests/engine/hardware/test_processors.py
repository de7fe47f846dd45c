"""How many processes a run has on a machine, and can have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.hardware import process_count, processors, require_processors
from engine.hardware.torch_build import TorchBuild
from tests.refusals import refused

CUDA = TorchBuild("2.13.0", "13.0")
CPU = TorchBuild("2.13.0+cpu", None)


@pytest.mark.parametrize(
    ("wanted", "threads", "cards", "device", "most"),
    [
        (64, 2, 0, "auto", 2),
        (3, 2, 0, "auto", 2),
        (2, 2, 0, "auto", None),
        (2, 1, 0, "auto", None),
        (1, 1, 0, "cpu", None),
        (64, 64, 0, "auto", None),
        (3, 8, 2, "auto", 2),
        (2, 8, 1, "cuda:0", 1),
        (2, 8, 2, "cuda", None),
        (3, 8, 2, "cpu", None),
        (9, 8, 2, "cpu", 8),
    ],
)
def test_more_processes_than_processors_are_refused(
    wanted: int, threads: int, cards: int, device: str, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are never too many on a CPU: the demo's preset asks for them."""
    monkeypatch.setattr(processors, "usable_threads", lambda: threads)
    if most is None:
        require_processors(wanted, device, cards)
        return
    with refused("too-many-processes", f"num_processes is {wanted}", f"training.num_processes={most}"):
        require_processors(wanted, device, cards)


@pytest.mark.parametrize(
    ("card", "build", "num_processes", "device", "count"),
    [
        ("two", CUDA, "auto", "auto", 2),
        ("two", CUDA, "auto", "cuda", 2),
        ("two", CUDA, "auto", "cuda:1", 1),
        ("two", CUDA, "auto", "cpu", 1),
        ("two", CPU, "auto", "auto", 1),
        ("two", CUDA, 1, "auto", 1),
        ("two", CUDA, 5, "cpu", 5),
        ("h200", CUDA, "auto", "auto", 1),
    ],
)
def test_automatic_is_every_gpu_that_pytorch_can_use(
    card: str,
    build: TorchBuild,
    num_processes: int | str,
    device: str,
    count: int,
    nvml: Callable[..., object],
) -> None:
    nvml(card, torch=build)
    assert process_count(num_processes, device) == count
