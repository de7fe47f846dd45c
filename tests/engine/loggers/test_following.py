"""A logger's process follows a run's events: what arrives, once, whatever becomes of the trainer or of the logger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.config import RunConfig
from engine.runs import EventLog, RunDir, prepare_run
from engine.runs.events import RunFinishedEvent, RunStartedEvent, SampleEvent, StepEvent
from engine.runs.lock import is_locked
from engine.runs.loggers import lock_path, running_loggers
from tests.engine.loggers.fakes import fake_package

COMMAND = [sys.executable, "-P", "-m", "engine.loggers"]
ROOT = Path(__file__).resolve().parents[3]


class World:
    """A run whose trainer is the test itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.packages, self.calls_path = folder, folder / "packages", folder / "calls.jsonl"
        self.config = RunConfig().changed(
            saving={"output_name": "zed", "output_dir": str(folder / "out")},
            logging={"logging_dir": str(folder / "logs"), "log_prefix": "zed-"},
            training={"learning_rate": 0.125},
        )
        self.variables = {"PYTHONPATH": os.pathsep.join([str(self.packages), str(ROOT)]), "CALLS": str(self.calls_path)}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.run: RunDir | None = None

    def prepare(self, **logging: object) -> EventLog:
        self.config = self.config.changed(logging=logging)
        self.run = prepare_run(self.config)
        return EventLog(self.run.events_path)

    def start(self, name: str, events: EventLog, **variables: str) -> subprocess.Popen[bytes]:
        assert self.run is not None
        events.emit(RunStartedEvent(name="zed", pid=os.getpid(), step=0))
        command = [*COMMAND, str(self.run.path), name, str(events.last_seq)]
        environment = {**os.environ, **self.variables, **variables}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.processes.append(process)
        return process

    def follow(self, name: str, events: EventLog, first: int, last: int, **variables: str) -> str:
        """One start of the run with these steps, to its end; what the process reported."""
        process = self.start(name, events, **variables)
        self.steps(events, first, last)
        events.emit(RunFinishedEvent(state="finished", exit_code=0, step=last))
        output, _ = process.communicate(timeout=60)
        return output.decode()

    def steps(self, events: EventLog, first: int, last: int) -> None:
        assert self.run is not None
        self.run.samples.mkdir(exist_ok=True)
        for number in range(first, last + 1):
            epoch = (number + 1) // 2
            events.emit(StepEvent(step=number, epoch=epoch, loss=1 / number, lr={"unet": 0.125}, grad_norm=0.5))  # type: ignore[call-arg]
            if number % 2 == 0:
                path = self.run.samples / f"zed_{number:06d}_00_20250101000000.png"
                Image.new("RGB", (4, 3), (number, 0, 0)).save(path)
                events.emit(SampleEvent(path=str(path), prompt="a zed", index=0, step=number))

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.calls_path.read_text().splitlines()]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    world = World(tmp_path)
    yield world
    for process in world.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def tensorboard_runs(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})


def read_back(folder: Path) -> Any:
    """The event files of a folder, read by TensorBoard's own library."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def points(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value)) for point in accumulator.Scalars(tag)]


def test_tensorboard_reads_what_was_written_and_a_resume_doubles_nothing(world: World) -> None:
    events = world.prepare(log_config=True)
    assert world.follow("tensorboard", events, 1, 4) == ""
    # the run is resumed from step 2: steps 3 and 4 come again
    assert world.follow("tensorboard", events, 3, 6) == ""
    [folder] = tensorboard_runs(world.folder / "logs")
    assert folder.name == "network_train" and folder.parent.name[:6] == "zed-20" and len(folder.parent.name) == 18
    read = read_back(folder)
    assert points(read, "loss/current") == [(number, 1 / number) for number in range(1, 7)]
    assert points(read, "lr/unet") == [(number, 0.125) for number in range(1, 7)]
    assert points(read, "loss/epoch_average") == [(1, 0.75), (2, (1 / 3 + 1 / 4) / 2), (3, (1 / 5 + 1 / 6) / 2)]
    images = read.Images("sample_0")
    assert [(image.step, image.width, image.height) for image in images] == [(2, 4, 3), (4, 4, 3), (6, 4, 3)]
    assert images[0].encoded_image_string[:4] == b"\x89PNG"
    assert "_hparams_/session_start_info" in read.summary_metadata
    assert running_loggers(world.run) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_the_calls_of_trackio_and_wandb(world: World, name: str) -> None:
    fake_package(world.packages, name)
    options = world.folder / "trackers.toml"
    options.write_text('[wandb]\nentity = "team"\n[trackio]\ngroup = "dogs"\n[tensorboard]\nflush_secs = 1\n')
    events = world.prepare(log_tracker_name="dogs", wandb_run_name="first", log_tracker_config=str(options))
    assert world.follow(name, events, 1, 2) == ""
    assert world.follow(name, events, 2, 3) == ""
    calls = world.calls()
    assert [call["call"] for call in calls] == ["init", *["log"] * 4, "finish", "init", *["log"] * 2, "finish"]
    first, second = (call for call in calls if call["call"] == "init")
    assert (first["project"], first["name"], first["config"]) == ("dogs", "first", None)
    if name == "wandb":
        assert first["entity"] == "team" and first["resume"] == "allow" and len(first["id"]) == 8
        assert second["id"] == first["id"] and first["dir"].startswith(str(world.folder / "logs" / "zed-"))
    else:
        assert (first["group"], first["resume"], second["resume"]) == ("dogs", "never", "allow")
    logs = [call for call in calls if call["call"] == "log"]
    assert [log["step"] for log in logs] == ([None] * 6 if name == "wandb" else [1, 2, 2, 2, 3, 3])
    assert logs[0]["values"]["loss/current"] == 1.0
    assert (logs[0]["values"]["global_step"], logs[0]["values"]["epoch"]) == (1, 1)
    assert logs[2]["values"]["sample_0"] == "zed_000002_00_20250101000000.png: a zed"


def test_settings_go_out_only_when_asked_and_without_paths(world: World) -> None:
    fake_package(world.packages, "trackio")
    events = world.prepare(log_config=True)
    world.follow("trackio", events, 1, 1)
    settings = world.calls()[0]["config"]
    assert settings["learning_rate"] == 0.125 and settings["output_name"] == "zed"
    assert settings["optimizer_args"] == "[]"
    assert not {"output_dir", "train_data_dir", "logging_dir", "pretrained_model_name_or_path", "vae"} & settings.keys()


@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is no dependency")
def test_an_offline_run_of_wandb(world: World) -> None:
    events = world.prepare()
    assert world.follow("wandb", events, 1, 3, WANDB_MODE="offline") == ""
    [run] = (world.folder / "logs").glob("zed-*/wandb/offline-run-*")
    assert list(run.glob("run-*.wandb")) and list(run.glob("files/media/images/sample_0_*.png"))


@pytest.mark.parametrize(
    ("mode", "reported"),
    [
        ("fail", "RuntimeError: no such team; the key is ***\n"),
        ("exit", ""),
    ],
)
def test_a_failing_logger_reports_one_line_without_secrets(world: World, mode: str, reported: str) -> None:
    fake_package(world.packages, "wandb")
    events = world.prepare()
    assert world.follow("wandb", events, 1, 2, MODE=mode, WANDB_API_KEY="0123456789") == reported
    assert world.processes[0].returncode != 0


def test_the_rest_is_written_after_the_trainer_is_killed(world: World) -> None:
    """The trainer here is a process that starts the logger and dies; nobody emits the end of the run."""
    events = world.prepare()
    assert world.run is not None
    events.emit(RunStartedEvent(name="zed", pid=1, step=0))
    world.steps(events, 1, 4)
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen({[*COMMAND, str(world.run.path), 'tensorboard', str(events.last_seq)]!r})\n"
        "time.sleep(60)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **world.variables})
    try:
        wait_until(lambda: is_locked(lock_path(world.run, "tensorboard")))
        time.sleep(0.2)
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    wait_until(lambda: not running_loggers(world.run))
    [folder] = tensorboard_runs(world.folder / "logs")
    assert [step for step, _ in points(read_back(folder), "loss/current")] == [1, 2, 3, 4]


def test_a_logger_that_hangs_ends_after_the_trainer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.loggers import following

    ended: list[int] = []
    monkeypatch.setattr(following, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(following.os, "getppid", lambda: 1)
    monkeypatch.setattr(following.os, "_exit", ended.append)
    following.Trainer(2).end_with_it()
    wait_until(lambda: ended == [1])


def test_a_new_start_waits_for_the_logger_of_the_old_one(world: World) -> None:
    """After an out-of-memory the trainer replaces itself: the first logger ends at that event, the second continues."""
    events = world.prepare()
    first = world.start("tensorboard", events)
    world.steps(events, 1, 2)
    second = world.start("tensorboard", events)
    world.steps(events, 3, 4)
    events.emit(RunFinishedEvent(state="finished", exit_code=0, step=4))
    for process in (first, second):
        assert process.communicate(timeout=60)[0] == b"" and process.returncode == 0
    [folder] = tensorboard_runs(world.folder / "logs")
    assert [step for step, _ in points(read_back(folder), "loss/current")] == [1, 2, 3, 4]


def test_a_directory_that_another_run_took_is_left_alone(world: World) -> None:
    """An ended run may be moved away while its logger writes the rest."""
    events = world.prepare()
    process = world.start("tensorboard", events)
    world.steps(events, 1, 2)
    wait_until(lambda: tensorboard_runs(world.folder / "logs"))
    assert world.run is not None
    world.run.path.rename(world.folder / "old")
    world.run = prepare_run(world.config)
    assert process.communicate(timeout=60)[0] == b""
    assert not list(world.run.private.glob("logger-*.json"))


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.05)
