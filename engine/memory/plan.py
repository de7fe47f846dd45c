"""How much memory a run will need on its card, and whether the card has it. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

GIB = 2**30
CARDS = (8, 10, 12, 16, 24)
"""GiB of the cards that a plan is compared with."""
CONTEXT = GIB // 2
"""Bytes that CUDA itself and the kernels of torch, cuDNN and cuBLAS take on a card, outside of what torch's allocator
counts: 0.3 to 0.6 GiB on the cards and versions that people report."""
USABLE = 0.97
"""Share of a card's memory that programs can have; the driver keeps the rest."""
PHASES = ("load", "cache", "train", "sample", "frugal", "validate", "save")
"""Of a run, in its order. "frugal" are samples in less memory, which a run turns to by itself when the others do not
fit."""


class PlanCancelled(Exception):
    """The plan is not wanted any more."""


@dataclass(frozen=True)
class Need:
    """One phase of a run, in bytes on the card, CUDA's context apart."""

    phase: str
    allocated: int
    """The most that tensors take at once: what `torch.cuda.max_memory_allocated` will say."""
    reserved: int
    """What torch's allocator takes from the driver for it: an estimate (`engine.planning.segments`)."""
    breakdown: Mapping[str, int] = field(default_factory=dict)
    """The most that tensors take, by what they are: weights, adapter, optimizer, activations, slots, workspace."""

    def stored(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    device: str
    """"cuda", or "cpu" where the run computes there and needs no card."""
    precision: str
    """"no", "fp16" or "bf16"."""
    needs: tuple[Need, ...] = ()
    """In the order of the run; empty on the CPU."""
    notes: tuple[str, ...] = ()
    """What the plan does not show, a sentence each."""
    context: int = CONTEXT
    steps: int | None = None
    disk: int | None = None
    """Bytes that the run will write, where pictures and model are known."""

    @property
    def peak(self) -> Need:
        """The phase that needs the most; of the two ways to draw samples the one in less memory counts."""
        spared = {"sample"} if self.need("frugal") else set()
        return max((need for need in self.needs if need.phase not in spared), key=lambda need: need.reserved)

    @property
    def peak_bytes(self) -> int:
        """What the card must have free: the largest phase and CUDA's context; 0 on the CPU."""
        return self.peak.reserved + self.context if self.needs else 0

    @property
    def breakdown(self) -> dict[str, int]:
        """What `peak_bytes` consist of."""
        if not self.needs:
            return {}
        reserve = self.peak.reserved - self.peak.allocated
        return {**self.peak.breakdown, "reserve": reserve, "context": self.context}

    def need(self, phase: str) -> Need | None:
        """What one phase needs; None where the run has no such phase."""
        return next((need for need in self.needs if need.phase == phase), None)

    def need_or_peak(self, phase: str) -> Need:
        """What one phase needs; where the run has no such phase, what the largest does."""
        return self.need(phase) or self.peak

    def fits(self, card: float) -> bool:
        """Whether a card of so many GiB is enough, with nothing else on it."""
        return self.peak_bytes <= card * GIB * USABLE

    def with_run(self, steps: int | None, disk: int | None) -> Plan:
        """The same with what is known of the run's length and files."""
        return replace(self, steps=steps, disk=disk)

    def as_json(self, free: int | None = None) -> dict[str, Any]:
        """`lorasmith plan --json`.

        Args:
            free: bytes that the card at hand has free now; None: there is none, or it does not tell.
        """
        fits: dict[str, bool | None] = {str(card): self.fits(card) for card in CARDS}
        fits["now"] = None if free is None else self.peak_bytes <= free
        return {
            "peak_gib": gib(self.peak_bytes),
            "peak_phase": self.peak.phase if self.needs else None,
            "phases": {
                need.phase: {"allocated_gib": gib(need.allocated), "reserved_gib": gib(need.reserved)}
                for need in self.needs
            },
            "breakdown": {what: gib(size) for what, size in self.breakdown.items()},
            "fits": fits,
            "free_gib": None if free is None else gib(free),
            "steps": self.steps,
            "disk_gib": None if self.disk is None else gib(self.disk),
            "device": self.device,
            "precision": self.precision,
            "notes": list(self.notes),
        }

    def stored(self) -> dict[str, Any]:
        """As `restored` reads it."""
        return asdict(self)


def restored(stored: Mapping[str, Any]) -> Plan:
    """The plan of `Plan.stored`, from JSON."""
    values = dict(stored)
    values["needs"] = tuple(Need(**need) for need in values["needs"])
    values["notes"] = tuple(values["notes"])
    return Plan(**values)


def gib(size: int) -> float:
    """Bytes as GiB, to three places."""
    return round(size / GIB, 3)
