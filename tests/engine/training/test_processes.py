"""Two processes on one run: one file, the same bytes each time, and nobody left behind."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable

import psutil
import pytest
import torch
from safetensors.torch import load_file

from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.runs import prepare_resume, request
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from tests.engine.training.conftest import MakeRun, start, start_ranks
from tests.engine.training.test_kills import until_step
from tests.forked import ForkedTrainer, fork_ranks
from tests.gone import still_there

TWO = {
    "training__num_processes": 2,
    "training__max_train_steps": 6,
    "saving__save_state_every_n_steps": 2,
    "sampling__sample_every_n_steps": 3,
    "saving__save_every_n_epochs": 0,
    "network__module_dropout": 0.3,
}


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.path / "zed.safetensors").read_bytes()).hexdigest()


def test_a_run_with_too_many_processes_ends_before_it_starts_any(
    make_run: MakeRun, train_here: Callable[[RunDir], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.hardware.processors.usable_threads", lambda: 2)
    run = make_run(training__num_processes=64, memory__device="cpu")
    assert train_here(run) == ExitCode.USAGE
    assert "this machine has 2 CPU cores" in json.loads(run.exit_path.read_text())["message"]
    assert not [process for process in psutil.Process().children() if "engine.training" in process.cmdline()]


@pytest.mark.slow  # three times two processes, of which one imports torch
@pytest.mark.timeout(600)
def test_two_processes_are_deterministic_and_resume_exactly(make_run: MakeRun) -> None:
    straight, halted = make_run("straight", **TWO), make_run("halted", **TWO)
    assert start_ranks(straight).wait(timeout=300) == ExitCode.DONE, straight.log_path.read_text()[-3000:]
    steps = [event.data["step"] for event in read_events(straight.events_path) if event.type == "step"]
    assert steps == [1, 2, 3, 4, 5, 6]
    notes = " ".join(e.data["text"] for e in read_events(straight.events_path) if e.type == "note")
    assert "3 steps an epoch (2 processes)" in notes

    process = start(halted)
    until_step(halted, process, 3)
    ranks = [rank.pid for rank in psutil.Process(process.pid).children()]
    assert len(ranks) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert still_there(ranks) == [], "a rank outlived its leader"
    prepare_resume(halted)
    assert start_ranks(halted).wait(timeout=300) == ExitCode.DONE, halted.log_path.read_text()[-3000:]
    assert digest(straight) == digest(halted)


def numbers_by_place() -> None:
    """`before` of a trainer: the second batch of a step gets the same noise as the second rank's batch."""
    from engine.training import loader, step
    from engine.training.seeds import derive, generator

    loader.generator = lambda seed, name, step, micro, rank: generator(seed, name, step, micro + rank, 0)  # type: ignore[assignment]
    step.derive = lambda seed, name, step, micro, rank: derive(seed, name, step, micro + rank, 0)  # type: ignore[assignment]


def ranks_by_place() -> None:
    """The same for a trainer with several processes; parts of the gradients are small enough that there are several."""
    from engine.training import gradient_buckets

    gradient_buckets.BUCKET_VALUES = 2000
    numbers_by_place()
    fork_ranks()


@pytest.mark.slow  # a training in one process, and one in two
@pytest.mark.timeout(600)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_two_ranks_learn_the_same_as_one_with_twice_the_batch(precision: str, make_run: MakeRun) -> None:
    """Up to the order in which numbers are added."""
    plain = {**TWO, "network__module_dropout": 0.0, "memory__mixed_precision": precision}
    two = make_run("two", **plain)
    alone = make_run("alone", **{**plain, "training__num_processes": 1, "training__gradient_accumulation_steps": 2})
    for run, before in ((two, ranks_by_place), (alone, numbers_by_place)):
        assert ForkedTrainer(run, before).wait(timeout=300) == ExitCode.DONE, run.log_path.read_text()[-3000:]
    losses, norms = (
        [[event.data[key] for event in read_events(run.events_path) if event.type == "step"] for run in (two, alone)]
        for key in ("loss", "grad_norm")
    )
    exact = 1e-5 if precision == "no" else 2e-2
    assert losses[0] == pytest.approx(losses[1], rel=exact) and norms[0] == pytest.approx(norms[1], rel=exact * 5)
    ours, theirs = (load_file(run.path / "zed.safetensors") for run in (two, alone))
    assert all(torch.allclose(ours[name].float(), theirs[name].float(), atol=exact) for name in {**ours, **theirs})


@pytest.mark.slow  # three times two processes
@pytest.mark.timeout(600)
def test_a_rate_set_while_two_processes_train_then_a_kill_is_the_same_change_without_the_kill(
    make_run: MakeRun,
) -> None:
    long = {**TWO, "training__max_train_steps": 16, "saving__save_state_every_n_steps": 3}
    broken = make_run("broken", **long)
    process = start_ranks(broken)
    until_step(broken, process, 2)
    request(broken, "set", {"key": "training.unet_lr", "value": 2e-4})
    deadline = time.monotonic() + 120
    while not (changed := [event for event in read_events(broken.events_path) if event.type == "changed"]):
        assert process.poll() is None and time.monotonic() < deadline, broken.log_path.read_text()[-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (change,) = load_config(broken.config_path).training.changes
    assert change == f"{changed[0].data['step']}: training.unet_lr=0.0002"
    prepare_resume(broken)
    assert start_ranks(broken).wait(timeout=300) == ExitCode.DONE, broken.log_path.read_text()[-3000:]

    straight = make_run("straight", **long, training__changes=[change])
    assert start_ranks(straight).wait(timeout=300) == ExitCode.DONE, straight.log_path.read_text()[-3000:]
    assert digest(straight) == digest(broken)
    rates = [event.data["lr"]["unet"] for event in read_events(straight.events_path) if event.type == "step"]
    assert len(rates) == 16 and rates[-1] < 2e-4 < rates[0]
