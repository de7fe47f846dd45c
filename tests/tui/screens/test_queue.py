"""The queue on the screen: what is shown, what each key does in which state, and adding from the wizard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.queue import Entry, Queue, Reason, queue_directory
from engine.queue.store import NewEntry
from engine.runs import RunDir, RunLock, prepare_run, true_state
from tests.fake_run import PlayedTrainer
from tui.app import LoraSmithApp
from tui.screens import queue as queue_module
from tui.screens.dashboard import DashboardScreen
from tui.screens.home import HomeScreen
from tui.screens.queue import QueueScreen

NARROW, SMALL, WIDE = (80, 24), (60, 16), (120, 36)
Until = Callable[..., Awaitable[None]]
Text = Callable[[LoraSmithApp], str]
Smith = Callable[..., LoraSmithApp]


@pytest.fixture
def queue(home: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.delenv("LORASMITH_QUEUE", raising=False)
    monkeypatch.setattr(queue_module, "SECONDS", 0.05)
    return Queue(queue_directory())


def add(queue: Queue, home: Path, *names: str) -> list[Entry]:
    return queue.add([
        NewEntry(RunConfig().changed(saving={"output_name": name, "output_dir": str(home / name)})) for name in names
    ])  # fmt: skip


def put(queue: Queue, entry: Entry, state: str, **values: object) -> Entry:
    changed = queue.change(entry, lambda present: replace(present, state=state, **values))  # type: ignore[arg-type]
    assert changed is not None
    return changed


async def opened(app: LoraSmithApp, pilot: object, until: Until) -> QueueScreen:
    """The screen, by its key on Home."""
    await until(pilot, lambda: isinstance(app.screen, HomeScreen) and app.screen.runs is not None)
    await pilot.press("Q")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, QueueScreen) and app.screen.look is not None)
    assert isinstance(app.screen, QueueScreen)
    return app.screen


def order(queue: Queue) -> str:
    return "".join(entry.name for entry in queue.entries())


@pytest.mark.parametrize("size", [NARROW, SMALL, WIDE])
async def test_what_is_shown(
    smith: Smith, queue: Queue, home: Path, until: Until, text: Text, size: tuple[int, int]
) -> None:
    a, b, c, _ = add(queue, home, "anna", "bert", "cleo", "dora")
    put(queue, b, "failed", ended=1.0, reason=Reason("x", "Images", "There are none.", "Add some."))
    queue.hold([c])
    put(queue, a, "running", started=a.added, node="here")
    trainer = PlayedTrainer(prepare_run(RunConfig().changed(
        saving={"output_name": "anna", "output_dir": a.run_dir}
    )))  # fmt: skip
    trainer.train(3)
    app = smith()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "3/100" in text(app))
        for words in ("□ not running; p starts it", "▶ running", "‖ held", "○ waiting", "✗ failed", "training on here"):
            assert words in text(app)
        await pilot.press("slash", *"nobody", "enter")
        await until(pilot, lambda: "No entry fits the filter." in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "0 of 4" not in text(app) and "0001" in text(app))
        await pilot.press("end")
        await until(pilot, lambda: "Images: There are none." in text(app) and "Add some." in text(app))
        await pilot.press("home", "enter")
        await until(pilot, lambda: isinstance(app.screen, DashboardScreen))
    trainer.end()


async def test_keys_change_what_waits(smith: Smith, queue: Queue, home: Path, until: Until, text: Text) -> None:
    add(queue, home, "a", "b", "c")
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "0003" in text(app))
        await pilot.press("end", "shift+up")
        await until(pilot, lambda: order(queue) == "acb" and "c was moved." in text(app))
        await pilot.press("K")
        await until(pilot, lambda: order(queue) == "cab")
        await pilot.press("J")
        await until(pilot, lambda: order(queue) == "acb")
        await pilot.press("h")
        await until(pilot, lambda: queue.entries()[1].state == "held" and "Release" in text(app))
        await pilot.press("h")
        await until(pilot, lambda: queue.entries()[1].state == "waiting" and "c waits again." in text(app))
        await pilot.press("d", "down", "enter")
        await until(pilot, lambda: order(queue) == "ab")
        await pilot.press("d", "enter")
        await until(pilot, lambda: isinstance(app.screen, QueueScreen))
        assert order(queue) == "ab"


@pytest.mark.parametrize("state", ["waiting", "held", "running", "finished", "failed", "stopped"])
async def test_only_what_is_possible(smith: Smith, queue: Queue, home: Path, until: Until, state: str) -> None:
    (entry,) = add(queue, home, "a")
    put(queue, entry, state)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        screen = await opened(app, pilot, until)
        await until(pilot, lambda: screen.chosen() is not None)
        waits, has_ended = state in ("waiting", "held"), state in ("failed", "stopped")
        expected = {"move": waits, "hold": waits, "retry": has_ended, "stop": state == "running"}
        for action, possible in {**expected, "remove": state != "running"}.items():
            assert screen.check_action(action, ()) is (True if possible else None), action


async def test_a_deleted_run_is_named_so(smith: Smith, queue: Queue, home: Path, until: Until, text: Text) -> None:
    (entry,) = add(queue, home, "anna")
    put(queue, entry, "finished", started=entry.added, ended=entry.added)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "run deleted" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "The run of anna was deleted or moved. d removes the entry." in text(app))


async def test_retry_and_stop(smith: Smith, queue: Queue, home: Path, until: Until) -> None:
    a, b = add(queue, home, "a", "b")
    put(queue, a, "failed", ended=1.0)
    put(queue, b, "running", started=b.added)
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "b", "output_dir": b.run_dir}))
    trainer = PlayedTrainer(run_dir)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        screen = await opened(app, pilot, until)
        await until(pilot, lambda: screen.chosen() is not None and screen.chosen().name == "b")
        await pilot.press("x", "down", "enter")
        await until(pilot, lambda: trainer.answer() == ["stop"])
        await pilot.press("end", "r")
        await until(pilot, lambda: [entry.state for entry in queue.entries()] == ["running", "waiting"])
    trainer.end()


async def test_start_and_pause(
    smith: Smith, queue: Queue, home: Path, until: Until, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue's process is played by this one: it holds the lock."""
    add(queue, home, "a")
    queue.set_paused(True)
    locks: list[RunLock] = []
    monkeypatch.setattr("engine.queue.start_runner", lambda queue: locks.append(RunLock(queue.private / "lock")))
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "paused; p starts it" in text(app))
        await pilot.press("p")
        await until(pilot, lambda: "▶ running: process" in text(app) and "p Pause" in text(app))
        assert len(locks) == 1 and not queue.paused
        await pilot.press("p")
        await until(pilot, lambda: "starting nothing new" in text(app) and "p Start" in text(app))
        await pilot.press("p")
        await until(pilot, lambda: not queue.paused)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
    assert len(locks) == 1, "a paused process is not started twice"
    locks[0].release()


async def test_an_empty_queue(smith: Smith, queue: Queue, until: Until, text: Text) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "Nothing is here." in text(app))
        await pilot.press("h", "r", "x", "d", "shift+up", "enter")
        await pilot.pause()
        assert isinstance(app.screen, QueueScreen) and not queue.path.exists()


async def test_from_the_wizard(ready: Callable[..., LoraSmithApp], queue: Queue, until: Until, text: Text) -> None:
    app = ready("review")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Ready" in text(app))
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, QueueScreen) and "○ waiting" in text(app))
        (entry,) = queue.entries()
        assert entry.command_line[0] == "lorasmith" and not RunDir(Path(entry.run_dir)).is_run
        assert true_state(RunDir(Path(entry.run_dir))).state == "lost", "nothing was started"
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        assert not app.draft.unfinished
