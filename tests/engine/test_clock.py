"""The time in files."""

from __future__ import annotations

import time

from engine import clock
from tests.refusals import refused


def test_now_is_the_time_of_the_machine(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = time.time()
    assert before <= clock.now() <= time.time()


def test_a_fixed_time(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert clock.now() == 1_700_000_000.0


def test_a_fixed_time_that_is_no_number(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with refused("clock-not-possible", "SOURCE_DATE_EPOCH", "'today'"):
        clock.now()
