"""Recovery from losses that are not finite."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import TrainingError

LIMIT = 3
"""Skipped steps in a row after which the run is rolled back to its last saved state."""
OVERFLOW_LIMIT = 20
"""fp16 steps in a row that the gradient scaler may skip: its scale goes from 65536 down to 1/16 in them."""


@dataclass
class Recovery:
    """Counts steps that are not finite. Part of the saved state; a run may be rolled back once."""

    in_a_row: int = 0
    overflows: int = 0
    halvings: int = 0

    def count_good(self) -> None:
        """Count a step with finite loss and gradients."""
        self.in_a_row = 0

    def count_overflow(self, finite: bool) -> bool:
        """Count steps in a row whose scaled fp16 gradients overflowed; whether so many still are normal."""
        self.overflows = 0 if finite else self.overflows + 1
        return self.overflows <= OVERFLOW_LIMIT

    def count_bad(self) -> bool:
        """Count a step without; returns whether to roll back now."""
        self.in_a_row += 1
        return self.in_a_row >= LIMIT

    def roll_back(self, precision: str, rates: dict[str, float]) -> None:
        """Record that the run is rolled back with half the learning rate.

        Raises:
            TrainingError: it already was once; with a diagnosis.
        """
        self.in_a_row = 0
        if self.halvings:
            raise TrainingError(
                f"The loss is not finite {LIMIT} times in a row, again after going back with half the learning rate "
                f"({', '.join(f'{name} {rate:.3g}' for name, rate in rates.items())}).",
                _advice(precision),
                code="loss-not-finite",
            )
        self.halvings += 1


def _advice(precision: str) -> str:
    if precision == "fp16":
        return "fp16 overflows with some models: try memory.mixed_precision=bf16 or no, or a lower learning rate."
    return "The learning rate is too high for this model or optimizer."
