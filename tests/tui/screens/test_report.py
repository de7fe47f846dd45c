"""The dataset report from the step of the folders: its way there and back, what it shows, stopping it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import OptionList

from engine import worker
from engine.errors import DataError
from tests.drawn_images import save, scene
from tui.app import LoraSmithApp
from tui.screens.folders import FoldersScreen
from tui.widgets.thumbnails import Thumbnails

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]
NARROW = (80, 24)


@pytest.fixture
def photos(home: Path) -> Path:
    """Three images, two of them equal; one caption without the trigger word."""
    folder = home / "photos"
    save(folder, "one.png", scene(1, (128, 128)), "4nn4, by a lake")
    save(folder, "copy.png", scene(1, (128, 128)), "4nn4, by the sea")
    save(folder, "two.png", scene(2, (128, 128)), "on a hill")
    return folder


def entered(photos: Path) -> dict[str, Any]:
    return {"folders.name": "anna", "folders.source": str(photos), "folders.trigger": "4nn4"}


async def test_the_report_of_the_folder(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "3 images, all with captions" in text(app) and "^o Check" in text(app))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "3 images: 4 warnings, 1 note" in text(app), 40)
        listed = app.screen.query_one("#findings", OptionList)
        assert app.focused is listed
        assert "! Copies (2)" in text(app)
        await until(pilot, lambda: "Each copy counts" in text(app))
        assert [path.name for path, _ in app.screen.query_one(Thumbnails).images] == ["copy.png", "one.png"]
        await pilot.press("down")
        await until(pilot, lambda: "The trigger word is 4nn4." in text(app))
        assert [path.name for path, _ in app.screen.query_one(Thumbnails).images] == ["two.png"]
        await pilot.press("escape")
        assert isinstance(app.screen, FoldersScreen)


async def test_the_page_is_written_where_one_chooses(
    smith: Smith, until: Until, text: Shown, photos: Path, home: Path
) -> None:
    app = smith("folders", extras=entered(photos))
    (home / "there.html").write_text("mine")
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "4 warnings" in text(app), 40)
        await pilot.press("w", *"there", "enter")
        await until(pilot, lambda: "already." in text(app))
        await pilot.press("ctrl+u", *"report", "enter")
        await until(pilot, lambda: (home / "report.html").is_file(), 40)
    assert (home / "there.html").read_text() == "mine"
    assert "data:image/jpeg" in (home / "report.html").read_text()


async def test_leaving_ends_the_process(
    smith: Smith, until: Until, text: Shown, photos: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that reports progress and then works forever."""
    slow, number = home / "slow.py", home / "number"
    slow.write_text(
        "import json, os, time\n"
        f"open({str(number)!r}, 'w').write(str(os.getpid()))\n"
        "print(json.dumps({'progress': ['looking at images', 1, 3]}), flush=True)\n"
        "time.sleep(600)\n"
    )
    real = worker.subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        slowly = [command[0], str(slow)] if "engine.dataset.report" in command else command
        return real(slowly, **options)

    monkeypatch.setattr(worker.subprocess, "Popen", start)
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "Looking at images: 1 of 3. Escape stops" in text(app))
        pid = int(number.read_text())
        assert _lives(pid)
        await pilot.press("escape")
        assert isinstance(app.screen, FoldersScreen)
        await until(pilot, lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_what_cannot_be_checked_is_reported(
    smith: Smith, until: Until, text: Shown, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("The folder is gone.", "Look for it.")

    monkeypatch.setattr(worker, "ask", fail)
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "✗ The folder is gone. Look for it." in text(app))
        await pilot.press("escape")
        assert isinstance(app.screen, FoldersScreen)


async def test_without_images_named_there_is_no_report(smith: Smith, until: Until, text: Shown) -> None:
    app = smith("folders")
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "Enter the folder of the images first." in text(app))
