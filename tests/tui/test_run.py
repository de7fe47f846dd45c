"""A run from the shell, with a fake trainer: what is printed where, exit codes, signals, hang-up."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from engine.config import load_config
from engine.runs import RunDir, read_events, true_state, write_exit
from tests.fake_run import trained_on_copies

Lorasmith = Callable[..., "subprocess.CompletedProcess[str]"]
Eventually = Callable[..., None]


def start(command: list[str], trainer: str = "9999 0.02", **streams: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "FAKE_TRAINER": trainer}
    return subprocess.Popen([*command, "--preset", "robot.toml"], text=True, env=environment, **streams)


def test_results_on_stdout_narration_on_stderr(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    done = lorasmith("--preset", "robot.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run_dir.path}/robot.safetensors\n"
    for text in ("if this terminal closes", "training ...", "step 3 of 3, loss", "saved ", "finished at step 3"):
        assert text in done.stderr
    assert "\r" not in done.stderr and "\x1b" not in done.stderr


def test_json_is_the_events(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    done = lorasmith("--preset", "robot.toml", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["seq"] for line in lines] == list(range(7))
    assert done.stdout.encode() == run_dir.events_path.read_bytes()


@pytest.mark.parametrize(("trainer", "code", "text"), [
    ("1 0 early", 1, "ImportError: no such library"),
    ("1 0 nospace", 5, "Storage: No space left. Free some."),
])  # fmt: skip
def test_failures_are_reported(lorasmith: Lorasmith, run_dir: RunDir, trainer: str, code: int, text: str) -> None:
    done = lorasmith("--preset", "robot.toml", trainer=trainer)
    assert done.returncode == code and text in done.stderr and done.stdout == ""


def test_detached_it_shows_how_to_attach(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    done = lorasmith("--preset", "robot.toml", "--detach", trainer="9999 0.02")
    assert done.returncode == 0 and done.stdout == f"{run_dir.path}\n"
    assert f"lorasmith attach {run_dir.path}" in done.stderr
    assert true_state(run_dir).live
    stopped = lorasmith("stop", "robot", "--wait")
    assert stopped.returncode == 0 and "stopped" in stopped.stderr
    assert not true_state(run_dir).live
    attached = lorasmith("attach", str(run_dir.path), "--plain")
    assert attached.returncode == 6 and "stopped at step" in attached.stderr and "lorasmith resume" in attached.stderr
    assert lorasmith("stop", "robot").returncode == 2


def test_detached_a_failure_at_the_start_is_reported(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    done = lorasmith("--preset", "robot.toml", "--detach", trainer="1 0 early")
    assert done.returncode == 1 and "ImportError" in done.stderr


def test_resume_continues_and_shows_only_what_is_new(lorasmith: Lorasmith, run_dir: RunDir, fake_command: list[str],
                                                   eventually: Eventually) -> None:  # fmt: skip
    process = start(fake_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually(lambda: true_state(run_dir).step > 1)
    pid = true_state(run_dir).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and "stopped unexpectedly at step" in errors
    assert "lorasmith resume" in errors and "signal 9" in errors
    second = lorasmith("--preset", "robot.toml")
    assert second.returncode == 2 and "unfinished run (lost" in second.stderr and "lorasmith resume" in second.stderr
    step = true_state(run_dir).step
    done = lorasmith("resume", "robot", "--json", trainer=f"{step + 2} 0.01")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout.splitlines()[0])
    assert first["type"] == "run_started" and first["step"] >= step
    assert lorasmith("resume", "robot").returncode == 2
    assert lorasmith("--preset", "robot.toml").returncode == 0
    assert len(list(run_dir.path.parent.glob("results_2*"))) == 1


def test_a_resume_on_something_else_is_named_and_needs_a_word(lorasmith: Lorasmith, place: Path) -> None:
    run_dir = trained_on_copies(place)
    write_exit(run_dir, "stopped", 6, 2)
    caption = sorted((place / "images").rglob("*.txt"))[0]
    caption.write_text("something else")
    refused = lorasmith("resume", "robot")
    assert refused.returncode == 2 and f"1 caption changed: {caption.name}" in refused.stderr
    assert f"lorasmith resume {run_dir.path} --accept-changes" in refused.stderr
    assert true_state(run_dir).state == "stopped"
    accepted = lorasmith("resume", "robot", "--accept-changes")
    assert accepted.returncode == 0, accepted.stderr
    assert f"Accepted: 1 caption changed: {caption.name}." in accepted.stderr


def test_two_runs_on_one_directory(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    lorasmith("--preset", "robot.toml", "--detach", trainer="9999 0.02")
    second = lorasmith("--preset", "robot.toml")
    assert second.returncode == 2 and "two runs on one directory" in second.stderr
    assert lorasmith("resume", "robot").returncode == 2
    assert true_state(run_dir).live


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_softly(fake_command: list[str], run_dir: RunDir, eventually: Eventually, number: int) -> None:
    process = start(fake_command, stderr=subprocess.PIPE)
    eventually(lambda: true_state(run_dir).step > 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 6
    assert "Once more stops it at once" in errors and "lorasmith resume" in errors
    assert read_events(run_dir.events_path)[-1].get("state") == "stopped"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_two_signals_end_it_at_once(
    fake_command: list[str], run_dir: RunDir, eventually: Eventually, number: int, code: int
) -> None:
    process = start(fake_command, "9999 0.02 stubborn", stderr=subprocess.PIPE)
    eventually(lambda: true_state(run_dir).step > 0)
    process.send_signal(number)
    eventually(lambda: any(event.type == "control_ack" for event in read_events(run_dir.events_path)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    assert "lorasmith resume" in errors
    assert not true_state(run_dir).live


def test_the_terminal_closes(
    fake_command: list[str], lorasmith: Lorasmith, run_dir: RunDir, eventually: Eventually
) -> None:
    """On a pty of its own: a bar is drawn; after the hang-up the training continues and is found again."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(FAKE_TRAINER="9999 0.02", TERM="xterm")
        os.execv(sys.executable, [*fake_command, "--preset", "robot.toml"])
    shown = b""
    while b"[#" not in shown and b"[." not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(child, 0)
    step = true_state(run_dir).step
    eventually(lambda: true_state(run_dir).step > step + 3)
    listed = json.loads(lorasmith("runs", "--json").stdout)["runs"]
    assert [(run["name"], run["state"]) for run in listed] == [("robot", "running")]


def test_out_of_memory_asks_on_the_terminal(fake_command: list[str], run_dir: RunDir) -> None:
    """The remedies stand there with what each saves and costs; a number lets the same run continue with one."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(FAKE_TRAINER="3 0.01 oom", TERM="xterm")
        batch = ["--set", "training.train_batch_size=2"]
        os.execv(sys.executable, [*fake_command, "--preset", "robot.toml", "--on-oom", "ask", *batch])
    shown = b""
    while b"Enter stops here" not in shown:
        shown += os.read(terminal, 4096)
    assert b"1  Batch 1 with accumulation: saves about the activations of 1 of 2 images; costs" in shown
    for answer in (b"9\n", b"1\n"):
        os.write(terminal, answer)
    with suppress(OSError):  # the terminal's other end is closed
        while block := os.read(terminal, 4096):
            shown += block
    assert b"A number from 1 to" in shown and b"training.train_batch_size was 2 and is now 1." in shown
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert load_config(run_dir.config_path).training.train_batch_size == 1
    assert true_state(run_dir).state == "finished"


def test_a_reader_that_goes_away_does_not_end_the_training(
    fake_command: list[str], run_dir: RunDir, eventually: Eventually
) -> None:
    command = [*fake_command, "--preset", "robot.toml", "--json"]
    environment = {**os.environ, "FAKE_TRAINER": "9999 0.02"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(20) == 1 and "The training continues" in errors and "Traceback" not in errors
    assert true_state(run_dir).live


def test_set_asks_waits_and_refuses(lorasmith: Lorasmith, run_dir: RunDir, eventually: Eventually) -> None:
    lorasmith("--preset", "robot.toml", "--detach", trainer="9999 0.02")
    answered = lorasmith("set", "robot", "training.unet_lr=2e-4")
    assert (answered.returncode, answered.stdout) == (0, "done\n")
    asked = lorasmith("set", "robot", "training.unet_lr=3e-4", "--no-wait")
    assert asked.returncode == 0 and asked.stdout == "" and "The trainer answers in the run's events" in asked.stderr
    eventually(lambda: sum(event.type == "control_ack" for event in read_events(run_dir.events_path)) == 2)
    for assignment, text in (
        ("training.unet_lr=fast", "unet_lr"),
        ("network.network_dim=4", "cannot change"),
        ("x=1", "x"),
    ):
        refused = lorasmith("set", "robot", assignment)
        assert refused.returncode == 2 and text in refused.stderr


def test_set_does_not_wait_for_ever(lorasmith: Lorasmith, run_dir: RunDir) -> None:
    lorasmith("--preset", "robot.toml", "--detach", trainer="9999 30")
    late = lorasmith("set", "robot", "training.unet_lr=2e-4", "--timeout", "0.1")
    assert (
        late.returncode == 1 and "No answer in 0.1 seconds: the trainer reads requests between two steps" in late.stderr
    )
    assert len(list(run_dir.control.iterdir())) == 1, "the request stays"
    pid = true_state(run_dir).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_the_command_at_the_end_needs_a_program(lorasmith: Lorasmith, place: Path) -> None:
    refused = lorasmith("--preset", "robot.toml", "--on-end", "gone-program x")
    assert refused.returncode == 2 and "there is no program gone-program" in refused.stderr
    assert not (place / "robot").exists(), "before anything is made"


def test_names_of_any_kind(lorasmith: Lorasmith, place: Path) -> None:
    done = lorasmith("--preset", "robot.toml", "--name", "[ロボット]", "--output_dir", os.fsdecode("out[1]"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{place}/out[1]/[ロボット].safetensors\n"
    assert json.loads(lorasmith("runs", "--json").stdout)["runs"][0]["name"] == "[ロボット]"


def test_a_typed_option_wins_over_the_preset(lorasmith: Lorasmith, place: Path) -> None:
    from engine.config import load_config

    lorasmith("--preset", "robot.toml", "--name", "cat", "--set", "training.seed=7", "--set", "saving.output_name=dog")
    config = load_config(place / "cat" / "results_current" / "cat.toml")
    assert (config.saving.output_name, config.training.seed) == ("cat", 7)
    assert config.model.pretrained_model_name_or_path == "model.safetensors"
