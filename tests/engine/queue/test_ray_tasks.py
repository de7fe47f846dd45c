"""Runs as tasks of a Ray cluster: with a Ray that the test plays, and once with a real one, where it is installed."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.queue import ray_tasks
from engine.queue.cards import Place
from engine.queue.entry import FAILED, RUNNING, Entry
from engine.queue.ray_tasks import NODE_FILE, RayCluster, train_on_node
from engine.queue.runner import MOST_LOSSES, QueueRunner
from engine.queue.store import Queue
from engine.runs import EventLog, RunDir, RunLock, StateWriter, write_exit
from engine.runs.events import RunStartedEvent, StepEvent
from engine.runs.layout import write_record
from engine.runs.prepare import prepare_run
from engine.runs.state import read_exit
from tests.engine.queue.conftest import Add
from tests.state_files import write_state

ROOT = Path(__file__).resolve().parents[3]
FAKE = Path(__file__).parents[1] / "runs" / "fake_trainer.py"


class PlayedRay:
    """What `RayCluster` uses of Ray: tasks are the paths of their runs, and end when the test says so."""

    def __init__(self, **resources: float) -> None:
        self.resources = resources
        self.options_of: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, Exception | int] = {}

    def remote(self, function: object) -> PlayedRay:
        return self

    def options(self, **options: Any) -> Any:
        played = self

        class Task:
            def remote(self, path: str) -> str:
                played.options_of[Path(path).name] = options
                return path

        return Task()

    def wait(self, tasks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        return [task for task in tasks if task in self.ended], []

    def get(self, task: str) -> int:
        result = self.ended.pop(task)
        if isinstance(result, Exception):
            raise result
        return result

    def cluster_resources(self) -> Mapping[str, float]:
        return self.resources


def cluster(
    monkeypatch: pytest.MonkeyPatch, most: int | None = None, **resources: float
) -> tuple[RayCluster, PlayedRay]:
    played = PlayedRay(**resources)
    monkeypatch.setattr(ray_tasks, "_connected", lambda address: played)
    return RayCluster("auto", most), played


def entry(device: str = "auto", processes: int = 1) -> Entry:
    return Entry("0001", "a", "/a", 1.0, device=device, processes=processes)


@pytest.mark.parametrize(
    ("resources", "most", "new", "running", "has_room"),
    [
        ({"CPU": 2}, None, entry(), [entry()], True),
        ({"CPU": 2}, None, entry(), [entry(), entry()], False),
        ({"CPU": 2}, None, entry("cpu", 2), [entry()], False),
        ({"CPU": 8, "GPU": 1}, None, entry(), [], True),
        ({"CPU": 8, "GPU": 1}, None, entry(), [entry()], False),
        ({"CPU": 8, "GPU": 1}, None, entry("cpu"), [entry()], True),
        ({"CPU": 8, "GPU": 1}, 4, entry(processes=2), [entry(), entry()], True),
        ({"CPU": 8, "GPU": 1}, 4, entry(processes=2), [entry(), entry(processes=2)], False),
        ({"CPU": 8}, None, entry("cuda"), [], False),
        ({"CPU": 8}, 1, entry(), [], True),
    ],
)
def test_room(
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, float],
    most: int | None,
    new: Entry,
    running: list[Entry],
    has_room: bool,
) -> None:
    machines, _ = cluster(monkeypatch, most, **resources)
    assert (machines.room(new, running) is not None) is has_room and not machines.refusal(new)


@pytest.mark.parametrize(
    ("resources", "new", "asked"),
    [
        ({"CPU": 8, "GPU": 2}, entry(processes=2), (2, 2)),
        ({"CPU": 8, "GPU": 2}, entry("cpu"), (0, 1)),
        ({"CPU": 8}, entry(), (0, 1)),
    ],
)
def test_what_a_task_asks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resources: dict[str, float], new: Entry, asked: tuple[int, int]
) -> None:
    machines, played = cluster(monkeypatch, **resources)
    machines.start(new, RunDir(tmp_path / "a"), Place())
    options = played.options_of["a"]
    assert (options["num_gpus"], options["num_cpus"]) == asked and options["max_retries"] > 0


def test_a_task_that_ray_gives_up_is_submitted_again_and_then_failed(
    monkeypatch: pytest.MonkeyPatch, queue: Queue, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    machines, played = cluster(monkeypatch, CPU=1)
    (item,) = add("a")
    runner = QueueRunner(queue, machines)
    for _ in range(MOST_LOSSES + 1):
        runner.look()
        assert queue.entries()[0].state == RUNNING
        runner.look()  # it waits for a node
        assert [line.what for line in queue.journal.read()][-1] in ("started", "resumed")
        played.ended[item.run_dir] = RuntimeError("The node died.\nWith its address.")
        runner.look()
    (item,) = queue.entries()
    assert (item.state, item.tries, item.reason.code) == (FAILED, MOST_LOSSES + 1, "run-lost")
    assert "The node died." in capsys.readouterr().err
    assert "lost at step 0: The node died." in [line.text for line in queue.journal.read()]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    from engine.config import RunConfig

    return prepare_run(RunConfig().changed(saving={"output_name": "a", "output_dir": str(tmp_path / "a")}))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the task, which end at once with code 0; the node is called "here"."""
    commands: list[list[str]] = []

    def launch(run_dir: RunDir, *, command: list[str], variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
        assert variables.keys() == {"LORASMITH_PARENT"}
        commands.append(command)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(ray_tasks, "launch", launch)
    monkeypatch.setattr(ray_tasks, "_node_name", lambda: "here")
    return commands


def test_a_task_trains_in_a_child(run_dir: RunDir, launched: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    machines, _ = cluster(monkeypatch, CPU=1)
    assert train_on_node(str(run_dir.path)) == 0
    assert launched == [[sys.executable, "-P", "-m", "engine.queue.child", str(run_dir.path)]]
    assert machines.node(entry(), run_dir) == "here"


def test_a_second_try_continues(run_dir: RunDir, launched: list[list[str]]) -> None:
    """Commands that nobody answered are dropped, and the record of the first try does not keep it alive."""
    left_by_a_lost_node(run_dir)
    (run_dir.control / "1.json").write_text('{"command": "stop"}')
    assert train_on_node(str(run_dir.path)) == 0 and len(launched) == 1
    assert not list(run_dir.control.iterdir())


def left_by_a_lost_node(run_dir: RunDir) -> None:
    write_record(run_dir.private / NODE_FILE, {"node": "there"})
    events = EventLog(run_dir.events_path, run_dir.reserve_path)
    events.emit(RunStartedEvent(name="a", pid=1, step=0))
    events.emit(StepEvent(step=3, loss=1.0))
    events.close()
    run_dir.checkpoints.mkdir()
    write_state(run_dir.checkpoints, 2)
    record = run_dir.state_path.read_text().replace('"process_start": ', '"process_start": 9')
    run_dir.state_path.write_text(record)


def test_a_try_after_the_end_does_nothing(run_dir: RunDir, launched: list[list[str]]) -> None:
    left_by_a_lost_node(run_dir)
    write_exit(run_dir, "finished", 0, 3)
    assert train_on_node(str(run_dir.path)) == 0 and not launched


def test_what_is_refused_is_reported(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_a_lost_node(run_dir)

    def refuse(run_dir: RunDir) -> None:
        raise UsageError("It cannot.", "Do.", code="no")

    monkeypatch.setattr(ray_tasks, "prepare_to_resume", refuse)
    assert train_on_node(str(run_dir.path)) == ExitCode.USAGE
    ending = read_exit(run_dir)
    assert ending is not None and (ending["state"], ending["code"], ending["message"]) == ("failed", "no", "It cannot.")


def test_it_waits_for_the_trainer_of_a_lost_node(
    run_dir: RunDir, launched: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock(run_dir.lock_path)
    waited: list[int] = []

    def sleep(_: float) -> None:
        assert not launched
        waited.append(1)
        if len(waited) == 3:
            lock.release()

    monkeypatch.setattr(ray_tasks.time, "sleep", sleep)
    assert train_on_node(str(run_dir.path)) == 0 and len(waited) == 3 and len(launched) == 1


@pytest.mark.parametrize(
    ("host", "state", "seconds", "is_silent"),
    [
        ("there", "running", 5, False),
        ("there", "stopping", 5, False),
        ("there", "running", 300, True),
        ("there", "starting", 5, True),
        (None, "running", 5, True),
    ],
)
def test_without_locks_a_fresh_sign_of_life_counts(
    run_dir: RunDir, host: str | None, state: str, seconds: float, is_silent: bool
) -> None:
    StateWriter(run_dir).update(state=state, force=True)
    record = ray_tasks.read_record(run_dir.state_path)
    record["updated"] -= seconds
    write_record(run_dir.state_path, {**record, "host": host or record["host"]})
    assert ray_tasks._is_silent(run_dir) is is_silent
    assert ray_tasks._has_locks(run_dir)


def test_the_child_ends_with_its_parent(run_dir: RunDir) -> None:
    """The parent of the child is killed, and so is the child, without a signal to it."""
    code = (
        "import subprocess, sys, time\n"
        "from engine.processes import child_variables, trainer_environment\n"
        "environment = {**trainer_environment(), **child_variables()}\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], env=environment)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)"
    )
    inner = (
        "import runpy, sys, types, time\n"
        "runpy.run_module = lambda *_, **__: time.sleep(300)\n"
        "exec(open(__import__('importlib.util').util.find_spec('engine.queue.child').origin).read())"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, inner], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    descriptor = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    assert select.select([descriptor], [], [], 30)[0], "the child outlives its parent"
    os.close(descriptor)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/", "[::1]:{}"])
def test_a_port_without_an_answer(address: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError):
        ray_tasks._require_answer(address.format(port))


@pytest.mark.parametrize("address", ["auto", "local"])
def test_addresses_that_ray_resolves(address: str) -> None:
    ray_tasks._require_answer(address)


@pytest.mark.slow  # a real cluster, and two runs of which one moves
@pytest.mark.timeout(900)
def test_a_node_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "benchmarks/ray_cluster.py", "--runs", "2", "--steps", "6", "--keep", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    moved = [line for line in Queue(tmp_path / "queue").journal.read() if line.text.startswith("moved from")]
    assert len(moved) == 1 and moved[0].node in done.stdout, done.stdout
