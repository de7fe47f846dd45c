"""Looks at the cards and the memory of this machine now and then, in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass

from engine.hardware import Gpu, GpuReport, list_gpus
from engine.hardware.nvml import NvmlProblem, opened
from engine.hardware.system import memory

SECONDS = 2.0


@dataclass(frozen=True)
class Machine:
    """One look. Memory in bytes."""

    report: GpuReport
    memory_total: int
    memory_free: int

    def cards(self, device: str, processes: int = 1) -> list[Gpu]:
        """The cards that a run with memory.device = `device` computes on; none on the CPU."""
        if device == "cpu":
            return []
        number = device.partition(":")[2]
        first = int(number) if number.isdecimal() and processes == 1 else 0
        return self.report.visible()[first : first + processes]


class MachineWatch:
    """`latest` is the newest look, None before the first one. A driver that hangs makes it old and stops nothing."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.latest: Machine | None = None
        self._seconds = seconds
        self._over = threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="machine watch", daemon=True).start()

    def stop(self) -> None:
        """No further looks."""
        self._over.set()

    def _watch(self) -> None:
        with ExitStack() as stack:
            try:
                stack.enter_context(opened())  # held open: opening it at every look would cost most of the time
                absent = None
            except NvmlProblem as problem:
                absent = GpuReport(problem=str(problem))
            while not self._over.is_set():
                self.latest = Machine(absent or list_gpus(), *memory())
                self._over.wait(self._seconds)
