"""F6: captions, prompts and the configuration in an editor of the person's own."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from textual.widgets import TextArea

from engine.errors import UsageError
from tests.refusals import refused
from tui.app import LoraSmithApp
from tui.screens.entries import EntriesScreen
from tui.screens.problem import ProblemScreen
from tui.shell.editor import edit, editor
from tui.widgets.caption_list import CaptionList
from tui.widgets.field import FieldList

Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]


@pytest.fixture(autouse=True)
def suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test has no terminal to give away."""

    @contextmanager
    def nothing(_app: LoraSmithApp) -> Iterator[None]:
        yield

    monkeypatch.setattr(LoraSmithApp, "suspend", nothing)


@pytest.fixture
def typist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """typist(script): EDITOR is a shell script, which has the file as "$1"."""

    def write(script: str) -> None:
        path = tmp_path / "my editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"'{path}'")

    return write


async def test_a_caption(smith: Smith, home: Path, until: Until, typist: Callable[[str], None]) -> None:
    folder = home / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "a.txt").write_text("anna")
    typist('printf "anna by the sea\\n" > "$1"')
    app = smith("captions", {"dataset.train_data_dir": str(folder), "saving.output_name": "anna"})
    app.first_step = "captions"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, CaptionList) and app.focused.count)
        await pilot.press("f6")
        await until(pilot, lambda: (folder / "a.txt").read_text().strip() == "anna by the sea")
        await pilot.press("u")
        await until(pilot, lambda: (folder / "a.txt").read_text().strip() == "anna")


async def test_entries(smith: Smith, until: Until, typist: Callable[[str], None]) -> None:
    typist('printf "a fox\\na cat\\n" > "$1"')
    app, answers = smith(), []
    async with app.run_test(size=(80, 24)) as pilot:
        await app.push_screen(EntriesScreen("Prompts", "", "a fox"), answers.append)
        await until(pilot, lambda: isinstance(app.focused, TextArea))
        await pilot.press("f6")
        await until(pilot, lambda: app.screen.query_one(TextArea).text == "a fox\na cat")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: answers == ["a fox\na cat"])


async def test_the_configuration(smith: Smith, home: Path, until: Until, typist: Callable[[str], None]) -> None:
    typist("sed -i 's/^seed = .*/seed = 7/' \"$1\"")
    app = smith("parameters", {"training.unet_lr": 3e-4})
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("f6")
        await until(pilot, lambda: app.draft.values == {"training.unet_lr": 3e-4, "training.seed": 7})
        typist('echo nonsense >> "$1"')
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        assert app.draft.values == {"training.unet_lr": 3e-4, "training.seed": 7}


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", "editor-failed"), ("printf '\\377' > \"$1\"", "editor-not-utf8")]
)
def test_an_editor_that_fails_changes_nothing(typist: Callable[[str], None], script: str, code: str) -> None:
    typist(script)
    with refused(code):
        edit("a fox", ".txt", editor())


def test_which_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert editor({"VISUAL": "code --wait", "EDITOR": "vi"}) == ["code", "--wait"]
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name == "vi" else None)
    assert editor({"VISUAL": " "}) == ["/bin/vi"]
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(UsageError):
        editor({})


def test_a_variable_that_is_no_command_is_named() -> None:
    with refused("editor-not-readable", "EDITOR", "quotation"):
        editor({"EDITOR": "'vim"})
