"""A trainer of its own: launched, followed, stopped, killed, lost, resumed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.atomic import write_text
from engine.exit_codes import ExitCode
from engine.processes import trainer_environment
from engine.runs import Event, RunDir, is_locked, prepare_resume, request, true_state
from engine.runs.events import EventLog, StepEvent, read_events
from engine.runs.follow import explain, follow, skip_history
from engine.runs.launch import log_tail, logout_warning, trainer_command
from engine.runs.state import StateWriter, write_record
from tests.refusals import refused

FAKE = Path(__file__).with_name("fake_trainer.py")
ROOT = FAKE.parents[3]
Start = Callable[..., "subprocess.Popen[bytes]"]
Eventually = Callable[..., None]


def test_a_run_is_followed_to_its_end(prepared: RunDir, start: Start) -> None:
    events: list[Event] = []
    ending = follow(prepared, events.append, process=start(prepared, 3))
    assert ending.exit_code == ExitCode.DONE and ending.state.state == "finished" and ending.explanation == ()
    assert [event.type for event in events] == ["run_started", "phase", "step", "step", "step", "saved", "run_finished"]
    assert [event.seq for event in events] == list(range(7))
    assert log_tail(prepared) == ["fake trainer"]


def test_the_trainer_has_its_own_session_and_no_input(prepared: RunDir, start: Start, eventually: Eventually) -> None:
    process = start(prepared, 1000)
    eventually(lambda: is_locked(prepared.lock_path))
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    files = [str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)]
    assert files == ["/dev/null", str(prepared.log_path), str(prepared.log_path)]


def test_two_viewers_and_a_late_one_see_the_same(prepared: RunDir, start: Start) -> None:
    first: list[Event] = []
    second: list[Event] = []
    process = start(prepared, 20)
    follow(prepared, first.append, process=process, until=lambda event: event.type == "step")
    follower, history = skip_history(prepared)
    follow(prepared, second.append, follower=follower)
    assert first[-1].type == "step" and history + second == read_events(prepared.events_path)


def test_a_command_stops_it(prepared: RunDir, start: Start, eventually: Eventually) -> None:
    process = start(prepared, 10_000)
    request(prepared, "stop")
    assert follow(prepared, lambda _: None, process=process).exit_code == ExitCode.STOPPED
    assert true_state(prepared).state == "stopped"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(prepared: RunDir, start: Start, eventually: Eventually, number: int, code: int) -> None:
    process = start(prepared, 10_000, 0.01, "stubborn")
    eventually(lambda: true_state(prepared).step > 0)
    process.send_signal(signal.SIGHUP)
    process.send_signal(number)
    time.sleep(0.1)
    assert true_state(prepared).live
    process.send_signal(number)
    assert follow(prepared, lambda _: None, process=process).exit_code == code


def test_a_killed_trainer_is_lost_and_explained(prepared: RunDir, start: Start, eventually: Eventually) -> None:
    process = start(prepared, 10_000)
    eventually(lambda: true_state(prepared).step > 2)
    process.kill()
    for own in (process, None):  # seen by the process that started it, and by a viewer
        ending = follow(prepared, lambda _: None, process=own)
        assert ending.state.state == "lost" and ending.exit_code == ExitCode.TRAINING_FAILED
        text = "\n".join(ending.explanation)
        assert (
            "stopped unexpectedly at step" in text
            and "fake trainer" in text
            and "Last event" in text
            and "dmesg" in text
        )
        assert ending.explanation[-1].endswith(f"lorasmith resume {prepared.path}")
    with prepared.events_path.open("ab") as file:
        file.write(b'{"v": 1, "seq"')
    step = true_state(prepared).step
    prepare_resume(prepared)
    resumed = start(prepared, step + 2)
    assert follow(prepared, lambda _: None, process=resumed).exit_code == ExitCode.DONE
    steps = [event.get("step") for event in read_events(prepared.events_path) if event.type == "step"]
    assert steps[-2:] == [step + 1, step + 2]


def test_a_lost_run_has_the_step_of_its_events(prepared: RunDir) -> None:
    """A step is reported at once, state.json is written once a second; after a resume the log may be the older one."""
    log = EventLog(prepared.events_path)
    for step in (54, 55):
        log.emit(StepEvent(step=step, epoch=3))
    log.close()
    moment = read_events(prepared.events_path)[-1].time
    for updated, step in ((moment - 0.5, 55), (moment + 1, 54)):
        write_text(prepared.state_path, json.dumps({"state": "running", "step": 54, "epoch": 3, "updated": updated}))
        state = true_state(prepared)
        assert (state.state, state.step) == ("lost", step)
        assert explain(prepared, state)[0].startswith(f"The run stopped unexpectedly at step {step}:")


def test_a_trainer_that_dies_at_once_shows_its_log(prepared: RunDir, start: Start) -> None:
    ending = follow(prepared, lambda _: None, process=start(prepared, 1, 0, "early"))
    assert ending.exit_code == ExitCode.TRAINING_FAILED
    assert "ImportError: no such library" in "\n".join(ending.explanation)


def test_the_trainers_decision_is_the_exit_code(prepared: RunDir, start: Start) -> None:
    ending = follow(prepared, lambda _: None, process=start(prepared, 1, 0, "nospace"))
    assert ending.exit_code == ExitCode.NO_SPACE and ending.state.detail == "No space left."


def test_its_exit_code_counts_where_exit_json_could_not_be_written(prepared: RunDir, start: Start) -> None:
    process = start(prepared, 1, 0, "nospace")
    process.wait()
    prepared.exit_path.unlink()
    assert follow(prepared, lambda _: None, process=process).exit_code == ExitCode.NO_SPACE


def test_a_second_trainer_on_one_directory_refuses(prepared: RunDir, start: Start, eventually: Eventually) -> None:
    start(prepared, 10_000)
    eventually(lambda: true_state(prepared).step > 0)
    command = [sys.executable, str(FAKE), str(prepared.path), "1", "0"]
    second = subprocess.run(command, capture_output=True, text=True, check=False, env=trainer_environment())
    assert second.returncode != 0 and "already trains in" in second.stderr
    assert true_state(prepared).live
    with refused("run-is-live", prepared.path):
        prepare_resume(prepared)


def test_it_survives_the_terminal_that_started_it(prepared: RunDir, eventually: Eventually) -> None:
    """A starter on a pty of its own; the pty hangs up; the starter dies of it, the trainer continues."""
    code = (
        "import sys, time; from pathlib import Path; from engine.runs import RunDir;"
        "from engine.runs.launch import launch;"
        "launch(RunDir(Path(sys.argv[1])), command=[sys.executable, *sys.argv[2:]]); time.sleep(60)"
    )
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever a test before it has set
        os.chdir(ROOT)
        arguments = [str(prepared.path), str(FAKE), str(prepared.path), "9999", "0.01"]
        os.execv(sys.executable, [sys.executable, "-c", code, *arguments])
    eventually(lambda: true_state(prepared).step > 0)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP
    before = true_state(prepared).step
    eventually(lambda: true_state(prepared).step > before + 3)
    request(prepared, "stop")
    assert follow(prepared, lambda _: None).exit_code == ExitCode.STOPPED


def test_a_run_of_another_machine_is_unknown(prepared: RunDir) -> None:
    old = {"state": "running", "pid": 1, "step": 5, "host": "gpu-server", "boot_id": "b", "updated": 1000.0}
    write_record(prepared.state_path, old)
    state = true_state(prepared)
    assert state.state == "unknown" and "gpu-server" in state.detail and "1970" in state.detail and state.step == 5
    ending = follow(prepared, lambda _: None)
    assert ending.exit_code == ExitCode.TRAINING_FAILED and "gpu-server" in ending.explanation[0]


def test_the_state_has_the_fields_that_scripts_read(prepared: RunDir) -> None:
    from engine.atomic import read_json

    writer = StateWriter(prepared)
    writer.update(state="running", step=3, epoch=1, max_train_steps=10, phase="train")
    record = read_json(prepared.state_path)
    assert {key: record[key] for key in ("state", "pid", "step", "epoch")} == {
        "state": "running", "pid": os.getpid(), "step": 3, "epoch": 1,
    }  # fmt: skip
    writer.update(step=4)
    assert read_json(prepared.state_path)["step"] == 3  # at most once a second
    writer.update(force=True)
    assert read_json(prepared.state_path)["step"] == 4


def test_a_state_that_cannot_be_written_is_counted(prepared: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = StateWriter(prepared)

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "full")

    monkeypatch.setattr(Path, "write_text", full)
    writer.update(state="running")
    assert writer.failures == 1


def test_the_trainers_command(prepared: RunDir) -> None:
    assert trainer_command(prepared) == [sys.executable, "-P", "-m", "engine.training", str(prepared.path)]
    environment = trainer_environment({"PATH": "/bin", "PYTHONPATH": "/mine"})
    assert environment["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/mine"]
    assert environment["HF_HUB_OFFLINE"] == "1" and environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(
    ("kill", "linger", "warns"), [("b true", "no", True), ("b true", "yes", False), ("b false", "no", False)]
)
def test_a_host_that_ends_everything_at_logout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kill: str, linger: str, warns: bool
) -> None:
    for name, answer in (("busctl", kill), ("loginctl", linger)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ("loginctl enable-linger" in (logout_warning() or "")) is warns


def test_the_logs_tail_leaves_progress_bars_out(prepared: RunDir) -> None:
    prepared.log_path.write_bytes(b"first\n 1%|\r 50%|\r100%| done\n\xff\nlast\n")
    assert log_tail(prepared, 3) == ["100%| done", "\ufffd", "last"]
