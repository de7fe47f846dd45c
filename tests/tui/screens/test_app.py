"""The app: leaving, interrupting, ending by a signal, the palette, help, images on and off, colours."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from textual.app import ComposeResult
from textual.command import CommandPalette
from textual.screen import Screen
from textual.widgets import Input
from textual.widgets._toast import Toast

from engine.config import RunConfig
from engine.runs import RunDir, RunLock, prepare_run, true_state
from engine.runs.launch import launch
from engine.runs.layout import write_record
from engine.text import attach_line
from tui.app import Appearance, LoraSmithApp
from tui.display.themes import first_theme
from tui.screens.help import HelpScreen
from tui.screens.home import HomeScreen
from tui.screens.leave import LeaveScreen
from tui.screens.step import StepScreen
from tui.setup.draft import Draft, draft_path

FAKE = Path(__file__).resolve().parents[2] / "engine" / "runs" / "fake_trainer.py"
NARROW = (80, 24)
Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def live(home: Path, until: Until) -> Iterator[RunDir]:
    """A run that a fake trainer works on."""
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "alive"}))
    process = launch(run_dir, command=[sys.executable, str(FAKE), str(run_dir.path), "9999", "0.02"])
    yield run_dir
    process.kill()
    process.wait()


class Field(Screen[None]):
    """A screen with one field."""

    def compose(self) -> ComposeResult:
        yield Input("words", select_on_focus=False)


async def test_quitting_keeps_the_draft(smith: Smith) -> None:
    app = smith(values={"saving.output_name": "ann"})
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("ctrl+q")
    assert app.return_code == 0 and Draft.load().values == {"saving.output_name": "ann"}


async def test_leaving_a_live_run_asks_and_detach_is_the_default(
    smith: Smith, live: RunDir, until: Until, text: Shown
) -> None:
    app = smith()
    app.watched = live
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, LeaveScreen))
        assert "alive is training" in text(app)
        await pilot.press("ctrl+q")
        assert isinstance(app.screen, LeaveScreen)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, LeaveScreen))
        await pilot.press("enter")
    assert app.return_code == 0 and true_state(live).live
    assert not list(live.control.iterdir())
    assert app.farewell[-1] == f"  {attach_line(live.path)}"


async def test_a_paused_run_stays_paused(smith: Smith, home: Path, until: Until, text: Shown) -> None:
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "still"}))
    app = smith()
    app.watched = run_dir
    async with app.run_test(size=NARROW) as pilot:
        with RunLock(run_dir.lock_path):
            write_record(run_dir.state_path, {"state": "paused", "step": 5, "max_train_steps": 20, "pid": os.getpid()})
            await pilot.press("ctrl+q")
            await until(pilot, lambda: "still is paused" in text(app) and "the training stays paused" in text(app))
            await pilot.press("enter")
            await until(pilot, lambda: app.farewell)
    assert app.farewell == (
        "The training stays paused. To continue it, come back and press p:", f"  {attach_line(run_dir.path)}"
    )  # fmt: skip


async def test_leaving_with_stop_and_save(smith: Smith, live: RunDir, until: Until) -> None:
    app = smith()
    app.watched = live
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("ctrl+q")
        await until(pilot, lambda: isinstance(app.screen, LeaveScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: true_state(live).state == "stopped")
    assert app.return_code == 0


async def test_ctrl_c_twice_leaves_at_once_and_the_training_continues(smith: Smith, live: RunDir, until: Until) -> None:
    app = smith()
    app.watched = live
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app._notifications)
        assert [each.message for each in app._notifications] == ["Press Ctrl+C again to quit. Training continues."]
        assert app.return_code is None
        await pilot.press("ctrl+c")
    assert app.return_code == 0 and true_state(live).live


async def test_ctrl_c_speaks_of_a_training_only_where_there_is_one(smith: Smith, until: Until) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app._notifications)
        assert [each.message for each in app._notifications] == ["Press Ctrl+C again to quit."]


async def test_ctrl_c_copies_what_is_selected(smith: Smith) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await app.push_screen(Field())
        await pilot.press("home", "shift+right", "shift+right", "ctrl+c", "ctrl+c", "ctrl+c")
        assert app.clipboard == "wo" and app.return_code is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_signal_ends_it_cleanly(smith: Smith, until: Until, number: signal.Signals, code: int) -> None:
    app = smith(values={"saving.output_name": "ann"})
    async with app.run_test(size=NARROW) as pilot:
        os.kill(os.getpid(), number)
        await until(pilot, lambda: app.return_code is not None)
    assert app.return_code == code and draft_path().is_file()


async def test_the_palette_offers_every_key_and_the_themes(smith: Smith, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Set up a new run" in text(app))
        offered = {command.title: command.help for command in app.get_system_commands(app.screen)}
        for title in ("Theme", "Help", "New run", "Quit", "Repaint", "Images"):
            assert offered[title]
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*"repaint", "enter")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_the_palette_leads_to_the_runs_and_every_step(smith: Smith, until: Until, text: Shown) -> None:
    app = smith(values={"model.pretrained_model_name_or_path": "/m"})
    app.first_step = "model"
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, StepScreen) and app.focused is not None)
        await pilot.press("x", "ctrl+p", *"parameters")
        await until(pilot, lambda: "Step 5: Parameters" in text(app) and "Step 1" not in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, StepScreen) and app.screen.STEP == "parameters")
        assert app.draft.values["model.pretrained_model_name_or_path"] == "/mx"
        await pilot.press("ctrl+p", *"list of runs")
        await until(pilot, lambda: "List of runs" in text(app) and "Step 1" not in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_the_palette_leads_nowhere_from_a_dialog(smith: Smith) -> None:
    app = smith()
    async with app.run_test(size=NARROW):
        await app.push_screen(HelpScreen(app.screen))
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Quit" in titles and "List of runs" not in titles


@pytest.mark.parametrize(("keys", "words"), [("ctrl+p", "No command matches."), ("themes", "No theme matches.")])
async def test_the_palette_reports_that_nothing_matches(
    smith: Smith, until: Until, text: Shown, keys: str, words: str
) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Set up a new run" in text(app))
        app.action_command_palette() if keys == "ctrl+p" else app.search_themes()
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*"zzzz")
        await until(pilot, lambda: words in text(app))
        await pilot.press("enter", "backspace", "backspace", "backspace", "backspace")
        await until(pilot, lambda: words not in text(app) and isinstance(app.screen, CommandPalette))


async def test_without_colours_there_is_no_theme_to_choose(smith: Smith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = smith()
    async with app.run_test(size=NARROW):
        assert "Theme" not in [command.title for command in app.get_system_commands(app.screen)]


@pytest.mark.parametrize(("columns", "between"), [(80, " "), (100, "  "), (120, "  ")])
async def test_the_footer_is_whole_and_spaced_where_there_is_room(
    smith: Smith, until: Until, text: Shown, columns: int, between: str
) -> None:
    app = smith("parameters")
    app.first_step = "parameters"
    async with app.run_test(size=(columns, 30)) as pilot:
        await until(pilot, lambda: text(app).splitlines()[-1].endswith(f"{between}^q Quit"))
        assert f"F1 Help{between}" in text(app).splitlines()[-1]
        assert ("  " in text(app).splitlines()[-1]) == (between == "  ")


async def test_a_theme_from_the_palette(smith: Smith, until: Until) -> None:
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        app.search_themes()
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await pilot.press(*"high-contrast", "enter")
        await until(pilot, lambda: app.theme == "high-contrast")


async def test_help_shows_the_keys_that_work_here(smith: Smith, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, lambda: "New run: Set up a new run" in text(app) and "lost:" in text(app))
        await pilot.press("q")
        await until(pilot, lambda: isinstance(app.screen, HomeScreen))


async def test_a_number_goes_to_a_step(smith: Smith, until: Until, text: Shown) -> None:
    app = smith("captions")
    async with app.run_test(size=NARROW) as pilot:
        app.go_to("captions")
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "A number or Enter goes there" in text(app))
        await pilot.press("9", "1")
        await until(pilot, lambda: app.draft.step == "hardware" and "▸Hardware" in text(app))


async def test_f2_switches_images(smith: Smith) -> None:
    app = smith(images="halfblock")
    async with app.run_test(size=NARROW) as pilot:
        await pilot.press("f2")
        assert app.images == "off"
        await pilot.press("f2")
        assert app.images == "halfblock"


@pytest.mark.parametrize(
    ("images", "low_bandwidth", "colours", "no_colour", "mode"),
    [
        ("auto", False, "truecolor", False, "halfblock"),
        ("auto", False, "256", False, "halfblock"),
        ("auto", False, "standard", False, "poor"),
        ("auto", False, "truecolor", True, "poor"),
        ("auto", True, "truecolor", False, "off"),
        ("halfblock", True, "standard", True, "halfblock"),
        ("sixel", False, "standard", False, "sixel"),
        ("off", False, "truecolor", False, "off"),
    ],
)
def test_how_images_are_drawn(images: str, low_bandwidth: bool, colours: str, no_colour: bool, mode: str) -> None:
    assert Appearance(images, low_bandwidth=low_bandwidth).image_mode(colours, no_colour) == mode


@pytest.mark.parametrize(
    ("colours", "environment", "theme"),
    [
        ("truecolor", {}, "smith-dark"),
        ("truecolor", {"NO_COLOR": "1"}, "no-colour"),
        ("256", {"NO_COLOR": "1", "LORASMITH_THEME": "smith-light"}, "no-colour"),
        ("standard", {}, "smith-16"),
        (None, {}, "smith-16"),
        ("standard", {"NO_COLOR": ""}, "no-colour"),
        ("standard", {"LORASMITH_THEME": "textual-light"}, "textual-light"),
        ("truecolor", {"LORASMITH_THEME": "high-contrast"}, "high-contrast"),
        ("truecolor", {"LORASMITH_THEME": "nonsense"}, "smith-dark"),
    ],
)
def test_the_first_theme(colours: str | None, environment: dict[str, str], theme: str) -> None:
    assert first_theme(colours, environment) == theme


@pytest.mark.parametrize(
    "theme", ["smith-dark", "textual-light", "ansi-dark", "ansi-light", "high-contrast", "no-colour"]
)
async def test_every_theme_shows_home(
    smith: Smith, until: Until, text: Shown, theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORASMITH_THEME", theme)
    app = smith()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "There is no run yet" in text(app))
        assert app.theme == theme


async def test_help_fits_and_names_our_keys_only(smith: Smith, until: Until, text: Shown) -> None:
    app = smith("captions")
    app.first_step = "captions"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: getattr(app.screen, "STEP", "") == "captions")
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        await until(pilot, lambda: "Up and Down scroll, Escape closes." in text(app))
        assert isinstance(app.screen, HelpScreen)
        words = [words for _key, words in app.screen._keys]
        assert not [line for line in words if "Page Left" in line or "Copy selected text" in line]
        assert [line for line in words if line.startswith("Replace: ")]


async def test_the_palette_finds_an_action_by_what_it_does(smith: Smith, until: Until, text: Shown) -> None:
    app = smith()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("ctrl+p", *"trainer's configuration".replace("\\", ""))
        await until(pilot, lambda: "From file" in text(app))


async def test_an_answer_covers_the_first_row_and_is_gone_with_the_next_key(
    smith: Callable[..., LoraSmithApp], until: Callable[..., Awaitable[None]]
) -> None:
    app = smith()
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        app.notify("A sentence about what a key has done, longer than half of the screen is.", markup=False)
        await until(pilot, lambda: app.screen.query(Toast) and app.screen.query_one(Toast).region.height)
        region = app.screen.query_one(Toast).region
        assert (region.y, region.height, region.right) == (0, 1, 80)
        assert app.NOTIFICATION_TIMEOUT <= 8
        await pilot.press("escape")
        await until(pilot, lambda: not app.screen.query(Toast))
