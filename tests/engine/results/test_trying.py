"""The drawing process from outside: events, errors, and the end at any moment."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import ModelError
from engine.processes import process_start
from engine.results.try_request import LoraFile, TryRequest, columns_of
from engine.results.trying import GeneratedImage, Note, Progress, TryProcess
from engine.types import SampleRequest
from engine.worker import Cancelled
from tests.refusals import refused

FAKE = Path(__file__).with_name("fake_drawing.py")


def fake(how: str) -> TryProcess:
    return TryProcess([sys.executable, str(FAKE), how])


@pytest.fixture
def request_(tmp_path: Path) -> TryRequest:
    file = LoraFile(tmp_path / "a.safetensors")
    columns = columns_of([file], [0.6, 1.0], compare=False)
    return TryRequest(RunConfig(), (file.path,), columns, (SampleRequest("a robot"),), tmp_path / "out", "a")


def test_images_come_as_they_are_drawn(request_: TryRequest) -> None:
    with fake("draw") as process:
        events = list(process.generate(request_))
        assert events[:3] == [Progress("load"), Note("Precision no: a test."), Progress("draw", 0, 3)]
        drawn = [event for event in events if isinstance(event, GeneratedImage)]
        assert [(event.prompt, event.column) for event in drawn] == [(0, 0), (0, 1), (0, 2)]
        assert all(event.path.is_file() for event in drawn)


def test_one_process_answers_again(request_: TryRequest) -> None:
    with fake("draw") as process:
        list(process.generate(request_))
        first = process._worker._process
        list(process.generate(request_))
        assert process._worker._process is first


def test_an_error_is_the_persons_own_and_the_process_starts_again(request_: TryRequest) -> None:
    with fake("fail") as process:
        for _ in range(2):
            with pytest.raises(ModelError, match=r"It is no model\. Name another\."):
                list(process.generate(request_))


def test_a_process_that_ends_reports_why(request_: TryRequest) -> None:
    with fake("crash") as process, refused("worker-failed", "Drawing", "the card is gone"):
        list(process.generate(request_))


def test_a_command_that_is_no_drawing_process(request_: TryRequest) -> None:
    with TryProcess([sys.executable, "-c", ""]) as process, refused("worker-failed", "exit code 0"):
        list(process.generate(request_))


@pytest.mark.parametrize("way", ["asked", "closed", "left"])
def test_it_ends_at_any_moment_and_keeps_what_is_drawn(request_: TryRequest, way: str) -> None:
    process = fake("hang")
    wanted = True
    events = process.generate(request_, lambda: not wanted)
    drawn = next(event for event in events if isinstance(event, GeneratedImage))
    child = process._worker._process
    assert child is not None and process_start(child.pid) is not None
    if way == "asked":
        wanted = False
        with pytest.raises(Cancelled):
            next(events)
    elif way == "left":
        events.close()  # type: ignore[attr-defined]
    else:
        process.close()
    assert process_start(child.pid) is None
    assert drawn.path.is_file()
    process.close()


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    import subprocess

    code = (
        "import os, subprocess, sys, time; from engine.processes import child_variables\n"
        "child = subprocess.Popen([sys.executable, '-P', '-m', 'engine.drawing'], stdin=subprocess.PIPE,"
        " env={**os.environ, **child_variables()}, start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while process_start(child) is not None:
        assert time.monotonic() < end
        time.sleep(0.05)
