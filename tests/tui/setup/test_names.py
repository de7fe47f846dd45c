"""Names of runs: the next free one, and which run has a name already."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runs import RunDir, write_exit
from tests.fake_run import PlayedTrainer, prepared_run
from tui.setup.names import Occupied, free_name, next_name, occupied


@pytest.mark.parametrize(("name", "following"), [("robot", "robot-2"), ("robot-2", "robot-3"), ("-3", "-3-2")])
def test_the_next_name(name: str, following: str) -> None:
    assert next_name(name) == following


def test_the_first_name_that_is_free() -> None:
    assert free_name("ann", {"ann", "ann-2", "ann-3"}.__contains__) == "ann-4"


@pytest.mark.parametrize(
    ("state", "step", "part", "needs_decision"),
    [("finished", 20, "kept next to", False), ("stopped", 7, "unfinished", True), ("failed", 0, "kept next to", False)],
)
def test_what_happens_to_an_ended_run(tmp_path: Path, state: str, step: int, part: str, needs_decision: bool) -> None:
    run_dir = prepared_run(tmp_path)
    write_exit(run_dir, state, {"finished": 0, "stopped": 6}.get(state, 1), step)
    there = occupied(run_dir)
    assert part in there.sentence and there.needs_decision is needs_decision and not there.is_live


def test_a_live_run_and_an_empty_place(tmp_path: Path) -> None:
    assert occupied(RunDir(tmp_path / "nothing")) == Occupied()
    trainer = PlayedTrainer(prepared_run(tmp_path))
    try:
        there = occupied(trainer.run_dir)
        assert "training now" in there.sentence and there.needs_decision and there.is_live
    finally:
        trainer.lock.release()
