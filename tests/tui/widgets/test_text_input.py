"""A line of text: a key never replaces what is there, and undo gives everything back."""

from __future__ import annotations

import pytest
from textual import events
from textual.app import App, ComposeResult

from tui.widgets.field import FieldEdit
from tui.widgets.path_input import PathInput
from tui.widgets.text_input import TextInput


class Line(App[None]):
    def __init__(self, kind: type[TextInput], value: str) -> None:
        super().__init__()
        self.kind, self.first = kind, value

    def compose(self) -> ComposeResult:
        yield self.kind(self.first)

    @property
    def line(self) -> TextInput:
        return self.query_one(TextInput)


KINDS = [TextInput, PathInput, FieldEdit]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["question_mark", "a", "space", "x"])
async def test_a_key_never_replaces_what_is_there(kind: type[TextInput], key: str) -> None:
    app = Line(kind, "anna")
    async with app.run_test() as pilot:
        await pilot.press(key)
        character = {"question_mark": "?", "space": " "}.get(key, key)
        assert app.line.value == f"anna{character}"
        await pilot.press("ctrl+z")
        assert app.line.value == "anna" and app.line.cursor_position == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("keys", "after", "steps"),
    [
        (("x", "y", "z"), "annaxyz", 1),
        (("ctrl+shift+a", "question_mark"), "?", 1),
        (("ctrl+shift+a", "question_mark", "b", "c"), "?bc", 1),
        (("backspace", "backspace"), "an", 1),
        (("home", "delete", "delete"), "na", 1),
        (("backspace", "x"), "annx", 2),
        (("ctrl+u",), "", 1),
        (("home", "ctrl+k"), "", 1),
        (("ctrl+w", "b"), "b", 2),
        (("x", "home", "y"), "yannax", 2),
        (("ctrl+shift+a", "ctrl+x", "b", "b"), "bb", 2),
        ((), "anna", 0),
    ],
)
async def test_undo_goes_back_step_by_step_and_redo_forth(
    kind: type[TextInput], keys: tuple[str, ...], after: str, steps: int
) -> None:
    app = Line(kind, "anna")
    async with app.run_test() as pilot:
        await pilot.press(*keys)
        assert app.line.value == after
        for _ in range(steps):
            assert app.line.value != "anna"
            await pilot.press("ctrl+z")
        assert app.line.value == "anna"
        await pilot.press("ctrl+z")
        assert app.line.value == "anna"
        for _ in range(steps):
            await pilot.press("ctrl+y")
        assert app.line.value == after


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_pasted_over_and_set_by_the_program_comes_back(kind: type[TextInput]) -> None:
    app = Line(kind, "anna")
    async with app.run_test() as pilot:
        app.line.select_all()
        app.line.post_message(events.Paste("stray\ntext"))
        await pilot.pause()
        assert app.line.value == "stray"
        app.line.value = "suggested"
        await pilot.press("ctrl+z")
        assert app.line.value == "stray"
        await pilot.press("ctrl+z")
        assert app.line.value == "anna"


async def test_a_new_text_is_where_undo_begins() -> None:
    app = Line(TextInput, "anna")
    async with app.run_test() as pilot:
        await pilot.press("x")
        app.line.begin("512")
        await pilot.press("ctrl+z")
        assert app.line.value == "512"


async def test_a_change_after_an_undo_ends_the_redo() -> None:
    app = Line(TextInput, "a")
    async with app.run_test() as pilot:
        await pilot.press("b", "ctrl+z", "c", "ctrl+y")
        assert app.line.value == "ac"
        await pilot.press("ctrl+z")
        assert app.line.value == "a"


@pytest.mark.parametrize(
    ("columns", "value", "drawn"),
    [
        (40, "", "words to look for in the list"),
        (29, "", "words to look for in the list"),
        (28, "", "words to look for in the li…"),
        (10, "", "words to …"),
        (10, "anna", "anna"),
    ],
)
async def test_a_placeholder_that_is_cut_ends_with_an_ellipsis(columns: int, value: str, drawn: str) -> None:
    app = Line(TextInput, value)
    async with app.run_test() as pilot:
        app.line.compact = True
        app.line.placeholder = "words to look for in the list"
        app.line.styles.width = columns
        app.screen.set_focus(None)
        await pilot.pause()
        assert app.line.render_line(0).text.strip() == drawn
