"""Looking at the machine while a run is watched."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from engine.hardware import Gpu, GpuReport
from tests.nvml.fake import NoCompiler, library, playing
from tui.text.run import card_words
from tui.watching.machine import Machine, MachineWatch

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
    ("driver", "words"),
    [
        ("rtx4060ti", ["RTX 4060 Ti", "of 16.0 GiB used", "busy", "°C"]),
        ("unsupported", []),
    ],
)
def test_the_card_in_numbers(driver: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    watch = MachineWatch(0.02)
    with playing(driver):
        watch.start()
        machine = looked(watch)
        watch.stop()
    text = card_words(machine.cards("auto")[0])
    assert all(word in text for word in words) and "None" not in text
    assert 0 < machine.memory_free <= machine.memory_total


def test_without_a_driver_the_memory_is_still_seen() -> None:
    watch = MachineWatch(0.02)
    with playing("no_driver"):
        watch.start()
        machine = looked(watch)
        watch.stop()
    assert machine.report.gpus == [] and machine.report.problem and machine.memory_total > 0


def test_the_cards_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine = Machine(GpuReport(gpus=[Gpu(n, f"card {n}") for n in range(3)]), 2, 1)
    chosen = {device: [gpu.index for gpu in machine.cards(device)] for device in ("auto", "cuda", "cuda:1", "cpu")}
    assert chosen == {"auto": [0], "cuda": [0], "cuda:1": [1], "cpu": []}
    assert [gpu.index for gpu in machine.cards("auto", processes=2)] == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert [gpu.index for gpu in machine.cards("auto")] == [2]
