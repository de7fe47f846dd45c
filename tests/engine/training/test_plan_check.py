"""Peaks by phase, and the comparison with the plan; the GPU's counters are played."""

from __future__ import annotations

import pytest

from engine.errors import TrainingError
from engine.estimate.plan import GIB, Need, Plan
from engine.runs.events import read_events
from engine.training.plan_check import PlanCheck
from engine.training.session import PhasePeaks, Session
from tests.engine.training.conftest import MakeRun


class Card:
    """A GPU's peak counter."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def use(self, gib: float) -> None:
        self.peak = max(self.peak, int(gib * GIB))

    def reset(self) -> None:
        self.peak = self.live

    @property
    def peaks(self) -> PhasePeaks:
        return PhasePeaks(lambda: self.peak, self.reset)


@pytest.fixture
def card() -> Card:
    return Card()


def test_a_phase_inside_another_one_is_counted_by_itself(card: Card, make_run: MakeRun) -> None:
    with Session(make_run()) as session:
        session.peaks = card.peaks
        with session.phase("load"):
            card.use(1)
        with session.phase("train"):
            card.use(3)
            with session.phase("sample"):
                card.use(5)
            card.use(4)
            with session.phase("save"):
                card.use(2)
    assert {phase: size / GIB for phase, size in session.peaks.bytes.items()} == {
        "load": 1, "train": 4, "sample": 5, "save": 2,
    }  # fmt: skip
    assert session.peaks.highest() == 5 * GIB


def test_the_end_reports_how_far_the_plan_was_off(card: Card, make_run: MakeRun) -> None:
    run = make_run()
    with Session(run) as session:
        session.peaks = card.peaks
        with session.phase("train"):
            card.use(4)
        needs = (Need("train", 5 * GIB, 6 * GIB), Need("sample", 9 * GIB, 9 * GIB))
        PlanCheck(session, session.peaks, lambda: Plan("cuda", "bf16", needs)).report()
    (event,) = [event for event in read_events(run.events_path) if event.type == "memory_plan"]
    assert event.get("planned") == {"train": 5.0} and event.get("measured") == {"train": 4.0}
    assert event.get("difference") == {"train": 0.25}


def test_caches_that_stay_on_the_gpu_are_added_to_the_plan(card: Card, make_run: MakeRun) -> None:
    run = make_run()
    with Session(run) as session:
        session.peaks = card.peaks
        for phase, used in (("load", 2), ("train", 6)):
            with session.phase(phase):
                card.use(used)
        needs = (Need("load", 2 * GIB, 2 * GIB), Need("train", 5 * GIB, 6 * GIB))
        PlanCheck(session, session.peaks, lambda: Plan("cuda", "bf16", needs), kept=GIB).report()
    (event,) = [event for event in read_events(run.events_path) if event.type == "memory_plan"]
    assert event.get("planned") == {"load": 2.0, "train": 6.0} and event.get("difference") == {"load": 0, "train": 0}


def test_a_plan_that_fails_ends_no_run(card: Card, make_run: MakeRun) -> None:
    run = make_run()

    def fail() -> Plan:
        raise TrainingError("The memory plan failed: no.")

    with Session(run) as session:
        PlanCheck(session, card.peaks, fail).report()
    events = list(read_events(run.events_path))
    assert not any(event.type == "memory_plan" for event in events)
    assert any("The memory plan failed: no." in str(event.get("text")) for event in events)
