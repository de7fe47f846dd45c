"""What to do when a loss is not a number."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import TrainingError

LIMIT = 3
"""Skipped steps in a row after which the run goes back to its last good state."""
OVERFLOW_LIMIT = 20
"""fp16 steps in a row that the gradient scaler may skip: from its first scale of 65536 it is at 1/16 then."""


@dataclass
class Recovery:
    """Counts steps that are not finite. It belongs to the saved state; going back is allowed once in a run."""

    in_a_row: int = 0
    overflows: int = 0
    halvings: int = 0

    def good(self) -> None:
        """A step had a finite loss and finite gradients."""
        self.in_a_row = 0

    def overflow(self, finite: bool) -> bool:
        """Count steps in a row whose scaled fp16 gradients overflowed; whether that still is the scaler's search."""
        self.overflows = 0 if finite else self.overflows + 1
        return self.overflows <= OVERFLOW_LIMIT

    def bad(self) -> bool:
        """A step had not. Returns whether to go back now."""
        self.in_a_row += 1
        return self.in_a_row >= LIMIT

    def go_back(self, precision: str, rates: dict[str, float]) -> None:
        """Note that the run goes back with half the learning rate.

        Raises:
            TrainingError: it already did once; with the diagnosis.
        """
        self.in_a_row = 0
        if self.halvings:
            raise TrainingError(
                f"The loss is not finite {LIMIT} times in a row, again after going back with half the learning rate "
                f"({', '.join(f'{name} {rate:.3g}' for name, rate in rates.items())}).",
                _advice(precision),
            )
        self.halvings += 1


def _advice(precision: str) -> str:
    if precision == "fp16":
        return "fp16 overflows with some models: try memory.mixed_precision=bf16 or no, or a lower learning rate."
    return "The learning rate is too high for this model or optimizer."
