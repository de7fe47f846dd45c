"""Both ends of a worker: a module of the test answers as a real one does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from engine.errors import TrainingError, UsageError
from engine.processes import process_start
from engine.worker import Cancelled, Worker, ask
from tests.refusals import refused

MODULE = "tests.engine.worker_of_the_test"


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))


def test_answers_come_with_their_progress_and_what_libraries_print_is_none() -> None:
    seen: list[tuple[str, int, int]] = []
    answer = ask(MODULE, {"do": "count", "to": 3}, "The count", lambda *progress: seen.append(progress))
    assert answer == {"sum": 6}
    assert seen[0] == ("count", 1, 3) and seen[-1] == ("count", 3, 3)


def test_one_process_answers_several_requests_also_after_an_error() -> None:
    with Worker(MODULE, "The count") as worker:
        assert worker.ask({"do": "count", "to": 2}) == {"sum": 3}
        first = worker._process
        with pytest.raises(UsageError, match="No") as caught:
            worker.ask({"do": "refuse"})
        assert caught.value.hint == "Because."
        assert worker.ask({"do": "count", "to": 1}) == {"sum": 1}
        assert worker._process is first
    assert first is not None and process_start(first.pid) is None


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"do": "break"}, "The count failed: KeyError: 'gone'"),
        ({"do": "leave"}, "The count failed: the card is gone"),
        ({"do": "die"}, "The count failed: its process was ended by SIGKILL."),
    ],
)
def test_a_failure_has_a_reason(request_: dict[str, Any], sentence: str) -> None:
    with Worker(MODULE, "The count", failure=TrainingError, hint="Try again.") as worker:
        with pytest.raises(TrainingError) as caught:
            worker.ask(request_)
        assert caught.value.message == sentence and caught.value.hint == "Try again."
        assert worker.ask({"do": "count", "to": 1}) == {"sum": 1}, "another process answers"


@pytest.mark.parametrize("code", ["", "import sys; sys.stdin.readline()"])
def test_a_command_that_is_no_worker(code: str) -> None:
    worker = Worker("", "The count", command=[sys.executable, "-c", code])
    with refused("worker-failed", "The count", "exit code 0"):
        worker.ask({})


@pytest.mark.parametrize("method", ["cancelled", "closed", "left"])
def test_it_ends_at_any_moment(method: str) -> None:
    worker, waiting = Worker(MODULE, "The count"), True
    messages = worker.messages({"do": "wait"}, lambda: not waiting)
    assert next(messages) == {"event": {"note": "waiting"}}
    process = worker._process
    assert process is not None and process_start(process.pid) is not None
    if method == "cancelled":
        waiting = False
        with pytest.raises(Cancelled):
            next(messages)
    elif method == "left":
        messages.close()
    else:
        worker.close()
    assert process_start(process.pid) is None


def test_with_patience_it_keeps_what_it_has(tmp_path: Path) -> None:
    with Worker(MODULE, "The count", patience=30) as worker:
        messages = worker.messages({"do": "wait", "keep": str(tmp_path / "kept")})
        next(messages)
        messages.close()
    assert (tmp_path / "kept").read_text() == "kept"


def test_it_ends_with_its_parent() -> None:
    code = (
        "import time; from engine.worker import Worker\n"
        f"worker = Worker({MODULE!r}, 'The count'); messages = worker.messages({{'do': 'wait'}}); next(messages)\n"
        "print(worker._process.pid, flush=True); time.sleep(60)"
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
