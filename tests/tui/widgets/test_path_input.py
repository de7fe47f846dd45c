"""The field for a path, by keys."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input, OptionList, Static

from tui.widgets import path_input
from tui.widgets.path_input import Candidates, PathInput

Until = Callable[..., Awaitable[None]]


class Form(App[None]):
    """Two fields, and what else a screen has."""

    BINDINGS = [Binding("escape", "back", "Back")]  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.heard: list[object] = []
        self.went_back = 0

    def compose(self) -> ComposeResult:
        yield PathInput(id="path", **self.options)
        yield Input(id="other")
        yield Static("below", id="below")

    def action_back(self) -> None:
        self.went_back += 1

    @on(OptionList.OptionSelected)
    @on(OptionList.OptionHighlighted)
    @on(Input.Submitted)
    def _hear(self, event: object) -> None:
        self.heard.append(event)

    @property
    def field(self) -> PathInput:
        return self.query_one("#path", PathInput)

    @property
    def listed(self) -> list[str]:
        """The candidates that show."""
        if not self.field.list_open:
            return []
        shown = self.query_one(Candidates)
        return [str(shown.get_option_at_index(index).prompt) for index in range(shown.option_count)]


@pytest.fixture
def until() -> Until:
    async def wait(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
        end = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < end, "did not come true in time"
            await pilot.pause(0.02)

    return wait


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models", "models2", "pics [1] new"):
        (tmp_path / name).mkdir()
    for name in ("one.safetensors", "one-b.safetensors", "x.txt"):
        (tmp_path / "models" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_tab_takes_only_what_was_chosen(until: Until) -> None:
    app = Form(suffixes=(".safetensors",))
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        assert app.listed == []
        await pilot.press("m")
        assert app.listed == ["models/", "models2/"] and app.field._suggestion == "models/"
        await pilot.press("down", "tab")
        assert app.field.value == "models/" and app.focused is app.field
        await until(pilot, lambda: app.listed == ["one-b.safetensors", "one.safetensors"])
        await pilot.press("o", "n", "tab")
        assert app.field.value == "models/on" and app.listed == []
        assert app.focused is app.query_one("#other")


async def test_an_empty_or_unknown_field_lets_tab_pass(until: Until) -> None:
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("tab")
        assert app.focused is app.query_one("#other")
        await pilot.press("shift+tab", "z", "tab")
        assert app.focused is app.query_one("#other") and app.field.value == "z"


async def test_right_takes_the_grey_rest(until: Until) -> None:
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("p", "right")
        assert app.field.value == "pics [1] new/"


async def test_the_list_by_keys(until: Until) -> None:
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("down")
        assert app.listed == ["models/", "models2/", "pics [1] new/"]
        await pilot.press("escape")
        assert app.listed == [] and app.went_back == 0
        await pilot.press("escape")
        assert app.went_back == 1
        await pilot.press("down", "up", "enter")
        assert app.field.value == "pics [1] new/" and app.heard == []
        await pilot.press("ctrl+u", "m", "down", "enter")
        await until(pilot, lambda: app.listed == ["one-b.safetensors", "one.safetensors", "x.txt"])
        await pilot.press("down", "down", "down", "up", "enter")
        assert app.field.value == "models/one.safetensors" and app.listed == [] and app.heard == []
        await pilot.press("enter")
        assert [type(event) for event in app.heard] == [Input.Submitted]


async def test_the_list_by_mouse(until: Until) -> None:
    app = Form(folders_only=True)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("m")
        await pilot.pause()
        await pilot.click(Candidates, offset=(3, 2))
        assert app.field.value == "models2/" and app.heard == [] and app.focused is app.field


async def test_leaving_closes_the_list_and_coming_back_reads_anew(until: Until, folder: Path) -> None:
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("m")
        assert app.listed
        app.set_focus(app.query_one("#other"))
        await pilot.pause()
        assert app.listed == []
        (folder / "moved").mkdir()
        await pilot.press("shift+tab")
        await until(pilot, lambda: app.field._listing)
        await pilot.press("o")
        assert app.listed == ["models/", "models2/", "moved/"]


async def test_more_than_can_be_listed(until: Until, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_input, "MOST_SHOWN", 2)
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("down", "up")
        assert app.listed == ["models/", "models2/", "… and 1 more"]
        assert app.query_one(Candidates).highlighted == 1


async def test_a_name_that_is_no_text(until: Until, folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff caf\xe9")).mkdir()
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press("down", "up")
        assert app.listed[-1] == "� caf�/"
        await pilot.press("enter")
        assert app.field.path is not None and app.field.path.is_dir() and "\udcff" in app.field.value
        line = "".join(segment.text for segment in app.field.render_line(0))
        assert line.startswith("� caf�/") and app.field._cursor_offset == 8


@pytest.mark.parametrize(
    ("pasted", "value"),
    [("'/a/b c'", "/a/b c"), ("file:///a/b%20c\nfile:///d", "/a/b c"), ("~/x", "/home/ann/x"), ("\n", "")],
)
async def test_pasting(pasted: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    app = Form()
    async with app.run_test() as pilot:
        app.field.post_message(events.Paste(pasted))
        await pilot.pause()
        assert app.field.value == value and app.field.cursor_position == len(value)


async def test_home_and_quotes_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    app = Form()
    async with app.run_test() as pilot:
        await pilot.press("~", "slash", "x")
        assert app.field.value == "/home/ann/x"
        await pilot.press("ctrl+u", "'", "a", "space", "b", "'", "c")
        assert app.field.value == "a bc"


async def test_a_drive_that_hangs_blocks_nothing(until: Until, monkeypatch: pytest.MonkeyPatch) -> None:
    awake, real = threading.Event(), path_input.read

    def read(folder: str, *rest: Any) -> Any:
        if folder == "slow/":
            awake.wait(60)
        return real(folder, *rest)

    monkeypatch.setattr(path_input, "read", read)
    app = Form()
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.field._listing)
        await pilot.press(*"slow/x", "tab", "shift+tab", "ctrl+u", "m")
        await until(pilot, lambda: app.listed == ["models/", "models2/"])
        awake.set()
        await pilot.pause(0.1)
        assert app.listed == ["models/", "models2/"]
