"""The step of the folders, by keys: forward, back, bad input, coming back, and everything it shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from textual.pilot import Pilot
from textual.widgets import Input, Static

from engine.paths import ASSETS
from engine.runs.project import make
from tests.fake_run import prepared_run
from tui.app import LoraSmithApp
from tui.screens import taking_in
from tui.screens.folders import FoldersScreen
from tui.setup.folder_entries import Entries
from tui.setup.review_report import missing
from tui.widgets.buckets import BucketChart
from tui.widgets.hanging import Hanging
from tui.widgets.thumbnails import Thumbnails

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def photos(home: Path) -> Path:
    """Six images of three shapes, four captions, a broken file."""
    folder = home / "photos"
    folder.mkdir()
    for index, size in enumerate([(512, 512), (512, 512), (384, 640), (640, 384), (200, 200), (2100, 1500)]):
        Image.new("RGB", size, "red").save(folder / f"fox [{index}].png")
    for index in range(4):
        (folder / f"fox [{index}].txt").write_text("a fox")
    (folder / "broken.png").write_text("no image")
    return folder


def entered(photos: Path, **more: Any) -> dict[str, Any]:
    return {f"folders.{key}": value for key, value in {"name": "anna", "source": str(photos), **more}.items()}


def line_text(app: LoraSmithApp, id: str = "message") -> str:
    return str(app.screen.query_one(f"#{id}", Static).render())


async def fill(pilot: Pilot[Any], id: str, text: str) -> None:
    """Type into a field, by keys only."""
    app = pilot.app
    for _ in range(40):
        if app.focused is not None and app.focused.id == id:
            break
        await pilot.press("tab")
    assert app.focused is not None
    assert app.focused.id == id
    await pilot.press("end", "ctrl+u", *text)


async def test_a_file_of_kohyas_that_points_to_a_dataset_configuration(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    """Its images are taken, unless a folder is named: then what is shown is what is trained."""
    other = home / "other"
    other.mkdir()
    Image.new("RGB", (512, 512), "blue").save(other / "one.png")
    (home / "dataset.toml").write_text(f"[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = '{other}'\n")
    settings = "[a]\nnetwork_dim = 8\nmax_train_steps = 4\noutput_name = 'ann'\nresolution = 512\n"
    model = f"pretrained_model_name_or_path = '{ASSETS / 'demo_base'}'\n"
    (home / "full.toml").write_text(f"{settings}{model}dataset_config = '{home / 'dataset.toml'}'\n")
    app = smith("folders", preset=str(home / "full.toml"))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "The images are set in" in text(app) and "768×768 px" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "The captions are read as" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "parameters")
        assert missing(app.draft) is None
        config = app.draft.config()
        assert config.dataset.dataset_config == str(home / "dataset.toml") and not config.dataset.train_data_dir
        app.go_to("folders")
        await until(pilot, lambda: "The images are set in" in text(app))
        step = app.screen
        assert isinstance(step, FoldersScreen)
        step.query_one("#source", Input).value = str(photos)
        await until(pilot, lambda: "6 images" in text(app))
        step.store()
        assert app.draft.config().dataset.dataset_config is None
        step.query_one("#source", Input).value = ""
        step.store()
        assert app.draft.config().dataset.dataset_config == str(home / "dataset.toml")


async def test_the_demo_is_filled_in_and_continues(smith: Smith, until: Until, text: Shown, home: Path) -> None:
    app = smith("folders", {"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")}, preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "16 images, all with captions, 1 bucket, 4 validation" in text(app))
        await until(pilot, lambda: "64×64 px" in text(app))
        await until(pilot, lambda: "✓ smithy: not a word the model knows (4 tokens)" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
    assert app.draft.done == ["folders"]
    assert app.draft.get("dataset.train_data_dir") == str(ASSETS / "demo_pictures")
    assert app.draft.get("dataset.validation_data_dir") == str(ASSETS / "demo_heldout")
    assert app.draft.get("saving.output_dir") == str(home / "smithy" / "results_current")
    assert (app.draft.config().trigger, app.draft.config().dataset.num_repeats) == ("smithy", 8)


@pytest.mark.parametrize("name", ["", "annk7"])
async def test_own_images_leave_what_belongs_to_the_demos(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path, name: str
) -> None:
    """A name that was typed stays; no folder of the person's own is edited, no word of the demo trained."""
    app = smith("folders", {"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")}, preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: bool(app.screen.query("#validation")))
        screen = app.screen
        assert isinstance(screen, FoldersScreen)
        demo = screen.entries
        assert (demo.validation, demo.repeats, demo.trigger) == (str(ASSETS / "demo_heldout"), "8", "smithy")
        if name:
            await fill(pilot, "name", name)
        screen.query_one("#source", Input).focus()
        await pilot.press("ctrl+u", *str(photos))
        await until(pilot, lambda: "6 images" in text(app))
        assert screen.entries == Entries(place=str(home), name=name, source=str(photos))
        if not name:
            await fill(pilot, "name", "annk7")
        screen.store()
        config = app.draft.config()
        assert (config.trigger, config.dataset.num_repeats, config.dataset.validation_data_dir) == ("annk7", None, None)
        app.go_to("captions")
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and bool(app.screen.query("#validation")))
        assert app.screen.query_one("#trigger", Input).value == ""


async def test_typed_images_are_copied_into_a_project(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    app = smith("folders")
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await fill(pilot, "name", "anna")
        await fill(pilot, "source", "pho")
        await until(pilot, lambda: "photos/" in text(app))
        await pilot.press("right", "tab")
        assert app.screen.query_one("#source", Input).value == "photos/"
        await until(pilot, lambda: "6 images, 2 without a caption" in text(app))
        await until(pilot, lambda: "training_images/67_anna, results_current" in text(app))
        await until(pilot, lambda: "402 views per epoch" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
    taken = home / "anna" / "training_images" / "67_anna"
    assert len(list(taken.iterdir())) == 11
    config = app.draft.config()
    assert config.dataset.train_data_dir == str(taken.parent)
    assert config.dataset.num_repeats is None
    assert (config.saving.output_name, config.trigger) == ("anna", "anna")


async def test_what_is_found_is_reported(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(120, 36)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "broken.png: broken" in text(app))
        shown = text(app)
        assert "6 images, 2 without a caption, 4 buckets, 1 set aside, 1 below 256 px, 1 above 2048 px" in shown
        assert "1 image with a side below 256 px, enlarged: fox [4].png (200×200 px)" in shown
        assert "1 image with a side above 2048 px, shrunk: fox [5].png (2100×1500 px)" in shown
        assert app.screen.query_one(BucketChart).counts[512, 512] == 3
        strip = app.screen.query_one(Thumbnails)
        strip.focus()
        await pilot.press("right", "right", "left")
        assert strip.position == 1
        await until(pilot, lambda: "‹ 2 of 6 › fox [1].png, 512×512 px" in text(app))
        await pilot.press("end", "right")
        assert strip.position == 5


async def test_the_notes_show_that_they_have_the_focus(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: app.screen.query("#findings") and app.screen.query_one("#findings").display)
        assert "┃" not in text(app)
        app.screen.query_one("#findings").focus()
        await until(pilot, lambda: "┃" in text(app))


async def test_trigger_word_and_suggestion(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "anna: a word that the model knows (1 token)" in text(app))
        await until(pilot, lambda: "Rarer: 4nn4, 3 tokens (ctrl+t)" in text(app))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "✓ 4nn4: not a word the model knows (3 tokens)" in text(app))
        assert "The word was anna; Ctrl+Z brings it back." in text(app)
        await pilot.press("ctrl+z")
        await until(pilot, lambda: "anna: a word that the model knows (1 token)" in text(app))
        await pilot.press("ctrl+t")
        await until(pilot, lambda: "✓ 4nn4: not a word the model knows (3 tokens)" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
        assert app.draft.config().trigger == "4nn4"
        assert app.draft.config().saving.output_name == "anna"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"name": ""}, "Give the project a name."),
        ({"source": ""}, "Enter the folder of the images."),
        ({"name": "a/b"}, "cannot be a folder's name"),
        ({"source": "nowhere"}, "Images: the folder nowhere does not exist"),
        ({"source": "."}, "no images in"),
        ({"repeats": "0"}, "Repeats are a number"),
        ({"held_out": "100 %"}, "The share of validation images"),
        ({"held_out": "25"}, "For a share of the images write 25 %."),
        ({"regularize": True}, "need a class word and a folder"),
        ({"place": "photos", "name": ".."}, "cannot be a folder's name"),
        ({"source": "anna"}, "in the project's own folder"),
    ],
)
async def test_bad_input_stays_with_a_sentence(
    smith: Smith, until: Until, text: Shown, photos: Path, changed: dict[str, Any], sentence: str
) -> None:
    app = smith("folders", extras=entered(photos, **changed))
    async with app.run_test(size=(120, 36)) as pilot:
        app.go_to("folders")
        live = "make a project" if "" in changed.values() else sentence
        await until(pilot, lambda: live in " ".join(text(app).split()))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: line_text(app).startswith("✗"))
        assert sentence in line_text(app) and "dataset." not in line_text(app)
        assert app.draft.step == "folders"
        assert app.draft.done == []
        kept = {f"folders.{key}": value for key, value in changed.items()}
        assert kept.items() <= app.draft.extras.items()


async def test_back_and_return_keep_what_was_typed(smith: Smith, until: Until, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await fill(pilot, "trigger", "zorlax")
        await fill(pilot, "repeats", "12")
        await fill(pilot, "validation", "10 %")
        await pilot.press("escape")
        await until(pilot, lambda: app.draft.step == "model")
        assert app.draft.get("dataset.validation_split") == pytest.approx(0.1)
        assert app.draft.get("dataset.train_data_dir") == str(photos), "not taken in yet: the source itself"
        assert app.draft.get("dataset.num_repeats") == 12
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        values = {id: app.screen.query_one(f"#{id}", Input).value for id in ("trigger", "repeats", "validation")}
        assert values == {"trigger": "zorlax", "repeats": "12", "validation": "10 %"}
        field = app.screen.query_one("#trigger", Input).focus()
        await pilot.press("ctrl+z")
        assert field.value == "", "what was typed before the step was left can be undone"
        await pilot.press("ctrl+y")
        assert field.value == "zorlax"


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("name", "a/b", "anna"),
        ("name", "", "anna"),
        ("repeats", "0", "3"),
        ("validation", "100 %", "10 %"),
    ],
)
async def test_an_error_goes_when_its_field_is_edited(
    smith: Smith, until: Until, text: Shown, photos: Path, field: str, wrong: str, right: str
) -> None:
    app = smith("folders", extras=entered(photos, **{{"validation": "held_out"}.get(field, field): wrong}))
    async with app.run_test(size=(120, 36)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: line_text(app).startswith("✗"))
        await fill(pilot, field, right)
        await until(pilot, lambda: line_text(app) == "" and "✗" not in line_text(app, "plan"))


async def test_another_name_and_repeats_rename_and_keep_captions(
    smith: Smith, until: Until, home: Path, photos: Path
) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
        caption = next((home / "anna" / "training_images").glob("*/fox [[]0].txt"))
        caption.write_text("edited")
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await fill(pilot, "name", "berta")
        await fill(pilot, "repeats", "5")
        await pilot.press("escape")
        await until(pilot, lambda: app.draft.step == "model")
        assert app.draft.get("dataset.train_data_dir") == str(home / "anna" / "training_images")
        assert app.draft.get("dataset.num_repeats") == 5, "until it is renamed, the folder's name is overruled"
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
    assert not (home / "anna").exists()
    folder = home / "berta" / "training_images" / "5_berta"
    assert (folder / "fox [0].txt").read_text() == "edited"
    assert len(list(folder.glob("*.png"))) == 7
    assert app.draft.get("dataset.train_data_dir") == str(folder.parent)
    assert app.draft.get("dataset.num_repeats") is None


async def test_regularization_is_opened_and_made(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    (home / "people").mkdir()
    Image.new("RGB", (512, 512)).save(home / "people" / "one.png")
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        assert not app.screen.query_one("#regularization").display
        app.screen.query_one("#regularize").focus()
        await pilot.press("space")
        await until(pilot, lambda: app.screen.query_one("#regularization").display)
        await until(pilot, lambda: "[x] Regularization images" in text(app))
        await fill(pilot, "class-word", "person")
        await fill(pilot, "reg-source", "people")
        await until(pilot, lambda: "1 regularization" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")
    assert (home / "anna" / "regularization_images" / "1_person" / "one.png").is_file()
    assert app.draft.get("dataset.reg_data_dir") == str(home / "anna" / "regularization_images")


async def test_a_place_that_refuses_is_shown_and_the_step_stays(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    (home / "file").write_text("in the way")
    app = smith("folders", extras=entered(photos, place=str(home / "file")))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "is a file, where a folder" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert (app.draft.step, app.draft.done) == ("folders", [])


async def test_escape_stops_and_next_continues(
    smith: Smith, until: Until, text: Shown, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow(project: Any, *, earlier: Any, progress: Callable[[int, int], None]) -> Any:
        begun.set()
        while True:  # ends by the cancelled worker
            progress(1, 12)
            time.sleep(0.01)

    monkeypatch.setattr(taking_in, "make", slow)
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: begun.is_set() and "1 of 12 files imported" in line_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: line_text(app).startswith("! Stopped."))
        assert (app.draft.step, app.draft.done) == ("folders", [])
        monkeypatch.setattr(taking_in, "make", make)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")


async def test_leaving_while_images_are_taken_in_stops_it(
    smith: Smith, until: Until, text: Shown, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()

    def slow(project: Any, *, earlier: Any, progress: Callable[[int, int], None]) -> Any:
        try:
            while True:
                progress(1, 12)
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(taking_in, "make", slow)
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "1 of 12 files" in line_text(app))
        app.go_to("model")
        await until(pilot, ended.is_set)
        assert app.draft.step == "model"


async def test_images_of_another_source_are_shown_once(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    there = home / "anna" / "training_images" / "67_anna"
    there.mkdir(parents=True)
    Image.new("RGB", (512, 512)).save(there / "other.png")
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: line_text(app).startswith("! Other images are there"))
        assert "1 image in the project is not from this source, but used too." in line_text(app, "plan")
        assert app.draft.step == "folders"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "captions")


async def test_the_folder_is_read_again_on_demand(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images" in text(app))
        Image.new("RGB", (512, 512)).save(photos / "new.png")
        await pilot.press("ctrl+r")
        await until(pilot, lambda: "7 images" in text(app))


async def test_help_is_about_the_field(smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(120, 36)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen) and app.focused is not None)
        app.screen.query_one("#take-in").focus()
        await pilot.press("f1")
        await until(pilot, lambda: "a hard link where" in text(app))
        await until(pilot, lambda: "A project is the folder" in text(app))


# The trigger word under another name


def captioned(photos: Path, word: str) -> None:
    for image in photos.glob("fox*.png"):
        image.with_suffix(".txt").write_text(f"{word}, a fox on grass")


async def test_a_copied_run_under_a_new_name_keeps_its_trigger_word(
    smith: Smith, until: Until, text: Shown, home: Path, photos: Path
) -> None:
    """From the copied run to Review: the new name never becomes the trigger word, and every step shows it."""
    captioned(photos, "ann")
    run_dir = prepared_run(
        home, "ann", dataset={"train_data_dir": str(photos)},
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")}, memory={"device": "cpu"},
    )  # fmt: skip
    app = smith()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: getattr(app.screen, "runs", None))
        await pilot.press("c")
        await until(
            pilot,
            lambda: app.draft.step == "folders" and "Trigger ann" in " ".join(text(app).replace("│", " ").split()),
        )
        await fill(pilot, "name", "ann 2")
        await until(pilot, lambda: "ann: not a word the model knows (2 tokens)" in text(app))
        await until(pilot, lambda: "6 images, all with captions" in text(app))
        assert "without the trigger word" not in text(app)
        await pilot.press("ctrl+g", "5")
        await until(pilot, lambda: app.draft.step == "parameters" and app.screen.query("FieldList"))
        await pilot.press("slash", *"trigger", "enter")
        row = next(line for line in text(app).splitlines() if "Trigger word" in line)
        assert row.split("step")[0].split()[-1] == "ann"
        await pilot.press("ctrl+g", "6")
        await until(pilot, lambda: "Trigger word: ann, in 6 of 6 captions" in app.screen.query_one(Hanging).text)
        assert "do not have the trigger word" not in app.screen.query_one(Hanging).text
        config = app.draft.config()
        assert (config.saving.output_name, config.trigger) == ("ann 2", "ann")
    assert run_dir.name == "ann"


async def test_a_renamed_project_keeps_the_word_of_its_captions(
    smith: Smith, until: Until, text: Shown, photos: Path
) -> None:
    captioned(photos, "anna")
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images, all with captions" in text(app))
        await fill(pilot, "name", "berta")
        assert app.screen.query_one("#trigger", Input).value == "anna"
        assert "6 of 6 captions have the word anna: it stays the trigger word." in line_text(app)
        await fill(pilot, "trigger", "")  # whoever empties it means the name
        await until(pilot, lambda: "! 6 of 6 captions without the trigger word berta" in " ".join(text(app).split()))
        await pilot.press("ctrl+z")


async def test_a_trigger_word_that_is_deleted_to_type_another_stays_deleted(
    smith: Smith, until: Until, text: Shown, photos: Path
) -> None:
    captioned(photos, "anna")
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "6 images, all with captions" in text(app))
        await fill(pilot, "trigger", "fox")
        await fill(pilot, "name", "berta")
        await fill(pilot, "trigger", "")
        assert app.screen.query_one("#trigger", Input).value == ""
        await pilot.press(*"anna")
        assert app.screen.query_one("#trigger", Input).value == "anna"


async def test_captions_without_the_trigger_word_are_counted_at_once(
    smith: Smith, until: Until, text: Shown, photos: Path
) -> None:
    app = smith("folders", extras=entered(photos))
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: "! 4 of 4 captions without the trigger word anna" in " ".join(text(app).split()))
        await fill(pilot, "trigger", "fox")
        await until(
            pilot,
            lambda: (
                "fox: a word that the model knows (1 token)" in text(app)
                and "without the trigger word" not in text(app)
            ),
        )


async def test_the_demo_under_another_name_is_called_as_in_its_captions(smith: Smith, until: Until) -> None:
    app = smith("folders", {"model.pretrained_model_name_or_path": str(ASSETS / "demo_base")}, preset="demo")
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("folders")
        await until(pilot, lambda: bool(app.screen.query("#name")))
        assert app.screen.query_one("#trigger", Input).value == "smithy"
        await fill(pilot, "name", "bw")
        app.screen.store()  # type: ignore[attr-defined]
        config = app.draft.config()
        assert (config.saving.output_name, config.trigger) == ("bw", "smithy")
