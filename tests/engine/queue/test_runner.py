"""The loop of the queue's process, with trainers that the tests play: what is started, followed and recorded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import StorageError
from engine.queue import runner as runner_module
from engine.queue.cards import Cards, Place
from engine.queue.entry import FAILED, FINISHED, RUNNING, STOPPED, WAITING, Entry
from engine.queue.local import LocalMachine
from engine.queue.runner import MOST_LOSSES, QueueRunner
from engine.queue.store import Queue
from engine.runs import EventLog, RunDir, launch, prepare_run, request, true_state, write_exit
from engine.runs.events import ControlAckEvent, RunStartedEvent
from engine.runs.inputs import ChangedInputsError
from engine.runs.state import RunState
from tests.engine.queue.conftest import Add
from tests.state_files import write_state

FAKE = Path(__file__).parents[1] / "runs" / "fake_trainer.py"


class PlayedMachines:
    """Room for `most` runs; each has the state that the test sets, else it is running."""

    place = "a test"
    outlives_runner = True

    def __init__(self, most: int = 1) -> None:
        self.most = most
        self.started: list[str] = []
        self.states: dict[str, RunState | None] = {}
        self.nodes: dict[str, str] = {}

    def refusal(self, entry: Entry) -> str:
        return "It takes too many." if entry.processes > 8 else ""

    def kind(self, entry: Entry) -> str:
        return "cpu"

    def room(self, entry: Entry, running: Sequence[Entry]) -> Place | None:
        return Place() if sum(other.processes for other in running) + entry.processes <= self.most else None

    def start(self, entry: Entry, run_dir: RunDir, place: Place) -> str:
        self.started.append(entry.name)
        self.states[entry.name] = RunState("running", "", step=0)
        return "here"

    def state(self, entry: Entry, run_dir: RunDir) -> RunState | None:
        return self.states.get(entry.name)

    def node(self, entry: Entry, run_dir: RunDir) -> str:
        return self.nodes.get(entry.name, entry.node)

    def close(self) -> None: ...


@pytest.fixture
def machines() -> PlayedMachines:
    return PlayedMachines()


@pytest.fixture
def runner(queue: Queue, machines: PlayedMachines) -> QueueRunner:
    return QueueRunner(queue, machines)


def states(queue: Queue) -> dict[str, str]:
    return {entry.name: entry.state for entry in sorted(queue.entries(), key=lambda entry: entry.id)}


def by_name(queue: Queue, name: str) -> Entry:
    return next(entry for entry in queue.entries() if entry.name == name)


def journal(queue: Queue, name: str) -> list[str]:
    return [line.what for line in queue.journal.read() if line.name == name]


def ended(
    machines: PlayedMachines, entry: Entry, state: str, code: int, details: Mapping[str, str] | None = None
) -> None:
    write_exit(RunDir(Path(entry.run_dir)), state, code, 3, **(details or {}))
    machines.states[entry.name] = RunState(state, "", step=3, exit_code=code)


def test_one_after_the_other_in_order(queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines) -> None:
    entries = add("a", "b", "c")
    queue.move(entries[2], "first")
    for name in "cab":
        runner.look()
        assert machines.started[-1] == name and true_state(RunDir(Path(by_name(queue, name).run_dir))).live
        ended(machines, by_name(queue, name), "finished", 0)
    runner.look()
    assert machines.started == ["c", "a", "b"] and set(states(queue).values()) == {FINISHED}
    assert journal(queue, "a") == ["added", "started", "finished"]


def test_a_large_run_is_not_overtaken(queue: Queue, add: Add) -> None:
    machines = PlayedMachines(2)
    add("a")
    add("big", training={"num_processes": 2})
    add("c")
    runner = QueueRunner(queue, machines)
    runner.look()
    assert machines.started == ["a"]
    ended(machines, by_name(queue, "a"), "finished", 0)
    runner.look()
    assert machines.started == ["a", "big"]


def test_a_failure_does_not_stop_the_rest(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines
) -> None:
    add("a", "b")
    runner.look()
    details = {"code": "no-images", "title": "Images", "message": "There are none.", "hint": "Add some."}
    ended(machines, by_name(queue, "a"), "failed", 3, details=details)
    runner.look()
    assert states(queue) == {"a": FAILED, "b": RUNNING}
    assert vars(by_name(queue, "a").reason) == details
    assert "There are none." in queue.journal.read()[-2].text


def test_what_cannot_be_prepared_fails_with_its_reason(
    queue: Queue, add: Add, runner: QueueRunner, tmp_path: Path
) -> None:
    add("a", "b")
    add("big", training={"num_processes": 9})
    (tmp_path / "a").write_text("a file where the run's directory goes")
    runner.look()
    assert states(queue) == {"a": FAILED, "b": RUNNING, "big": FAILED}
    assert by_name(queue, "a").reason.code == "place-is-a-file"
    assert by_name(queue, "big").reason.message == "It takes too many."


@pytest.mark.parametrize("asked", [True, False])
def test_a_stop_is_final_and_a_signal_is_not(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines, asked: bool
) -> None:
    """`lorasmith stop` against the SIGTERM of a machine that shuts down; both end with everything saved."""
    add("a", "b")
    runner.look()
    run_dir = RunDir(Path(by_name(queue, "a").run_dir))
    events = EventLog(run_dir.events_path, run_dir.reserve_path)
    events.emit(RunStartedEvent(name="a", pid=1, step=0))
    events.emit(ControlAckEvent(id="1", command="stop" if asked else "save_now", result="done"))
    events.close()
    ended(machines, by_name(queue, "a"), "stopped", 6)
    runner.look()
    assert states(queue) == ({"a": STOPPED, "b": RUNNING} if asked else {"a": RUNNING, "b": WAITING})
    assert machines.started == (["a", "b"] if asked else ["a", "a"])


def test_a_stop_of_an_earlier_try_is_forgotten(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines
) -> None:
    add("a")
    runner.look()
    run_dir = RunDir(Path(by_name(queue, "a").run_dir))
    events = EventLog(run_dir.events_path, run_dir.reserve_path)
    events.emit(ControlAckEvent(id="1", command="stop", result="done"))
    events.emit(RunStartedEvent(name="a", pid=1, step=3))
    events.close()
    ended(machines, by_name(queue, "a"), "stopped", 6)
    runner.look()
    assert states(queue) == {"a": RUNNING} and journal(queue, "a")[-2:] == ["lost", "resumed"]


def test_a_lost_run_is_resumed_while_it_makes_steps(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines
) -> None:
    add("a", "b")
    runner.look()
    for step in (1, 2, 5, 6, 9, *[9] * (MOST_LOSSES - 1)):
        lose(machines, by_name(queue, "a"), step)
        runner.look()
        assert states(queue)["a"] == RUNNING
    lose(machines, by_name(queue, "a"), 4)
    runner.look()
    assert states(queue) == {"a": FAILED, "b": RUNNING}
    assert by_name(queue, "a").reason.code == "run-lost"
    queue.retry([by_name(queue, "a")])
    assert (by_name(queue, "a").losses, by_name(queue, "a").lost_step) == (0, -1)


def lose(machines: PlayedMachines, entry: Entry, step: int) -> None:
    """Its process is gone; its record names no process of this machine any more."""
    run_dir = RunDir(Path(entry.run_dir))
    record = run_dir.state_path.read_text().replace('"process_start": ', '"process_start": 9')
    run_dir.state_path.write_text(record)
    machines.states[entry.name] = RunState("lost", "the process stopped unexpectedly", step=step)


def test_paused_and_held(queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines) -> None:
    a, b, _ = add("a", "b", "c")
    runner.look()
    queue.hold([b])
    queue.set_paused(True)
    ended(machines, a, "finished", 0)
    runner.look()
    assert machines.started == ["a"]
    queue.set_paused(False)
    runner.look()
    assert machines.started == ["a", "c"]


def test_it_ends_when_nothing_is_left_to_do(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = add("a")
    monkeypatch.setattr(runner_module.time, "sleep", lambda _: ended(machines, entry, "finished", 0))
    released: list[bool] = []
    runner.run(lambda: released.append(True))
    assert released == [True] and states(queue) == {"a": FINISHED}
    assert queue.journal.read()[-1].text == "ended: 1 finished"


def test_a_full_disk_ends_nothing(
    queue: Queue, add: Add, runner: QueueRunner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add("a")

    def full(entry: Entry) -> None:
        raise StorageError("No space is left.", "")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "write", full)
        runner.look()
        runner.look()
    assert capsys.readouterr().out == "No space is left.\n" and states(queue) == {"a": WAITING}
    runner.look()
    assert states(queue) == {"a": RUNNING}


def test_a_move_to_another_node_is_in_the_journal(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines
) -> None:
    add("a")
    runner.look()
    machines.nodes["a"] = "there"
    runner.look()
    runner.look()
    lines = [line for line in queue.journal.read() if line.what == "placed"]
    assert [(line.text, line.node) for line in lines] == [("moved from here to there, at step 0", "there")]


def test_a_restart_takes_over_what_runs(queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines) -> None:
    add("a", "b")
    runner.look()
    again = PlayedMachines()
    again.states["a"] = RunState("running", "", step=7)
    QueueRunner(queue, again).look()
    assert again.started == [] and states(queue) == {"a": RUNNING, "b": WAITING}
    assert journal(queue, "a") == ["added", "started", "adopted"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_restart_prepares_what_was_not_prepared_yet(queue: Queue, add: Add, tmp_path: Path, earlier: bool) -> None:
    """The process was killed between its record and the run directory, where an earlier run may be."""
    run_dir = RunDir(tmp_path / "a")
    if earlier:
        prepare_run(RunConfig().changed(saving={"output_name": "a", "output_dir": str(run_dir.path)}))
        write_exit(run_dir, "finished", 0, 3)
    before = run_dir.meta.get("created", 0.0)
    (entry,) = add("a")
    queue.change(entry, lambda present: replace(present, state=RUNNING, started=before + 1))
    machines = PlayedMachines()
    QueueRunner(queue, machines).look()
    assert machines.started == ["a"] and states(queue) == {"a": RUNNING}
    assert run_dir.meta["created"] > before


def test_a_failed_run_continues_from_its_state_or_starts_over(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines
) -> None:
    for name, has_state in (("a", True), ("b", False)):
        (entry,) = add(name)
        runner.look()
        run_dir = RunDir(Path(entry.run_dir))
        lose(machines, by_name(queue, name), 0)
        ended(machines, by_name(queue, name), "failed", 1, {"title": "T", "message": "M"})
        created = run_dir.meta["created"]
        if has_state:
            run_dir.checkpoints.mkdir()
            write_state(run_dir.checkpoints, 2)
        runner.look()
        queue.retry([by_name(queue, name)])
        runner.look()
        assert states(queue)[name] == RUNNING
        assert journal(queue, name)[-1] == ("resumed" if has_state else "started")
        assert (RunDir(run_dir.path).meta["created"] == created) is has_state
        ended(machines, by_name(queue, name), "finished", 0)
        runner.look()


def test_changed_images_are_the_reason(
    queue: Queue, add: Add, runner: QueueRunner, machines: PlayedMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("a", "b")
    runner.look()
    lose(machines, by_name(queue, "a"), 1)

    def changed(run_dir: RunDir) -> None:
        raise ChangedInputsError(run_dir, ("an image is another one",))

    monkeypatch.setattr(runner_module, "prepare_to_resume", changed)
    runner.look()
    runner.look()
    assert states(queue) == {"a": FAILED, "b": RUNNING}
    assert "an image is another one" in by_name(queue, "a").reason.message


# With processes

Trainers = Callable[[str], None]


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainers]:
    """trainers("STEPS SECONDS MODE"): what trainers do from now on."""
    arguments = ["3", "0.01"]

    def command(run_dir: RunDir) -> list[str]:
        return [sys.executable, str(FAKE), str(run_dir.path), *arguments]

    monkeypatch.setattr(launch, "trainer_command", command)
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", 0.02)

    def play(words: str) -> None:
        arguments[:] = words.split()

    yield play


def test_trainers_on_this_machine(queue: Queue, add: Add, trainers: Trainers, tmp_path: Path) -> None:
    add("a", "b", "c", "d")
    QueueRunner(queue, LocalMachine(Cards([], 2))).run()
    assert set(states(queue).values()) == {FINISHED}
    assert all((tmp_path / name / f"{name}.safetensors").is_file() for name in "abcd")


def test_a_trainer_that_never_begins_is_not_tried_for_ever(queue: Queue, add: Add, trainers: Trainers) -> None:
    trainers("1 0 early")
    add("a")
    QueueRunner(queue, LocalMachine(Cards([]))).run()
    (entry,) = queue.entries()
    assert (entry.state, entry.tries, entry.reason.code) == (FAILED, MOST_LOSSES + 1, "run-lost")
    assert "ImportError: no such library" in entry.reason.hint


def test_stopped_by_a_person(queue: Queue, add: Add, trainers: Trainers, monkeypatch: pytest.MonkeyPatch) -> None:
    trainers("9999 0.02")
    add("a", "b")
    runner = QueueRunner(queue, LocalMachine(Cards([])))

    def stop(_: float) -> None:
        running = [other for other in queue.entries() if other.state == RUNNING]
        for run_dir in (RunDir(Path(other.run_dir)) for other in running):
            if true_state(run_dir).step and not list(run_dir.control.iterdir()):
                request(run_dir, "stop")

    monkeypatch.setattr(runner_module.time, "sleep", stop)
    runner.run()
    assert states(queue) == {"a": STOPPED, "b": STOPPED}


def test_a_second_process_is_refused(queue: Queue, add: Add) -> None:
    from engine.runs.lock import RunLock

    add("a")
    with RunLock(queue.private / "lock"):
        done = subprocess.run(
            [sys.executable, "-m", "engine.queue", str(queue.path)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 2 and "already works" in done.stderr
    assert states(queue) == {"a": WAITING}
