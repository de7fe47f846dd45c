"""The memory plan of a run: what each phase needs on the card, and whether it fits. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.runs.phase import Phase

GIB = 2**30
CARDS = (8, 10, 12, 16, 24)
"""GiB of the cards that a plan is compared with."""
CONTEXT = GIB // 2
"""Bytes that CUDA itself and the kernels of torch, cuDNN and cuBLAS take on a card, outside of what torch's allocator
counts: 0.3 to 0.6 GiB on the cards and versions that people report."""
USABLE = 0.97
"""Share of a card's memory that programs can have; the driver keeps the rest."""
PHASES = tuple(
    phase.value
    for phase in (
        Phase.LOAD, Phase.CACHE, Phase.TRAIN, Phase.SAMPLE, Phase.SAMPLE_LOW_MEMORY, Phase.VALIDATE, Phase.SAVE,
    )
)  # fmt: skip
"""The phases of a plan, in the order of a run. Plain strings, because their repr is part of the cache's keys."""


@dataclass(frozen=True)
class Need:
    """The need of one phase of a run, in bytes on the card, without CUDA's context."""

    phase: str
    allocated: int
    """Peak memory of tensors, as `torch.cuda.max_memory_allocated` will report it."""
    reserved: int
    """What torch's allocator takes from the driver for it: an estimate (`engine.estimate.worker.segments`)."""
    breakdown: Mapping[str, int] = field(default_factory=dict)
    """The peak by kind of tensor: weights, adapter, optimizer, activations, slots, workspace,
    graphs."""

    def stored(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """The memory that a run needs."""

    device: str
    """"cuda", or "cpu" for a run that needs no card."""
    precision: str
    """"no", "fp16" or "bf16"."""
    needs: tuple[Need, ...] = ()
    """In the order of the run; empty on the CPU."""
    notes: tuple[str, ...] = ()
    """Limits of the plan, a sentence each."""
    context: int = CONTEXT
    steps: int | None = None
    disk: int | None = None
    """Bytes that the run will write, if images and model are known."""

    @property
    def peak(self) -> Need:
        """The phase that needs the most; of the two sampling methods the one in less memory counts."""
        ignored = {Phase.SAMPLE} if self.need(Phase.SAMPLE_LOW_MEMORY) else set()
        return max((need for need in self.needs if need.phase not in ignored), key=lambda need: need.reserved)

    @property
    def peak_bytes(self) -> int:
        """What the card must have free: the largest phase and CUDA's context; 0 on the CPU."""
        return self.peak.reserved + self.context if self.needs else 0

    @property
    def breakdown(self) -> dict[str, int]:
        """The components of `peak_bytes`."""
        if not self.needs:
            return {}
        reserve = self.peak.reserved - self.peak.allocated
        return {**self.peak.breakdown, "reserve": reserve, "context": self.context}

    def need(self, phase: str) -> Need | None:
        """The need of one phase; None if the run has no such phase."""
        return next((need for need in self.needs if need.phase == phase), None)

    def need_or_peak(self, phase: str) -> Need:
        """The need of one phase; if the run has no such phase, that of the largest."""
        return self.need(phase) or self.peak

    def fits(self, card: float) -> bool:
        """Whether a card of so many GiB with nothing else on it is enough."""
        return self.peak_bytes <= card * GIB * USABLE

    def with_run(self, steps: int | None, disk: int | None) -> Plan:
        """A copy with the run's number of steps and disk space."""
        return replace(self, steps=steps, disk=disk)

    def as_json(self, free: int | None = None) -> dict[str, Any]:
        """`lorasmith plan --json`.

        Args:
            free: bytes that are free now on this machine's card; None: no card, or unknown.
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
        """For JSON; `restored` reads it."""
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
