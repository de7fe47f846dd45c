"""Looking at the machine while a run is watched."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from engine.hardware import Gpu, GpuReport
from tests.nvml.fake import NoCompiler, library, playing
from tui.watching.machine import Machine, MachineWatch
from tui.words.run import card_words

try:
    library()
except NoCompiler as missing:
    pytest.skip(str(missing), allow_module_level=True)


def looked(watch: MachineWatch, condition: Callable[[Machine], object] = bool) -> Machine:
    end = time.monotonic() + 20
    while watch.latest is None or not condition(watch.latest):
        assert time.monotonic() < end, "nothing was seen in time"
        time.sleep(0.02)
    return watch.latest


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("rtx4060ti", ["RTX 4060 Ti", "of 16.0 GiB used", "busy", "°C"]),
        ("unsupported", []),
    ],
)
def test_the_card_in_numbers(machine: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    watch = MachineWatch(0.02)
    with playing(machine):
        watch.start()
        found = looked(watch)
        watch.stop()
    told = card_words(found.cards("auto")[0])
    assert all(word in told for word in words) and "None" not in told
    assert 0 < found.memory_free <= found.memory_total


def test_without_a_driver_the_memory_is_still_seen() -> None:
    watch = MachineWatch(0.02)
    with playing("no_driver"):
        watch.start()
        found = looked(watch)
        watch.stop()
    assert found.report.gpus == [] and found.report.problem and found.memory_total > 0


def test_the_cards_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = Machine(GpuReport(gpus=[Gpu(n, f"card {n}") for n in range(3)]), 2, 1)
    chosen = {device: [gpu.index for gpu in machine.cards(device)] for device in ("auto", "cuda", "cuda:1", "cpu")}
    assert chosen == {"auto": [0], "cuda": [0], "cuda:1": [1], "cpu": []}
    assert [gpu.index for gpu in machine.cards("auto", processes=2)] == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [gpu.index for gpu in machine.cards("auto")] == [2]
