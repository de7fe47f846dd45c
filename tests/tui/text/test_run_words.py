"""A run's events in words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs.events import event_of
from tui.shell.event_printer import _line
from tui.text.run import event_text


@pytest.mark.parametrize(
    ("data", "screen", "shell"),
    [
        ({"loss": 0.25, "train_loss": 0.5}, "Validation loss 0.2500, step 10",
         "validation loss 0.2500, loss on training images 0.5000 at step 10"),
        ({"loss": 0.25}, "Validation loss 0.2500, step 10", "validation loss 0.2500 at step 10"),
        ({"train_loss": 0.5}, "Loss on training images 0.5000, step 10", "loss on training images 0.5000 at step 10"),
        ({"loss": None, "train_loss": 0.5}, "Validation loss not a number, step 10",
         "validation loss not a number, loss on training images 0.5000 at step 10"),
        ({"train_loss": None}, "Loss on training images not a number, step 10",
         "loss on training images not a number at step 10"),
        ({}, None, None),
    ],
)  # fmt: skip
def test_the_losses_of_a_measurement(data: dict[str, Any], screen: str | None, shell: str | None) -> None:
    """A run without validation images has none of them; that is not a loss that is not a number."""
    event = event_of("validation", {"step": 10, "epoch": 1, **data})
    line = event_text(event)
    assert (line.plain.partition(" ● ")[2] if line else None) == screen
    assert _line(event) == shell
