"""Which runs this machine has room for: one on each GPU, or one at a time without any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.queue.entry import Entry

if TYPE_CHECKING:
    from engine.hardware import Gpu


@dataclass(frozen=True)
class Place:
    """Where a run is to train."""

    cards: tuple[str, ...] = ()
    """GPUs that it occupies; none on the CPU."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables that limit it to them."""


class Cards:
    """The cards of this machine.

    Args:
        visible: as CUDA counts them.
        most: the number of runs or cards to use; None: on the CPU one run, else all cards.
    """

    def __init__(self, visible: Sequence[Gpu], most: int | None = None) -> None:
        self._all = [_name(gpu) for gpu in visible]
        self._usable = self._all[:most]
        self._cpu_runs = 1 if most is None or self._all else most

    @classmethod
    def here(cls, most: int | None = None) -> Cards:
        """Those of this machine, after CUDA_VISIBLE_DEVICES."""
        from engine.hardware import list_gpus

        return cls(list_gpus().visible(os.environ), most)

    def uses_gpu(self, entry: Entry) -> bool:
        """Whether the run trains on a GPU here."""
        return entry.device != "cpu" and bool(self._all)

    def refusal(self, entry: Entry) -> str:
        """Why this machine never has room for it; empty where it has."""
        if not self.uses_gpu(entry):
            return ""
        pinned = _pinned(entry)
        if pinned is not None:
            return "" if pinned < len(self._all) else f"It has memory.device={entry.device}, and there is no such card."
        if entry.processes <= len(self._usable):
            return ""
        return f"It takes {entry.processes} cards (training.num_processes), and {len(self._usable)} can be used here."

    def room(self, entry: Entry, running: Sequence[Entry]) -> Place | None:
        """Where it can train beside those that run; None where everything is occupied."""
        if not self.uses_gpu(entry):
            return Place() if sum(not other.cards for other in running) < self._cpu_runs else None
        taken = {card for other in running for card in other.cards}
        pinned = _pinned(entry)
        if pinned is not None:  # its own number of the card must stay right
            card = self._all[pinned]
            return None if card in taken else Place((card,))
        free = [card for card in self._usable if card not in taken]
        if len(free) < entry.processes:
            return None
        chosen = tuple(free[: entry.processes])
        return Place(chosen, (("CUDA_VISIBLE_DEVICES", ",".join(chosen)),))


def _pinned(entry: Entry) -> int | None:
    """The number in "cuda:1"; None where any card may be used."""
    number = entry.device.partition(":")[2]
    return int(number) if entry.processes == 1 and number.isdecimal() else None


def _name(gpu: Gpu) -> str:
    return gpu.uuid or str(gpu.index)
