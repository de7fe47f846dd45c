"""An out-of-memory in numbers, for the process in which it happened and for readers of its events."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from engine.runs.phase import Phase
from engine.text import size_text

PIECES = 0.1
"""Share of the reserved memory that must be unused to count as fragmentation: some always is."""
SIZES = ("requested", "free", "total", "allocated", "reserved")


@dataclass(frozen=True)
class Shortage:
    """An out-of-memory in numbers: bytes, None where unknown."""

    phase: str
    """A value of `Phase`; in a foreign log any text."""
    step: int
    message: str
    """The message of the failed allocation, on one line."""
    device: str
    """"cpu" or "cuda:0"."""
    requested: int | None = None
    free: int | None = None
    total: int | None = None
    """Of the card; on the CPU of the address space where it is limited (ulimit -v), else of the machine."""
    allocated: int | None = None
    """By tensors of this process on the card; on the CPU the resident size of this process."""
    reserved: int | None = None
    """By this process on the card, cached blocks included; on the CPU its address space."""

    @property
    def fragmented(self) -> bool:
        """Whether the reserved and unused memory of this process on the card would have sufficed in one piece."""
        if self.device == "cpu" or self.requested is None or self.reserved is None or self.allocated is None:
            return False
        unused = self.reserved - self.allocated
        return unused >= 2 * self.requested and unused >= PIECES * self.reserved

    def as_event(self) -> dict[str, Any]:
        """The fields of an `oom` event."""
        return asdict(self)

    def sentence(self) -> str:
        """What happened, where, and the numbers."""
        where = f"{Phase.label_of(self.phase)} on {self.device}, after step {self.step}"
        parts = []
        if self.requested is not None:
            parts.append(f"{size_text(self.requested)} more were asked for")
        if self.free is not None and self.total is not None:
            parts.append(f"{size_text(self.free)} of {size_text(self.total)} were free")
        elif self.total is not None:
            parts.append(f"{size_text(self.total)} is all there is")
        text = f"Memory ran out while {where}: {', '.join(parts) or self.message.rstrip('.')}."
        if self.fragmented and self.reserved is not None and self.allocated is not None:
            text += f" {size_text(self.reserved - self.allocated)} are reserved and unused, but in pieces."
        return text
