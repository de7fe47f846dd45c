"""How long a run was worked on, from the events of several starts."""

from __future__ import annotations

from typing import Any

import pytest

from engine.runs.events import event_of
from engine.runs.working_time import WorkingTime

START, STEP, NOTE = ("run_started", {}), ("step", {"step": 1}), ("note", {"text": "resumed"})
END, KEPT = ("run_finished", {"state": "finished"}), ("saved", {"path": "robot-000001.safetensors"})


def answer(command: str, result: str = "done") -> tuple[str, dict[str, str]]:
    """The trainer's answer to a command."""
    return "control_ack", {"command": command, "result": result}


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0),
        ([(100, START), (110, STEP), (130, END)], 30),
        ([(100, START), (130, END), (9000, START), (9010, STEP), (9020, END)], 50),
        ([(100, START), (130, END), (8990, KEPT), (8991, NOTE), (9000, START), (9020, END)], 50),
        ([(100, START), (120, STEP), (8991, NOTE), (9000, START), (9020, END)], 40),
        ([(100, START), (120, STEP), (9000, START), (9020, STEP)], 40),
        ([(100, START), (110, answer("pause")), (900, answer("continue")), (920, END)], 30),
        ([(100, START), (110, answer("pause")), (900, answer("stop")), (901, END)], 10),
        ([(100, START), (110, answer("pause", "refused: no")), (120, STEP)], 20),
        ([(100, START), (110, answer("pause")), (500, START), (520, END)], 30),
        ([(100, STEP), (130, STEP)], 30),
        ([(100, START), (50, STEP), (70, STEP)], 20),
    ],
)
def test_only_the_time_in_which_a_trainer_works_counts(
    events: list[tuple[float, tuple[str, dict[str, Any]]]], seconds: float
) -> None:
    worked = WorkingTime()
    for moment, (kind, data) in events:
        worked.take(event_of(kind, data, time=moment))
    assert worked.seconds == seconds
