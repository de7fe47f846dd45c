"""The pace of caching: what is estimated, and when there is no estimate."""

from __future__ import annotations

import pytest

from engine.runs.events import ProgressEvent, event_of
from engine.runs.pace import Pace

Report = tuple[float, int]
CASES: dict[str, tuple[list[Report], int | None, float | None, float | None]] = {
    # (seconds, done) of each report, total, images a second, seconds left
    "none yet": ([], 100, None, None),
    "one report": ([(0, 5)], 100, None, None),
    "too early": ([(0, 0), (1.5, 10)], 100, None, None),
    "steady": ([(0, 0), (2, 10), (4, 20)], 100, 5.0, 16.0),
    "the end": ([(0, 0), (4, 100)], 100, 25.0, 0.0),
    "no total": ([(0, 0), (4, 20)], None, 5.0, None),
    "nothing moves": ([(0, 5), (60, 5)], 100, None, None),
    "cached ones first": ([(0, 0), (1, 9000), *((1 + n, 9000 + n) for n in range(1, 100))], 10_000, 1.0, 901.0),
    "rare reports": ([(0, 0), (1000, 10), (2000, 20)], 100, 0.01, 8000.0),
    "a clock that goes back": ([(100, 0), (90, 10), (94, 18)], 100, 2.0, 41.0),
    "a phase that begins again": ([(0, 0), (9, 90), (10, 0), (14, 4)], 100, 1.0, 96.0),
    "more than all": ([(0, 0), (4, 200)], 100, 50.0, 0.0),
    "longer than a year": ([(0, 0), (1e300, 1)], 2**63, 1e-300, None),
}


def report(time: float, done: int, total: int | None, unit: str = "images") -> ProgressEvent:
    data = {"phase": "cache", "done": done, "total": total, "unit": unit}
    event = event_of("progress", data, time=float(time))
    assert isinstance(event, ProgressEvent)
    return event


@pytest.mark.parametrize("name", CASES)
def test_the_pace_of_the_last_half_minute(name: str) -> None:
    reports, total, rate, left = CASES[name]
    pace = Pace()
    for time, done in reports:
        pace.add(report(time, done, total))
    assert (pace.per_second, pace.seconds_left) == (
        None if rate is None else pytest.approx(rate, rel=0.02),
        None if left is None else pytest.approx(left, rel=0.02),
    )


def test_another_unit_starts_over() -> None:
    pace = Pace()
    for time in range(10):
        pace.add(report(time, 10 * time, 100))
    pace.add(report(10, 95, 100, "captions"))
    assert pace.per_second is None
