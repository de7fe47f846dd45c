"""Several processes, one of which runs out of memory: its numbers are reported, whoever learns of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from engine.exit_codes import ExitCode
from engine.processes import parent_token
from engine.runs import RunDir, read_events
from engine.runs.shortage import Shortage
from engine.training import launcher, run_copy
from engine.training import trainer as trainer_module
from engine.training.oom import read_rank_oom
from engine.training.rank_errors import take_rank_errors, write_rank_error
from engine.training.session import Signals
from engine.world import LEADER
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
sys.exit(main([RUN]))
"""


def in_a_process(run: RunDir, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", f"RUN = {str(run.path)!r}\n{code}"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def ranked(rank: int) -> dict[str, str]:
    """The variables of a rank that this process started."""
    world = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return {**world, LEADER: parent_token()}


@pytest.fixture
def run(make_run: MakeRun) -> RunDir:
    """A run whose rank 1 ended for want of memory."""
    run = make_run(training__num_processes=2)
    done = in_a_process(run, REFUSES, **ranked(1))
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


def test_the_holder_of_the_lock_reports_it(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the others leave behind: they were waiting for it."""
    write_rank_error(run, 0, "failed", ExitCode.TRAINING_FAILED, UNEXPECTED)
    monkeypatch.setattr(launcher, "_run_agent", lambda *_: {0: 1, 1: 4})
    assert launcher.train_in_ranks(run, Signals(), 2) == ExitCode.OUT_OF_MEMORY
    require_its_numbers(run)


KNOWN = {"code": "no-images", "title": "Images", "message": "There are no images.", "hint": "Add some."}
UNEXPECTED = {"code": "unexpected", "title": "Unexpected error", "message": "RuntimeError: Connection", "hint": ""}


@pytest.mark.parametrize(
    ("left", "exit_codes", "code", "sentence"),
    [
        ({0: KNOWN, 1: KNOWN}, {0: 3, 1: 3}, "no-images", "There are no images."),
        ({1: KNOWN, 0: UNEXPECTED}, {0: 1, 1: 3}, "no-images", "There are no images."),
        ({0: UNEXPECTED}, {0: 1, 1: -9}, "process-lost", "Rank 1 of 2 training processes was killed by SIGKILL"),
        ({0: UNEXPECTED}, {0: 1, 1: -15}, "unexpected", "RuntimeError: Connection"),
        ({}, {1: -11, 0: -15}, "process-lost", "Rank 1 of 2 training processes was killed by SIGSEGV"),
        ({}, {0: 120}, "process-lost", "Rank 0 of 2 training processes ended with code 120"),
        ({0: KNOWN}, {1: -9}, "no-images", "There are no images."),
        ({}, {}, "process-lost", "ended with code 0"),
    ],
)
def test_what_explains_the_end_is_reported(
    left: dict[int, dict[str, str]],
    exit_codes: dict[int, int],
    code: str,
    sentence: str,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run(training__num_processes=2)
    for rank, details in left.items():
        known = ExitCode.TRAINING_FAILED if details is UNEXPECTED else ExitCode.BAD_DATA
        write_rank_error(run, rank, "failed", known, details)
    monkeypatch.setattr(launcher, "_run_agent", lambda *_: exit_codes)
    launcher.train_in_ranks(run, Signals(), 2)
    ending = json.loads(run.exit_path.read_text())
    assert (ending["code"], ending["state"]) == (code, "failed") and sentence in ending["message"]
    assert take_rank_errors(run) == []


@pytest.mark.parametrize(
    "record",
    [
        "", "[]", "{", '{"state": "failed"}', '{"state": "finished", "exit_code": 0, "time": 1, "details": {}}',
        '{"state": "failed", "exit_code": 99, "time": 1, "details": {"message": "x"}}',
        '{"state": "failed", "exit_code": 1, "time": "x", "details": {"message": "x"}}',
        '{"state": "failed", "exit_code": 1, "time": 1, "details": {"message": ["x"]}}',
    ],
)  # fmt: skip
def test_a_damaged_record_of_a_rank_counts_as_none(record: str, make_run: MakeRun) -> None:
    run = make_run()
    (run.private / "rank-0.json").write_text(record)
    assert take_rank_errors(run) == [] and not (run.private / "rank-0.json").exists()


def test_rank_0_fails_on_its_absence(run: RunDir, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another launcher. Waiting for a process that is gone is an error of its own, but not the cause."""
    for name, value in ranked(0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(LEADER)
    word = next(run.private.glob("oom-*.json"))
    kept = word.read_bytes()

    def lonely(_: object, _reader: object) -> bool:
        word.write_bytes(kept)  # the other one writes while this one trains
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(run_copy, "common_run", lambda *_: None)  # the other one sees this directory
    monkeypatch.setattr(trainer_module, "train", lonely)
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    require_its_numbers(run)


def test_the_word_of_an_earlier_life_does_not_count(
    run: RunDir, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_run_agent", lambda *_: {1: -9})
    assert train_here(run) == ExitCode.TRAINING_FAILED
    assert json.loads(run.exit_path.read_text())["code"] == "process-lost"
