"""Typing: in a field every character is a character, none of them replaces what is there, and undo gives it back."""

from __future__ import annotations

import string
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from PIL import Image
from textual import events
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, OptionList, TextArea

from engine.config import RunConfig
from engine.runs import prepare_run
from tui.app import LoraSmithApp
from tui.screens.ask_text import AskTextScreen
from tui.screens.caption_edits import FrameScreen, ReplaceScreen
from tui.screens.captioner import CaptionerScreen
from tui.screens.entries import EntriesScreen
from tui.screens.help import HelpScreen
from tui.screens.steps import STEPS
from tui.widgets.caption_editor import CaptionEditor
from tui.widgets.caption_list import CaptionList
from tui.widgets.field import FieldEdit
from tui.widgets.text_input import TextInput

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]

BOUND = ("question_mark", "slash", "space", *string.ascii_lowercase)
"""Every key that is a character and does something on some screen."""


def single_keys(screen: Screen[object]) -> set[str]:
    """Keys of the screen, the app and what has the focus that are also characters."""
    return {key for key in screen.active_bindings if key in BOUND}


async def opened(app: LoraSmithApp, pilot: Pilot[int], until: Until, step: str) -> None:
    app.go_to(step)
    await until(pilot, lambda: getattr(app.screen, "STEP", "") == step and app.focused is not None)


@pytest.fixture
def photos(home: Path) -> Path:
    folder = home / "photos"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (64, 64), "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"anna, {name}")
    return folder


@pytest.fixture
def app(smith: Smith, photos: Path) -> LoraSmithApp:
    """A setup with all fields filled."""
    values = {
        "model.pretrained_model_name_or_path": str(photos.parent / "base"),
        "dataset.train_data_dir": str(photos),
        "saving.output_name": "anna",
    }
    return smith("hardware", values, extras={"folders.regularize": True})


@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_every_key_that_does_something_is_a_character_in_every_field(
    app: LoraSmithApp, until: Until, step: str
) -> None:
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(app, pilot, until, step)
        screen = app.screen
        for field in [field for field in screen.query(Input) if not isinstance(field, FieldEdit)]:
            assert isinstance(field, TextInput), field.id
            field.focus()
            await pilot.pause()
            if not field.has_focus:  # hidden
                continue
            before = field.value
            for key in sorted(single_keys(screen)):
                await pilot.press(key)
                assert app.screen is screen, (field.id, key)
                character = {"question_mark": "?", "slash": "/", "space": " "}.get(key, key)
                assert field.value == (before if field.restrict else before + character), (field.id, key)
                await pilot.press("ctrl+z")
                assert field.value == before, (field.id, key)


DIALOGS: dict[str, Callable[[], Screen[object]]] = {
    "ask": lambda: AskTextScreen("A name", "", str),  # type: ignore[list-item]
    "replace": lambda: ReplaceScreen([]),
    "frame": lambda: FrameScreen([]),
    "entries": lambda: EntriesScreen("Prompts", "", "a fox"),
}  # type: ignore[assignment]


@pytest.mark.parametrize("dialog", list(DIALOGS))
async def test_in_dialogs_a_question_mark_is_typed_and_f1_explains(
    smith: Smith, until: Until, text: Shown, dialog: str
) -> None:
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = DIALOGS[dialog]()
        await app.push_screen(screen)
        await until(pilot, lambda: isinstance(app.focused, Input | TextArea))
        field = app.focused
        before = field.text if isinstance(field, TextArea) else field.value  # type: ignore[union-attr]
        await pilot.press("question_mark")
        assert (field.text if isinstance(field, TextArea) else field.value) == f"{before}?"  # type: ignore[union-attr]
        await pilot.press("ctrl+z")
        assert (field.text if isinstance(field, TextArea) else field.value) == before  # type: ignore[union-attr]
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen) and "Keys" in text(app))
        await pilot.press("f1")
        await until(pilot, lambda: app.screen is screen)


@pytest.mark.parametrize("step", [step.name for step in STEPS])
async def test_f1_is_shown_and_works_where_text_is_typed_too(
    app: LoraSmithApp, until: Until, text: Shown, step: str
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, step)
        screen = app.screen
        await until(pilot, lambda: "F1 Help" in text(app).splitlines()[-1])
        assert "? Help" not in text(app).splitlines()[-1]
        for field in screen.query(Input):
            field.focus()
        await pilot.pause()
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        assert isinstance(app.screen, HelpScreen)
        keys = "F1" if isinstance(screen.focused, Input) else "F1 ?"
        assert [words for key, words in app.screen._keys if key == keys and words.startswith("Help: ")]
        await pilot.press("f1")
        await until(pilot, lambda: app.screen is screen)


@pytest.mark.parametrize("step", [step.name for step in STEPS])
@pytest.mark.parametrize("key", ["question_mark", "a", "c", "x", "z"])
async def test_a_key_after_one_escape_too_many_changes_no_field(
    app: LoraSmithApp, until: Until, step: str, key: str
) -> None:
    """The name has not the focus; a path that has it is not selected, and Ctrl+Z gives it back."""
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to(step, back=True)
        await until(pilot, lambda: getattr(app.screen, "STEP", "") == step and app.focused is not None)
        await pilot.pause()
        assert step == "model" or not isinstance(app.focused, Input | TextArea), app.focused
        before = {field.id: field.value for field in app.screen.query(Input)}
        screen = app.screen
        await pilot.press(key)
        if app.screen is screen and isinstance(app.focused, Input):  # no dialog was opened
            typed = "?" if key == "question_mark" else key
            assert app.focused.value == f"{before[app.focused.id]}{typed}"
            await pilot.press("ctrl+z")
        assert {field.id: field.value for field in screen.query(Input)} == before


async def test_escape_from_captions_and_a_letter_leave_the_name_alone(app: LoraSmithApp, until: Until) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "captions")
        await until(pilot, lambda: isinstance(app.focused, CaptionList))
        await pilot.press("escape")
        await until(pilot, lambda: getattr(app.screen, "STEP", "") == "folders" and app.focused is not None)
        await pilot.press("a", "c")
        assert app.screen.query_one("#name", Input).value == "anna"


@pytest.mark.parametrize(
    ("step", "keys", "typed"),
    [
        (None, ["slash", *"anna"], "anna"),
        (None, ["f", *"own.toml"], "own.toml"),
        (None, ["ctrl+p", *"theme"], "theme"),
        ("hardware", ["ctrl+n", *"x"], "basex"),
        ("captions", ["slash", *"anna"], "anna"),
        ("captions", ["a", *"anna, "], "anna, "),
        ("parameters", ["slash", *"rank"], "rank"),
        ("parameters", ["slash", *"steps", "enter", "enter", "ctrl+u", *"77"], "77"),
    ],
)
async def test_keys_that_come_at_once_reach_the_line_that_the_first_one_opens(
    app: LoraSmithApp, photos: Path, until: Until, text: Shown, step: str | None, keys: list[str], typed: str
) -> None:
    prepare_run(RunConfig().changed(saving={"output_name": "anna"}))
    place = f"{photos.parent}/"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Last seen" in text(app))
        if step is not None:
            await opened(app, pilot, until, step)
            await pilot.pause()
        for key in keys:
            app.post_message(events.Key(key, {"slash": "/"}.get(key, key if len(key) == 1 else None)))
        await until(pilot, lambda: isinstance(app.focused, Input) and app.focused.value.endswith(typed))
        assert getattr(app.focused, "value", "") == f"{place if step == 'hardware' else ''}{typed}"


async def test_the_first_field_has_the_keys_while_it_is_empty(smith: Smith, until: Until) -> None:
    for step, field in (("model", "model"), ("folders", "name")):
        app = smith(step)
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(app, pilot, until, step)
            await pilot.pause()
            assert app.focused is not None and app.focused.id == field


async def test_the_first_step_shows_that_escape_leaves_the_wizard(app: LoraSmithApp, until: Until, text: Shown) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until, "model")
        await until(pilot, lambda: "esc Back" in text(app).splitlines()[-1])
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.focused, OptionList) and "esc Runs" in text(app).splitlines()[-1])
        await pilot.press("escape")
        await until(pilot, lambda: "n  Continue setting up anna at Hardware" in text(app))


async def test_a_caption_comes_back_after_it_was_saved(app: LoraSmithApp, until: Until, photos: Path) -> None:
    """What was typed or pasted over is given back while one edits, after Escape, and on coming back to the image."""
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(app, pilot, until, "captions")
        await until(pilot, lambda: isinstance(app.focused, CaptionList))
        editor = app.screen.query_one(CaptionEditor)
        await pilot.press("enter", "question_mark")
        assert editor.text == "anna, a?"
        await pilot.press("ctrl+z")
        assert editor.text == "anna, a"
        await pilot.press("ctrl+a", "f7", "x", "escape")
        assert (photos / "a.txt").read_text() == "x\n"
        await pilot.press("enter", "ctrl+z")
        assert editor.text == "anna, a"
        await pilot.press("y", "enter")  # saved, and on to the next image
        assert (photos / "a.txt").read_text() == "anna, ay\n" and editor.text == "anna, b"
        await pilot.press("ctrl+z")
        assert editor.text == "anna, b"
        await pilot.press("escape", "up", "enter", "ctrl+z", "escape")
        assert (photos / "a.txt").read_text() == "anna, a\n"


async def test_a_caption_that_another_program_changed_has_no_changes_of_its_own(
    app: LoraSmithApp, until: Until, photos: Path
) -> None:
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(app, pilot, until, "captions")
        await until(pilot, lambda: isinstance(app.focused, CaptionList))
        editor = app.screen.query_one(CaptionEditor)
        await pilot.press("enter", "x", "escape", "down")
        (photos / "a.txt").write_text("anna on grass")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: app.screen.query_one(CaptionList).book.files[0].text == "anna on grass")  # type: ignore[union-attr]
        await pilot.press("up", "enter", "ctrl+z")
        assert editor.text == "anna on grass"


async def test_the_captioners_fields_keep_their_text(smith: Smith, until: Until) -> None:
    from engine.captioning.captioner import KINDS

    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = CaptionerScreen(KINDS["template"], {"trigger_word": "anna"}, "")
        await app.push_screen(screen)
        field = screen.query_one("#trigger_word", Input)
        field.focus()
        await pilot.press("question_mark")
        assert field.value == "anna?"


def test_no_screen_has_a_field_of_another_kind() -> None:
    """A plain `Input` selects its text when it gets the focus, and has no undo."""
    root = Path(__file__).resolve().parents[3] / "tui"
    plain = [path.name for path in root.rglob("*.py") if " Input(" in path.read_text()]
    assert plain == []
