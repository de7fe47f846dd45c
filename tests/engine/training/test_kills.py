"""Killed at any moment, a run continues and ends with the same bytes; signals end it as documented."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import pytest

from engine.exit_codes import ExitCode
from engine.runs import prepare_resume
from engine.runs.events import EventFollower, read_events
from engine.runs.layout import RunDir
from engine.runs.state import true_state
from tests.engine.training.conftest import MakeRun, Process, start, start_process
from tests.forked import ForkedTrainer
from tests.gone import still_there

LONG = {
    "training__max_train_steps": 40,
    "saving__save_state_every_n_steps": 5,
    "sampling__sample_every_n_steps": 10,
    "saving__save_every_n_epochs": 0,
    "saving__save_every_n_steps": 10,
    "memory__cache_latents_to_disk": "true",
}
PHASES = ("load", "cache", "train", "sample", "save")
SOAK = ((70, 1), (30, 2))
"""(kills, processes)"""


def digest(run: RunDir) -> str:
    return hashlib.sha256((run.path / "zed.safetensors").read_bytes()).hexdigest()


def wait_for(run: RunDir, process: Process, phase: str, delay: float) -> bool:
    """Wait until `phase` begins in this life of the trainer, then `delay` seconds; False when the run ended before."""
    follower, its_own = EventFollower(run.events_path), False
    while process.poll() is None:
        for event in follower.poll():
            its_own = its_own or (event.type == "run_started" and event.data["pid"] == process.pid)
            if its_own and event.type == "phase" and (event.data["name"], event.data["state"]) == (phase, "start"):
                time.sleep(delay)
                return True
        time.sleep(0.01)
    return False


def until_step(run: RunDir, process: Process, step: int) -> None:
    follower = EventFollower(run.events_path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, run.log_path.read_text()
        if any(event.type == "step" and event.data["step"] >= step for event in follower.poll()):
            return
        time.sleep(0.01)
    raise AssertionError("the run does not get there")


@pytest.mark.slow  # starts the trainer some ten times
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("kills", "processes"), [(len(PHASES), 1), *(pytest.param(*many, marks=pytest.mark.soak) for many in SOAK)]
)
def test_kills_at_random_moments_change_no_byte(
    kills: int, processes: int, make_run: MakeRun, train_here: Callable[[RunDir], int]
) -> None:
    """Of the process that watches, of one rank, or of all at once. LORASMITH_KILL_SEED gives other moments."""
    steps = 20 if kills == len(PHASES) else 8 * kills
    settings = {**LONG, "training__max_train_steps": steps, "training__num_processes": processes}
    straight = make_run("straight", **settings)
    assert (train_here(straight) if processes == 1 else start_process(straight).wait(600)) == ExitCode.DONE
    run = make_run("killed", **settings, memory__cache_dir=straight.path / "another_cache")
    rng = random.Random(int(os.environ.get("LORASMITH_KILL_SEED", "0")))
    for done in range(kills):
        process = start(run)
        hit = wait_for(run, process, PHASES[done % len(PHASES)], rng.uniform(0, 0.4))
        trainers = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert hit, "the run ended before it could be killed: " + run.log_path.read_text()[-2000:]
        rank_only = len(trainers) > 1 and done % 3 != 0
        for trainer in [rng.choice(trainers[1:])] if rank_only else trainers[: rng.choice((1, len(trainers)))]:
            trainer.kill()
        assert process.wait(60) != ExitCode.DONE
        assert still_there([trainer.pid for trainer in trainers]) == [], "a process outlived the others"
        assert true_state(run).state == ("failed" if rank_only else "lost")
        prepare_resume(run)
    process = start(run)
    assert process.wait(timeout=600) == ExitCode.DONE, run.log_path.read_text()[-2000:]
    assert digest(run) == digest(straight)
    reported = [event.data["step"] for event in read_events(run.events_path) if event.type == "step"]
    assert set(reported) == set(range(1, steps + 1))
    require_no_leftovers(run)


@pytest.mark.slow  # four trainings, two of them in processes of their own
def test_a_kill_changes_no_byte_of_other_kinds(make_run: MakeRun, train_here: Callable[[RunDir], int]) -> None:
    """Of adapters whose state has more than the tensors of a file, and of one with modules of two kinds."""
    for place, network in (
        ("lokr", {"algo": "lokr", "use_scalar": True, "module_dropout": 0.2}),
        ("loha", {"algo": "loha", "train_norm": True, "rank_dropout": 0.2}),
    ):
        settings = {
            **LONG, "training__max_train_steps": 7, "saving__save_every_n_steps": "none",
            "saving__save_state_every_n_steps": 2, "sampling__sample_every_n_steps": 0,
            **{f"network__{key}": value for key, value in network.items()},
        }  # fmt: skip
        straight, run = make_run(f"straight-{place}", **settings), make_run(place, **settings)
        assert train_here(straight) == ExitCode.DONE
        process = ForkedTrainer(run, partial(killed_inside, "state-00000006"))
        assert process.wait(120) == -signal.SIGKILL and true_state(run).state == "lost"
        prepare_resume(run)
        assert start(run).wait(timeout=120) == ExitCode.DONE, run.log_path.read_text()[-2000:]
        assert "Resumed at step 4" in run.log_path.read_text() and digest(run) == digest(straight)


def require_no_leftovers(run: RunDir) -> None:
    """Nothing half written, in the run or its cache, and no process that works on it."""
    left = [path for path in run.path.parent.rglob("*") if path.suffix in (".tmp", ".damaged")]
    assert left == []
    working = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in working if line and str(run.path) in line]


@pytest.mark.parametrize("what", ["LoRA", "state", pytest.param("sample", marks=pytest.mark.soak)])
def test_a_kill_inside_a_write_leaves_nothing_behind(what: str, make_run: MakeRun) -> None:
    """The moment at which the temporary file is whole and has not got its name yet."""
    samples = 10 if what == "sample" else 0
    short = {"training__max_train_steps": 6, "saving__save_every_n_steps": 3, "sampling__sample_every_n_steps": samples}
    run = make_run(**{**LONG, **short})
    process = ForkedTrainer(run, KILLED_INSIDE[what])
    assert process.wait(120) == -signal.SIGKILL
    left = [path.name for path in run.path.rglob("*.tmp")]
    assert len(left) == 1 and str(process.pid) in left[0]
    prepare_resume(run)
    assert start(run).wait(timeout=300) == ExitCode.DONE, run.log_path.read_text()[-2000:]
    require_no_leftovers(run)
    assert "Removed 1 unfinished file" in run.log_path.read_text()


def killed_inside(where: str) -> None:
    """In the trainer's process: it is killed as the file is about to get its name."""
    replace = os.replace

    def struck(source: Any, target: Any, **options: Any) -> None:
        if where in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target, **options)

    os.replace = struck


KILLED_INSIDE = {
    "LoRA": partial(killed_inside, "zed-step00000003"),
    "state": partial(killed_inside, "state-00000005"),
    "sample": partial(killed_inside, "/sample/"),
}


@pytest.mark.parametrize(("number", "begin"), [(signal.SIGTERM, start_process), (signal.SIGINT, start)])
def test_a_signal_finishes_the_step_saves_and_exits(
    number: signal.Signals, begin: Callable[[RunDir], Process], make_run: MakeRun
) -> None:
    run = make_run(
        **{
            **LONG,
            "training__max_train_steps": 4000,
            "sampling__sample_every_n_steps": 0,
            "saving__save_every_n_steps": "none",
        }
    )
    process = begin(run)
    until_step(run, process, 2)
    process.send_signal(number)
    assert process.wait(timeout=60) == ExitCode.STOPPED
    ending = json.loads(run.exit_path.read_text())
    assert ending["state"] == "stopped"
    assert (run.path / f"zed-step{ending['step']:08d}.safetensors").is_file()
    assert (run.checkpoints / f"state-{ending['step']:08d}.safetensors").is_file()
    assert true_state(run).state == "stopped"


def test_a_hang_up_is_ignored_and_a_second_signal_ends_at_once(make_run: MakeRun) -> None:
    run = make_run(
        **{
            **LONG,
            "training__max_train_steps": 4000,
            "sampling__sample_steps": 1000,
            "sampling__sample_every_n_steps": 3,
            "sampling__sample_at_first": "false",
            "saving__save_every_n_steps": "none",
        }
    )
    process = start(run)
    until_step(run, process, 2)
    process.send_signal(signal.SIGHUP)
    assert wait_for(run, process, "sample", 0.2), "it continues after a hang-up"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None, "the first signal waits for the end of the sampling"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == ExitCode.TERMINATED
    assert json.loads(run.exit_path.read_text())["exit_code"] == ExitCode.TERMINATED


def test_a_stop_while_caching_ends_with_nothing_lost(make_run: MakeRun) -> None:
    run = make_run(**{**LONG, "training__max_train_steps": 3})
    process = start(run)
    assert wait_for(run, process, "load", 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == ExitCode.STOPPED
    assert true_state(run).step == 0
    prepare_resume(run)
    assert start(run).wait(timeout=300) == ExitCode.DONE


def test_two_trainers_on_one_directory_are_refused(make_run: MakeRun) -> None:
    run = make_run(**{**LONG, "training__max_train_steps": 4000})
    first = start(run)
    until_step(run, first, 1)
    second = start_process(run)
    assert second.wait(timeout=60) == ExitCode.USAGE
    assert f"process {first.pid} already" in run.log_path.read_text()
    first.kill()
    first.wait()
