"""Several processes, one of which runs out of memory: rank 0 tells its numbers, whichever way it learns of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from engine.exit_codes import ExitCode
from engine.runs import RunDir, read_events
from engine.runs.shortage import Shortage
from engine.training import trainer as trainer_module
from engine.training.oom import read_rank_oom
from engine.training.processes import LEADER
from tests.engine.training.conftest import ROOT, MakeRun

Train = Callable[[RunDir], int]
REFUSES = """
import sys, types
from engine.training.__main__ import main
def train(session, reader):
    session.step = 5
    with session.phase("train"):
        raise RuntimeError("can't allocate memory: you tried to allocate 99999999999999 bytes")
sys.modules["engine.training.trainer"] = types.SimpleNamespace(train=train)
main([RUN])
"""
WATCHES = """
from types import SimpleNamespace
from engine.runs import RunDir
from pathlib import Path
from engine.training.processes import _watch_workers
from engine.training.session import Session
ended = SimpleNamespace(returncode=4, poll=lambda: 4)
_watch_workers(Session(RunDir(Path(RUN))), [ended])
"""


def in_a_process(run: RunDir, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", f"RUN = {str(run.path)!r}\n{code}"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    """A run whose rank 1 ended for want of memory."""
    run = make_run(training__num_processes=2)
    done = in_a_process(run, REFUSES, **{LEADER: str(os.getpid()), "RANK": "1"})
    assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
    assert "you tried to allocate" in done.stderr, "its traceback is not in the log"
    return run


def require_its_numbers(run: RunDir) -> None:
    events = read_events(run.events_path)
    (oom,) = [event.data for event in events if event.type == "oom"]
    assert (oom["phase"], oom["step"], oom["requested"]) == ("train", 5, 99999999999999)
    assert [event.type for event in events][-3:] == ["oom", "error", "run_finished"]
    ending = json.loads(run.exit_path.read_text())
    assert ending["exit_code"] == ExitCode.OUT_OF_MEMORY and "after step 5" in ending["message"]


def test_its_word_is_read_once(run: RunDir) -> None:
    word = read_rank_oom(run)
    assert isinstance(word, Shortage) and word.requested == 99999999999999 and word.total
    assert read_rank_oom(run) is None


def test_rank_0_sees_that_it_is_gone(run: RunDir) -> None:
    done = in_a_process(run, WATCHES)
    assert done.returncode == ExitCode.OUT_OF_MEMORY, done.stderr
    require_its_numbers(run)


def test_rank_0_fails_on_its_absence(run: RunDir, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a process that is gone is an error of its own, but not the cause."""
    word = next(run.private.glob("oom-*.json"))
    kept = word.read_bytes()

    def lonely(_: object, _reader: object) -> bool:
        word.write_bytes(kept)  # the other one writes while this one trains
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(trainer_module, "train", lonely)
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    require_its_numbers(run)


def test_the_word_of_an_earlier_life_does_not_count(
    run: RunDir, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> bool:
        raise KeyError("surprise")

    monkeypatch.setattr(trainer_module, "train", broken)
    assert train_here(run) == ExitCode.TRAINING_FAILED
