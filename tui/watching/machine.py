"""Reads the cards and the memory of this machine at intervals, in a thread that nothing waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from engine.hardware import Gpu, GpuReport, gpu_number, list_gpus
from engine.hardware.nvml import NvmlProblem, opened
from engine.hardware.system import memory

SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """Cards and memory at one moment. Memory in bytes."""

    report: GpuReport
    memory_total: int
    memory_free: int

    def cards(self, device: str, processes: int = 1) -> list[Gpu]:
        """The cards that a run with memory.device = `device` computes on; none on the CPU."""
        number = gpu_number(device)
        if number is None:
            return []
        first = number if processes == 1 else 0
        return self.report.visible()[first : first + processes]


class MachineWatch:
    """`latest` is the newest look, None before the first one. A driver that hangs makes it old but blocks nothing.

    Args:
        seconds: between two looks.
        on_look: called in the thread with each look.
    """

    def __init__(self, seconds: float = SECONDS, on_look: Callable[[Machine], object] | None = None) -> None:
        self.latest: Machine | None = None
        self._seconds, self._on_look = seconds, on_look
        self._ended, self._now = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="machine watch", daemon=True).start()

    def look_now(self) -> None:
        """Look at once, and then every few seconds again."""
        self._now.set()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._now.set()

    def _watch(self) -> None:
        with ExitStack() as stack:
            is_open = False
            while not self._ended.is_set():
                self._now.clear()
                report = None
                if not is_open:
                    try:
                        stack.enter_context(opened())  # kept open: opening it at every look would take most of the time
                        is_open = True
                    except NvmlProblem as problem:
                        report = GpuReport(problem=str(problem))
                self.latest = Machine(report or list_gpus(), *memory())
                if self._on_look is not None and not self._ended.is_set():
                    self._on_look(self.latest)
                self._now.wait(self._seconds)
