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
from tui.screens.own_editor import EditAgainScreen
from tui.screens.problem import ProblemScreen
from tui.shell.editor import EditedFile, edit, editor
from tui.widgets.caption_list import CaptionList
from tui.widgets.field import FieldForm, FieldList

Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]


@pytest.fixture(autouse=True)
def suspended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A test has no terminal to give away: when it would have been, and was taken back. As Textual's, which does not
    resume after an error."""
    seen: list[str] = []

    @contextmanager
    def suspend(_app: LoraSmithApp) -> Iterator[None]:
        seen.append("suspended")
        yield
        seen.append("resumed")

    monkeypatch.setattr(LoraSmithApp, "suspend", suspend)
    return seen


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
        await pilot.press("ctrl+z")
        await until(pilot, lambda: app.draft.values == {"training.unet_lr": 3e-4})
        await pilot.press("f6")
        await until(pilot, lambda: "training.seed" in app.draft.values)
        app.screen.query_one(FieldForm).form.enter("training.unet_lr", "1e-4")
        await pilot.press("ctrl+z")  # another edit followed
        assert app.draft.get("training.seed") == 7


async def test_a_mistake_is_edited_again(
    smith: Smith, tmp_path: Path, until: Until, typist: Callable[[str], None]
) -> None:
    typist('sed -i \'s/^seed = .*/seed = 7/\' "$1"; echo nonsense >> "$1"')
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, EditAgainScreen))
        assert isinstance(app.screen, EditAgainScreen)
        assert "the edited text" in app.screen.text
        assert str(tmp_path) not in app.screen.text
        assert not app.draft.values
        (tmp_path / "my editor").write_text("#!/bin/sh\nsed -i '/^nonsense/d' \"$1\"\n")
        await pilot.press("e")
        await until(pilot, lambda: app.draft.values == {"training.seed": 7})


@pytest.mark.parametrize("script", ["exit 3", "kill -KILL $$", "printf '\\377' > \"$1\"", 'rm "$1"'])
async def test_the_screen_returns_from_an_editor_that_fails(
    smith: Smith, until: Until, typist: Callable[[str], None], script: str, suspended: list[str]
) -> None:
    typist(script)
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, EditAgainScreen))
        assert suspended == ["suspended", "resumed"]
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, FieldList))


async def test_an_editor_that_is_not_installed_leaves_the_screen_alone(
    smith: Smith, until: Until, monkeypatch: pytest.MonkeyPatch, suspended: list[str]
) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "no-such-editor -w")
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: isinstance(app.focused, FieldList))
        await pilot.press("f6")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        assert isinstance(app.screen, ProblemScreen)
        assert "no-such-editor did not work: No such file or directory. Nothing was changed." in app.screen.text
        assert not suspended


@pytest.mark.parametrize(
    ("script", "code", "part"),
    [
        ("exit 3", "editor-failed", "code 3"),
        ("kill -TERM $$", "editor-failed", "SIGTERM"),
        ('rm "$1"', "editor-failed", "No such file"),
        ("printf '\\377' > \"$1\"", "editor-not-utf8", "UTF-8"),
    ],
)
def test_an_editor_that_fails_changes_nothing(typist: Callable[[str], None], script: str, code: str, part: str) -> None:
    typist(script)
    with refused(code, part):
        edit("a fox", ".txt", editor())


def test_an_editor_opens_the_line_of_a_mistake(tmp_path: Path) -> None:
    for name, opened in (("vim", "+7"), ("code", "")):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho \"$1\" > '{tmp_path}/seen'\n")
        script.chmod(0o755)
        file = EditedFile("a fox", ".txt", [str(script)])
        file.edit(7)
        file.close()
        assert (tmp_path / "seen").read_text().startswith("+7") == bool(opened)


def test_which_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in ("vi", "code") else None)
    assert editor({"VISUAL": "code --wait", "EDITOR": "vi"}) == ["code", "--wait"]
    assert editor({"VISUAL": " "}) == ["/bin/vi"]
    with refused("editor-failed", "nano", "No such file or directory"):
        editor({"EDITOR": "nano", "VISUAL": ""})
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(UsageError):
        editor({})


def test_a_variable_that_is_no_command_is_named() -> None:
    with refused("editor-not-readable", "EDITOR", "quotation"):
        editor({"EDITOR": "'vim"})
