"""A run's events in words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs import RunState
from engine.runs.events import event_of
from engine.runs.history import RunHistory
from tui.shell.event_printer import _line
from tui.text.run import answer_text, event_text, time_left


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


@pytest.mark.parametrize(
    ("phase", "state", "words"),
    [
        ("train", "running", "26 s left"),
        ("sample", "running", "26 s left at step 10"),
        ("validate", "running", "26 s left at step 10"),
        ("train", "paused", "paused"),
        ("train", "finished", "ended after 20 s"),
    ],
)
def test_the_time_left_names_the_step_that_it_is_of(phase: str, state: str, words: str) -> None:
    history = RunHistory()
    history.feed([
        event_of("run_started", {}, time=100),
        event_of("phase", {"name": phase, "state": "start"}, time=110),
        event_of("step", {"step": 10, "epoch": 1, "eta_seconds": 26}, time=120),
    ])  # fmt: skip
    assert time_left(history, RunState(state, "", step=10)) == words


@pytest.mark.parametrize(("answer", "words"), [("done", "done"), ("done: the run was paused already",
                                                                  "the run was paused already")])  # fmt: skip
def test_an_answer_in_words(answer: str, words: str) -> None:
    assert answer_text(answer) == words
