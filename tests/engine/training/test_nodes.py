"""Ranks that another launcher starts, on one machine or on several: the same bytes as ranks that the run starts."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.exit_codes import ExitCode
from engine.runs import prepare_resume, request
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from engine.runs.resume import change_settings
from engine.runs.state import true_state
from tests.engine.training.conftest import MakeRun, start_ranks
from tests.engine.training.test_kills import until_step
from tests.engine.training.test_processes import TWO
from tests.forked import ForkedTrainer


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.path / "zed.safetensors").read_bytes()).hexdigest()


def launch(*directories: RunDir) -> list[ForkedTrainer]:
    """A rank for each directory, as plain variables describe it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(len(directories)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [ForkedTrainer(run, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank, run in enumerate(directories)]


def elsewhere(tmp_path: Path) -> RunDir:
    """A directory on a machine that does not have the run."""
    run = RunDir(tmp_path / "other machine" / "out")
    run.private.mkdir(parents=True)
    return run


@pytest.mark.slow  # seven processes
@pytest.mark.timeout(900)
def test_other_launchers_train_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    straight = make_run("straight", **TWO)
    assert start_ranks(straight).wait(timeout=300) == ExitCode.DONE, straight.log_path.read_text()[-3000:]

    shared = make_run("shared", **TWO)
    ranks = launch(shared, shared)
    assert [rank.wait(300) for rank in ranks] == [0, 0], shared.log_path.read_text()[-3000:]
    assert digest(shared) == digest(straight)
    notes = " ".join(event.data["text"] for event in read_events(shared.events_path) if event.type == "note")
    assert "3 steps an epoch (2 processes)" in notes

    alone, other = make_run("alone", **{**TWO, "training__num_processes": 1}), elsewhere(tmp_path)  # 2 are there
    ranks = launch(alone, other)
    until_step(alone, ranks[0], 3)
    ranks[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert ranks[0].wait(60) == ExitCode.TRAINING_FAILED and time.monotonic() - killed < 30
    assert true_state(alone).state == "failed"
    prepare_resume(alone)
    ranks = launch(alone, other)
    assert [rank.wait(300) for rank in ranks] == [0, 0], alone.log_path.read_text() + other.log_path.read_text()
    tensors, expected = (load_file(run.path / "zed.safetensors") for run in (alone, straight))
    assert all(torch.equal(tensors[name], expected[name]) for name in {**tensors, **expected})
    assert [path.name for path in other.path.rglob("*") if path.is_file()] == ["train.log"], "a rank above 0 wrote"


@pytest.mark.slow  # four processes
@pytest.mark.timeout(600)
def test_a_stop_reaches_every_rank_and_the_run_continues_with_another_number_of_them(make_run: MakeRun) -> None:
    """With half as many ranks an epoch has twice as many steps: the run continues at the same share of the epoch."""
    run = make_run("run", **{**TWO, "training__max_train_steps": 60, "sampling__sample_every_n_steps": 0})
    ranks = launch(run, run)
    until_step(run, ranks[0], 2)
    request(run, "stop")
    assert [rank.wait(120) for rank in ranks] == [ExitCode.STOPPED, ExitCode.DONE]
    stopped = json.loads(run.exit_path.read_text())
    assert stopped["state"] == "stopped"

    change_settings(run, {"training.num_processes": 1})
    prepare_resume(run)
    alone = ForkedTrainer(run)
    assert alone.wait(300) == ExitCode.DONE, run.log_path.read_text()[-3000:]
    events = read_events(run.events_path)
    assert [event.data["step"] for event in events if event.type == "step"] == list(range(1, 61))
    text = " ".join(event.data["text"] for event in events if event.type == "note")
    assert "An epoch had another number of steps before: the run continues at step" in text
