"""The step of the parameters, by keys: presets, editing in the row, search, bad input, coming back, the forecast."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.events import Paste
from textual.pilot import Pilot
from textual.widgets import Select

from engine.config import dump_toml, load_config
from engine.config.form import fields
from engine.paths import ASSETS, user_config
from tests.tui.ready import READY
from tui.app import LoraSmithApp
from tui.screens.parameters import ParametersScreen
from tui.text.fields import cut, hint
from tui.widgets.field import FieldEdit, FieldList

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def opened(ready: Smith) -> Smith:
    """opened(values, ...): the app that begins with the parameters."""
    return lambda values=None, **more: ready("parameters", values, **more)


def rows(app: LoraSmithApp) -> FieldList:
    return app.screen.query_one(FieldList)


async def stand_on(pilot: Pilot[Any], key: str) -> None:
    """Find a field through the search: its key is pasted."""
    await pilot.press("slash", "end", "ctrl+u")
    pilot.app.post_message(Paste(key))
    await pilot.press("enter")
    await pilot.pause()
    assert rows(pilot.app).key == key  # type: ignore[arg-type]


async def test_the_forecast_follows_each_edit(opened: Smith, until: Until, text: Shown) -> None:
    app = opened(preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "140 steps = 9 epochs" in text(app))
        assert "Time: unknown until the first steps" in text(app) and "MiB" in text(app)
        await stand_on(pilot, "training.max_train_epochs")
        await pilot.press("enter", "3", "enter")
        await until(pilot, lambda: "48 steps = 3 epochs" in text(app))
        assert "• Epochs" in text(app) and "3 epochs" in text(app) and "1 changed" in text(app)
        assert rows(app).form.text("training.max_train_steps") == "140 (not used)"
        assert app.draft.get("training.max_train_epochs") == 3
        await pilot.press("delete")
        await until(pilot, lambda: "140 steps = 9 epochs" in text(app))
        assert "0 changed" in text(app) and "training.max_train_epochs" not in app.draft.values


@pytest.mark.parametrize("width", [60, 66, 80, 120])
async def test_no_range_is_cut_without_an_ellipsis(opened: Smith, until: Until, width: int) -> None:
    """A digit less would be another range."""
    app = opened()
    async with app.run_test(size=(width, 200)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList))
        await pilot.press("f3")
        for key in rows(app).keys:
            row = rows(app).render_line(rows(app).line_of(key)).text.rstrip()
            assert row.endswith((cut(hint(fields()[key]), 24).strip(), "…")), row


async def test_a_wrong_value_is_shown_under_its_row_and_stops_next(opened: Smith, until: Until, text: Shown) -> None:
    app = opened(preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "140 steps" in text(app))
        await stand_on(pilot, "network.network_dim")
        await pilot.press("enter", "0")
        await until(pilot, lambda: '✗ "0" is not valid: enter a whole number, from 1 to 1024.' in text(app))
        await pilot.press("enter", "escape", "home")  # keep it, leave the search, go elsewhere
        assert "network.network_dim" not in app.draft.values and rows(app).key != "network.network_dim"
        await until(pilot, lambda: "computed once the fields marked ✗ are fixed" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: rows(app).key == "network.network_dim" and '✗ Rank: "0" is not valid' in text(app))
        assert app.draft.step == "parameters"
        await pilot.press("enter", "8", "enter", "ctrl+n")
        await until(pilot, lambda: "Ready" in text(app) and "Start training" in text(app))
    assert app.draft.step == "review" and app.draft.done == ["parameters"]


async def test_escape_leaves_a_value_as_it_was(opened: Smith, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await stand_on(pilot, "training.seed")
        await pilot.press("enter", "x", "escape")
        await pilot.pause()
        assert not app.screen.query_one(FieldEdit).has_class("-open") and rows(app).has_focus
        assert "✗" not in text(app) and app.draft.values == READY
        assert isinstance(app.screen, ParametersScreen)


async def test_what_is_typed_survives_leaving_and_coming_back(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await stand_on(pilot, "training.seed")
        await pilot.press("f3", "enter", "1", "2", "x")
        await pilot.press("ctrl+g")
        await until(pilot, lambda: "Go to a step" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Ready to start." in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen) and rows(app).key == "training.seed")
        await until(pilot, lambda: '"12x" is not valid' in text(app) and "advanced" in text(app))


async def test_switches_and_choices_by_keys(opened: Smith) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await stand_on(pilot, "memory.gradient_checkpointing")
        await pilot.press("space")
        assert app.draft.get("memory.gradient_checkpointing") is True
        await pilot.press("enter")
        assert app.draft.get("memory.gradient_checkpointing") is False
        await stand_on(pilot, "training.lr_scheduler")
        await pilot.press("right", "right")
        assert app.draft.get("training.lr_scheduler") == "polynomial"
        await pilot.press("left", "left", "left")
        assert app.draft.get("training.lr_scheduler") == "linear"
        await pilot.press("backspace")
        assert app.draft.values == READY


async def test_ctrl_z_undoes_edits_and_resets(opened: Smith, until: Until, text: Shown) -> None:
    app = opened(preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "140 steps" in text(app))
        first = app.draft.get("network.network_dim")
        await stand_on(pilot, "network.network_dim")
        await pilot.press("enter", "4", "enter", "delete", "enter", "0", "enter")
        assert app.draft.get("network.network_dim") == first and "• " not in text(app)
        await stand_on(pilot, "training.max_train_epochs")
        await pilot.press("escape", "ctrl+z")
        await until(pilot, lambda: f"Rank is {first} again." in text(app))
        assert rows(app).key == "network.network_dim" and "is not valid" not in text(app)
        await pilot.press("ctrl+z")
        await until(pilot, lambda: "Rank is 4 again." in text(app))
        await pilot.press("ctrl+z", "ctrl+z")
        await until(pilot, lambda: "Nothing to undo." in text(app))
        assert app.draft.get("network.network_dim") == first and not app.screen.form.changed()  # type: ignore[attr-defined]


async def test_the_highlighted_row_stays_in_sight_in_a_smaller_terminal(opened: Smith, until: Until) -> None:
    app = opened(preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList))
        await stand_on(pilot, "network.network_dim")
        await pilot.press("escape")
        for size in ((60, 16), (120, 40), (60, 16)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            fields_shown = rows(app)
            line = fields_shown.line_of(fields_shown.key) - round(fields_shown.scroll_y)
            assert 0 <= line < fields_shown.scrollable_content_region.height


async def test_a_list_is_edited_line_by_line(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await stand_on(pilot, "sampling.sample_prompts")
        await pilot.press("enter")
        await until(pilot, lambda: "One entry per line" in text(app))
        await pilot.press("enter", *"a cat, [red]", "ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert app.draft.get("sampling.sample_prompts")[-1] == "a cat, [red]"
        assert len(app.draft.get("sampling.sample_prompts")) == 3
        await pilot.press("enter", *"no", "escape")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert len(app.draft.get("sampling.sample_prompts")) == 3


async def test_fields_of_other_steps_are_shown_and_not_edited(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await stand_on(pilot, "saving.output_name")
        assert "step Folders" in text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "Set in the step Folders: Ctrl+G goes there." in text(app))
        await pilot.press("delete", "space")
        assert app.draft.values == READY


async def test_another_preset_keeps_what_was_changed_and_reports_it(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"training.seed": 7})
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: "sd15-realistic: Stable Diffusion" in text(app))
        await pilot.press("f4")
        await until(pilot, lambda: app.screen.query_one("#preset", Select).expanded)
        await pilot.press("up", "enter")
        await until(pilot, lambda: app.draft.preset == "sd15-anime")
        await until(pilot, lambda: "Kept 1 changed value, marked •." in text(app) and "Seed" in text(app))
        assert app.draft.get("training.seed") == 7 and app.draft.get("network.network_dim") == 16
        assert rows(app).has_focus


async def test_a_broken_preset_is_shown_and_the_old_one_stays(opened: Smith, until: Until, text: Shown) -> None:
    broken = user_config() / "presets" / "a-broken.toml"
    broken.parent.mkdir(parents=True)
    broken.write_text("# [bold]Broken\n[training]\nseed = 'x'\n")
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("f4", "home")
        await until(pilot, lambda: "a-broken: [bold]Broken" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "✗ Configuration" in text(app) and "training.seed" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ParametersScreen))
        assert app.draft.preset == app.screen.query_one("#preset", Select).value == "sd15-realistic"


async def test_a_preset_that_is_gone_is_reported(opened: Smith, until: Until, text: Shown) -> None:
    app = opened(preset="gone")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "! The preset gone cannot be used" in text(app))
        assert app.draft.preset == "sd15-realistic" and "sd15-realistic: Stable Diffusion" in text(app)


async def test_the_demo_preset_shows_with_the_demo_base_only(opened: Smith) -> None:
    for values, offered in (({}, True), ({"model.pretrained_model_name_or_path": "x.safetensors"}, False)):
        app = opened(values)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            assert isinstance(app.screen, ParametersScreen)
            assert ("demo" in [name for _title, name in app.screen._presets()]) is offered


async def test_search_advanced_and_back(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "fields, basic" in text(app))
        basic = len(rows(app).keys)
        await pilot.press("f3")
        await until(pilot, lambda: "fields, advanced" in text(app))
        assert len(rows(app).keys) > 2 * basic
        await pilot.press("f3", "ctrl+f", *"zzz")
        await until(pilot, lambda: "No field fits the search" in text(app))
        await pilot.press("down", "enter", "space", "delete", "down")  # on an empty list nothing happens
        assert app.draft.values == READY
        await pilot.press("escape")
        await until(pilot, lambda: len(rows(app).keys) == basic and rows(app).has_focus)
        assert isinstance(app.screen, ParametersScreen)


async def test_a_search_for_a_key_goes_to_its_field(opened: Smith, until: Until, text: Shown) -> None:
    """Others that only mention it are above."""
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "fields, basic" in text(app))
        await pilot.press("slash", *"unet_lr", "enter")
        await until(pilot, lambda: rows(app).key == "training.unet_lr")
        assert rows(app).keys.index("training.unet_lr") > 0


async def test_pages_and_ends(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("f3", "end")
        last = "logging.log_config"
        await until(pilot, lambda: rows(app).key == rows(app).keys[-1] == last and last in text(app))
        await pilot.press("pageup")
        assert rows(app).keys.index(rows(app).key) == len(rows(app).keys) - 11
        await pilot.press("home")
        assert rows(app).key == "model.pretrained_model_name_or_path"


async def test_a_click_highlights_a_row_and_a_second_one_edits_it(opened: Smith, until: Until) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: rows(app).key == "network.network_dim")
        await pilot.press("home")
        await until(pilot, lambda: rows(app).key != "network.network_dim")
        await pilot.click(FieldList, offset=(5, 3))
        await until(pilot, lambda: rows(app).key == "model.clip_skip")
        await pilot.click(FieldList, offset=(5, 3))
        await until(pilot, lambda: app.screen.query_one(FieldEdit).has_focus)
        await pilot.press("2", "down")  # keeps it and moves to the next field
        await until(pilot, lambda: rows(app).key == "model.max_token_length" and rows(app).has_focus)
        assert app.draft.get("model.clip_skip") == 2


async def test_help_is_that_of_the_field(opened: Smith, until: Until, text: Shown) -> None:
    app = opened()
    async with app.run_test(size=(120, 36)) as pilot:
        await stand_on(pilot, "network.network_dim")
        await pilot.press("f1")
        await until(pilot, lambda: "Faces 16-32" in text(app) and "VRAM when raised: more" in text(app))


async def test_without_images_it_shows_what_is_missing(smith: Smith, until: Until, text: Shown) -> None:
    app = smith("parameters", {"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")})
    app.first_step = "parameters"
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "! No forecast: dataset.train_data_dir is not set." in text(app))


async def test_a_value_of_another_step_that_cannot_be(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"dataset.num_repeats": 0})
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "✗ Repeats" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "Repeats: fix it in the step Folders." in text(app))
        assert app.draft.step == "parameters"


@pytest.mark.parametrize(
    ("search", "key", "value"),
    [
        ("steps", "training.max_train_steps", 2000),
        ("learning", "training.learning_rate", 2000),
        ("alpha", "network.network_alpha", 2000),
    ],
)
async def test_a_search_puts_the_edit_into_the_field_that_is_meant(
    opened: Smith, until: Until, search: str, key: str, value: float
) -> None:
    app = opened()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList) and rows(app).keys)
        await pilot.press("slash", *search, "enter")
        assert rows(app).key == key
        await pilot.press("enter", *"2000", "enter")
        assert app.draft.values[key] == value


@pytest.fixture
def copied(opened: Smith, tmp_path: Path) -> LoraSmithApp:
    """The app with a copy of a run whose settings changed while it trained."""
    config = load_config("demo").changed(
        training={"changes": ["20: training.unet_lr=5e-05", "40: training.max_train_steps=100"]},
        saving={"output_name": "robot"},
    )
    path = tmp_path / "robot.toml"
    path.write_text(dump_toml(config))
    return opened(preset=str(path))


async def test_a_copy_shows_what_changed_during_the_training(copied: LoraSmithApp, until: Until, text: Shown) -> None:
    async with copied.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "100 steps" in text(copied))
        assert "2 changes made during that run will be repeated at the same steps." in text(copied)
        await stand_on(pilot, "training.unet_lr")
        assert "from step 21: 5e-5" in text(copied), "next to the rate that the run began with"
        assert "During the training: " in text(copied) and "5e-5 from step 21." in text(copied)
        await pilot.press("enter", "1", "e", "minus", "3", "enter")
        await until(pilot, lambda: "! 1 later change is left out." in text(copied))
        toasts = [notification.message for notification in copied._notifications]
        assert any(toast.startswith("U-Net learning rate 5e-5 from step 21. The new value") for toast in toasts)
        assert copied.draft.config().training.changes == ["40: training.max_train_steps=100"]
        await pilot.press("delete")
        await until(pilot, lambda: "is left out" not in text(copied))
        assert len(copied.draft.config().training.changes) == 2
        await pilot.press("escape")
        await stand_on(pilot, "training.changes")
        await pilot.press("enter")
        await until(pilot, lambda: copied.screen.query("#entries"))
        await pilot.press("f7", "delete", "ctrl+n")
        await until(pilot, lambda: "140 steps = 9 epochs" in text(copied))
    assert copied.draft.config().training.changes == []


async def test_a_change_that_was_typed_is_no_change_of_another_run(opened: Smith, until: Until, text: Shown) -> None:
    app = opened({"training.changes": ["20: training.unet_lr=5e-05"]}, preset="demo")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "140 steps" in text(app))
        assert "during that run" not in text(app)


async def test_the_review_lists_what_changes_during_the_training(
    copied: LoraSmithApp, until: Until, text: Shown
) -> None:
    async with copied.run_test(size=(100, 60)) as pilot:
        await until(pilot, lambda: "100 steps" in text(copied))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "Ready" in text(copied))
        report = copied.screen.copied_text  # type: ignore[attr-defined]
    part = report.partition("\nChanges during the training\n")[2].partition("\n\n")[0].split("\n")
    assert [line.rpartition(" from ")[2] for line in part] == ["step 21", "step 41"] and "5e-5" in part[0]
    assert "Changes in the run:" not in report, "they are not listed a second time as a setting"


async def test_a_row_out_of_view_is_not_changed(opened: Smith, until: Until) -> None:
    """After scrolling with the mouse, a key shows the row; the next one changes it."""
    app = opened(preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.screen.query(FieldList) and rows(app).key)
        await pilot.press("f3", "home")
        rows(app).scroll_end(animate=False, immediate=True)
        key, line = rows(app).key, rows(app).line_of(rows(app).key)
        await pilot.press("enter")
        await until(pilot, lambda: rows(app).scroll_y <= line)
        assert not app.screen.query_one(FieldEdit).has_focus and rows(app).key == key
