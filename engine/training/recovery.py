"""Recovery from losses that are not finite."""

from __future__ import annotations

import math
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

    def problem_of(self, loss: float, norm: float, *, scaled: bool) -> str:
        """Count a step; returns which of its values makes it a bad one, empty: none.

        Args:
            norm: of the gradients.
            scaled: whether the loss was scaled (fp16), so that some overflows are normal: the scale is halved in them.
        """
        if not math.isfinite(loss):
            return f"loss {loss}"
        self.overflows = 0 if math.isfinite(norm) else self.overflows + 1
        if self.overflows > (OVERFLOW_LIMIT if scaled else 0):
            return f"gradient norm {norm}"
        self.in_a_row = 0
        return ""

    def count_bad(self) -> bool:
        """Count a step with a problem; returns whether to roll back now."""
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
