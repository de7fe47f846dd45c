"""Looks at the cards and the memory of this machine now and then, in a thread that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
    """`latest` is the newest look, None before the first one. A driver that hangs makes it old and stops nothing.

    Args:
        seconds: between two looks.
        tell: called in the thread with each look.
    """

    def __init__(self, seconds: float = SECONDS, tell: Callable[[Machine], object] | None = None) -> None:
        self.latest: Machine | None = None
        self._seconds, self._tell = seconds, tell
        self._over, self._now = threading.Event(), threading.Event()

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="machine watch", daemon=True).start()

    def look_now(self) -> None:
        """Look at once, and then again every few seconds."""
        self._now.set()

    def stop(self) -> None:
        """No further looks."""
        self._over.set()
        self._now.set()

    def _watch(self) -> None:
        with ExitStack() as stack:
            held = False
            while not self._over.is_set():
                self._now.clear()
                report = None
                if not held:
                    try:
                        stack.enter_context(opened())  # held open: opening it at every look would cost most of the time
                        held = True
                    except NvmlProblem as problem:
                        report = GpuReport(problem=str(problem))
                self.latest = Machine(report or list_gpus(), *memory())
                if self._tell is not None and not self._over.is_set():
                    self._tell(self.latest)
                self._now.wait(self._seconds)
