"""The step of the captions, by keys: list, editor, edits of all captions, undo, captions by a model, back and forth."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from textual.pilot import Pilot
from textual.widgets import Checkbox, Input, Static

from engine.captioning.captioner import KINDS
from engine.captioning.job import CaptionJob
from engine.dataset import caption_files
from engine.errors import StorageError
from engine.paths import ASSETS
from engine.runs.events import EventLog, PhaseEvent, ProgressEvent, RunStartedEvent
from engine.runs.identity import own_identity
from engine.runs.lock import RunLock
from tui.app import LoraSmithApp
from tui.screens.ask import AskScreen
from tui.screens.caption_edits import FrameScreen, ReplaceScreen
from tui.screens.caption_tags import TagsScreen
from tui.screens.captioner import CaptionerScreen, CaptioningScreen
from tui.screens.captions import CaptionsScreen
from tui.screens.problem import ProblemScreen
from tui.setup import caption_book
from tui.widgets.caption_editor import CaptionEditor
from tui.widgets.caption_list import CaptionList
from tui.widgets.image_view import ImageView

Smith = Callable[..., LoraSmithApp]
Until = Callable[..., Awaitable[None]]
Shown = Callable[[LoraSmithApp], str]
CAPTIONS = {"a": "fox, red sky", "b": "red hat", "c": None, "d": "", "e": "fox, " + "red " * 80}


@pytest.fixture
def photos(home: Path) -> Path:
    """Five images: with a caption, without the trigger, without a caption, with an empty one, with a long one."""
    folder = home / "photos [1]"
    folder.mkdir()
    for name, caption in CAPTIONS.items():
        Image.new("RGB", (32, 48), "red").save(folder / f"{name}.png")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption)
    return folder


@pytest.fixture
def app(smith: Smith, photos: Path) -> LoraSmithApp:
    values = {"dataset.train_data_dir": str(photos), "dataset.class_tokens": "fox", "saving.output_name": "fox"}
    return smith("captions", values, extras={"folders.take_in": "copy", "captions.captioner": "blip"})


async def opened(app: LoraSmithApp, pilot: Pilot[Any], until: Until) -> CaptionsScreen:
    """The step with everything read."""
    app.go_to("captions")
    await until(pilot, lambda: isinstance(app.screen, CaptionsScreen) and app.screen.book is not None)
    await until(pilot, lambda: isinstance(app.focused, CaptionList))
    assert isinstance(app.screen, CaptionsScreen)
    return app.screen


def line_text(app: LoraSmithApp, id: str = "message") -> str:
    step = next(screen for screen in app.screen_stack if isinstance(screen, CaptionsScreen))
    return str(step.query_one(f"#{id}", Static).render())


async def test_what_is_there_and_what_is_wrong_with_it(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.pause()
        screen = text(app)
        assert "3 of 5 images with a caption, ✗ 1 without, ✗ 1 empty, ! 1 without fox," in screen
        assert "! 1 over 75 tokens" in screen
        assert "Without a caption a run uses “fox”." in screen
        for row in ("✓ a.png", "! b.png", "✗ c.png", "✗ d.png", "! e.png"):
            assert row in screen
        assert "4 of 75 tokens" in screen and "✓ trigger fox" in screen and "✓ saved in a.txt" in screen
        await pilot.press("down")
        await until(pilot, lambda: "! without the trigger fox" in line_text(app, "about"))
        await pilot.press("down")
        await until(pilot, lambda: "✗ no caption: “fox” is used" in line_text(app, "about"))
        await pilot.press("end")
        await until(pilot, lambda: "! 82 of 75 tokens: the end is cut off" in line_text(app, "about"))
        await pilot.press("home", "m")
        await until(pilot, lambda: "b.png" in line_text(app, "about"))
        await pilot.press("m", "m", "m", "m")
        await until(pilot, lambda: "b.png" in line_text(app, "about"))
    assert (photos / "b.txt").read_text() == "red hat"
    assert not (photos / "c.txt").exists()


async def test_a_filter_without_a_match_shows_no_image(app: LoraSmithApp, until: Until, text: Shown) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "saved in a.txt" in text(app))
        await pilot.press("slash", *"nosuch")
        await until(pilot, lambda: "saved in a.txt" not in text(app))
        assert "✓ a.png" not in text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "saved in a.txt" in text(app))


async def test_in_the_smallest_terminal_the_words_go_before_the_image(
    app: LoraSmithApp, until: Until, text: Shown
) -> None:
    async with app.run_test(size=(60, 16)) as pilot:
        screen = await opened(app, pilot, until)
        assert "✓ saved in a.txt" in text(app) and "4 of 75 tokens" in text(app)
        assert not screen.query_one(ImageView).display
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: screen.query_one(ImageView).display)


async def test_a_caption_is_saved_as_one_moves_on(app: LoraSmithApp, until: Until, text: Shown, photos: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: isinstance(app.focused, CaptionEditor))
        await pilot.press(*"fox ubft")
        assert "not saved yet" in line_text(app, "about")
        assert not (photos / "c.txt").exists()
        await pilot.press("escape")
        assert isinstance(app.screen, CaptionsScreen), "Escape in the editor leaves the editor, not the step"
        await until(pilot, lambda: isinstance(app.focused, CaptionList))
        assert (photos / "c.txt").read_text() == "fox ubft\n"
        assert line_text(app) == "✓ c.png: caption saved. u undoes it." and "4 of 5 images" in text(app)
        await pilot.press("enter", *", on", "enter", *"fox here", "enter")
        await until(pilot, lambda: "e.png" in line_text(app, "about"))
        assert isinstance(app.focused, CaptionEditor), "Enter moves to the next caption"
        assert (photos / "c.txt").read_text() == "fox ubft, on\n"
        assert (photos / "d.txt").read_text() == "fox here\n"
        await pilot.press("escape", "up", "enter", "end", "backspace", "up", "ctrl+n")
        await until(pilot, lambda: app.draft.step == "parameters")
    assert (photos / "d.txt").read_text() == "fox her\n"
    assert app.draft.done == ["captions"]


async def test_an_edit_of_one_caption_can_be_undone_after_leaving_the_step(
    app: LoraSmithApp, until: Until, photos: Path
) -> None:
    before = (photos / "a.txt").read_text()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("enter", "end", *", on grass", "escape")
        await until(pilot, lambda: (photos / "a.txt").read_text() != before)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "parameters")
        await opened(app, pilot, until)
        await pilot.press("u")
        await until(pilot, lambda: "a.png: the caption as before." in line_text(app))
    assert (photos / "a.txt").read_text().strip() == before.strip()


async def test_undoing_the_first_caption_of_an_image_deletes_its_file(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path
) -> None:
    async with app.run_test(size=(120, 24)) as pilot:
        await opened(app, pilot, until)
        for word, answer in (("one", "c.png: no caption, as before."), ("two", "changed elsewhere")):
            await pilot.press("home", "down", "down", "enter", *word, "escape")
            await until(pilot, lambda: (photos / "c.txt").exists())
            if word == "two":
                (photos / "c.txt").write_text("written elsewhere")
            await pilot.press("u")
            await until(pilot, lambda answer=answer: answer in text(app))
            assert (photos / "c.txt").exists() == (word == "two")
            assert ("✗ 1 without" in text(app)) == (word == "one")
        assert (photos / "c.txt").read_text() == "written elsewhere"
        assert app.screen.query_one(CaptionEditor).text == "written elsewhere"


async def test_adding_the_trigger_reports_images_without_a_caption(app: LoraSmithApp, until: Until) -> None:
    async with app.run_test(size=(140, 24)) as pilot:
        screen = await opened(app, pilot, until)
        await pilot.press("w")
        await until(pilot, lambda: line_text(app) == "1 caption changed. u undoes it.")
        await until(pilot, lambda: screen.check_action("add_trigger", ()))
        await pilot.press("w")
        words = "2 images have no caption; w adds the word only to captions that are there."
        await until(pilot, lambda: line_text(app) == words)


async def test_several_lines_where_they_are_used(app: LoraSmithApp, until: Until, photos: Path) -> None:
    app.draft.set("dataset.enable_wildcard", True)
    (photos / "a.txt").write_text("one\n\ntwo")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        assert "first line" not in line_text(app, "about")
        await pilot.press("enter", "enter", *"fox", "escape")
        await until(pilot, lambda: (photos / "a.txt").read_text() == "one\ntwo\nfox\n")
        app.draft.set("dataset.enable_wildcard", False)
        await opened(app, pilot, until)
        await until(pilot, lambda: "! only the first line is used" in line_text(app, "about"))


async def test_find_and_replace_and_undo(app: LoraSmithApp, until: Until, text: Shown, photos: Path) -> None:
    before = {path.name: path.read_bytes() for path in photos.glob("*.txt")}
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("u")
        assert not app.screen_stack[-1].is_modal
        await pilot.press("f")
        await until(pilot, lambda: isinstance(app.screen, ReplaceScreen))
        await pilot.press("ctrl+n")
        assert isinstance(app.screen, ReplaceScreen), "nothing to change yet"
        await pilot.press(*"red", "enter", *"blue")
        await until(pilot, lambda: "Found in 3 captions, at 82 places." in text(app))
        assert "- fox, red sky" in text(app) and "+ fox, blue sky" in text(app)
        await pilot.press("shift+tab", "end", "backspace")
        await until(pilot, lambda: "Found in 0 captions" in text(app))
        await pilot.press("tab", "tab", "space")
        assert app.screen.query_one("#whole", Checkbox).value is False
        await until(pilot, lambda: "Found in 3 captions" in text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, CaptionsScreen))
        assert {path.name: path.read_bytes() for path in photos.glob("*.txt")} == before
        await pilot.press("f", *"red", "tab", *"blue", "ctrl+n")
        await until(pilot, lambda: line_text(app) == "3 captions changed. u undoes it.")
        assert (photos / "b.txt").read_text() == "blue hat\n"
        await until(pilot, lambda: "fox, blue sky" in app.screen.query_one(CaptionEditor).text)
        await pilot.press("u")
        await until(pilot, lambda: line_text(app) == "3 captions as before.")
        await until(pilot, lambda: app.screen.query_one(CaptionEditor).text == "fox, red sky")
    assert {path.name: path.read_bytes() for path in photos.glob("*.txt")} == before


async def test_an_edit_can_be_undone_after_a_restart(
    app: LoraSmithApp, smith: Smith, until: Until, photos: Path
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, FrameScreen))
        await pilot.press(*"fox,", "tab", *"outside", "ctrl+n")
        await until(pilot, lambda: line_text(app) == "3 captions changed. u undoes it.")
        assert (photos / "a.txt").read_text() == "fox, red sky outside\n"
        assert (photos / "b.txt").read_text() == "fox, red hat outside\n"
        assert not (photos / "c.txt").exists() and (photos / "d.txt").read_text() == ""
    second = smith("captions", app.draft.values, extras=app.draft.extras)
    async with second.run_test(size=(80, 24)) as pilot:
        await opened(second, pilot, until)
        await pilot.press("u")
        await until(pilot, lambda: line_text(second) == "3 captions as before.")
    assert (photos / "b.txt").read_text() == "red hat"


async def test_tags(app: LoraSmithApp, until: Until, text: Shown) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("t")
        await until(pilot, lambda: isinstance(app.screen, TagsScreen))
        await until(pilot, lambda: "4 different tags in 3 captions" in text(app))
        assert "2  67%  fox" in text(app) and "1  33%  red hat" in text(app)
        await pilot.press("escape")
        assert isinstance(app.screen, CaptionsScreen)


async def test_back_and_forth_keeps_place_and_text(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: str) -> None:
        raise StorageError(f"Writing {path} failed: no space left on the device.")

    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("down", "down", "enter", *"kept", "escape", "escape")
        await until(pilot, lambda: app.draft.step == "folders")
        step = await opened(app, pilot, until)
        assert step.query_one(CaptionList).position == 2
        assert step.query_one(CaptionEditor).text == "kept"
        monkeypatch.setattr(caption_files, "write_text", full)
        await pilot.press("enter", *" not", "escape")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        assert "no space left" in text(app)
        await pilot.press("escape", "down")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        await pilot.press("escape")
        assert step.query_one(CaptionList).position == 2, "what cannot be saved is not left alone"
        await pilot.press("escape")
        await until(pilot, lambda: app.draft.step == "folders")
        monkeypatch.undo()
        step = await opened(app, pilot, until)
        assert step.query_one(CaptionEditor).text == "kept not"
        await pilot.press("ctrl+n")
        await until(pilot, lambda: app.draft.step == "parameters")
    assert (photos / "c.txt").read_text() == "kept not\n"


async def test_no_folder_and_no_images(smith: Smith, until: Until, text: Shown, home: Path) -> None:
    app = smith("captions", {"dataset.train_data_dir": str(home / "nowhere")})
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("captions")
        await until(pilot, lambda: "✗ Images: the folder" in text(app))
        await pilot.press("ctrl+n")
        assert app.draft.step == "captions" and "does not exist" in line_text(app)
        await pilot.press("f", "a", "t", "u", "c", "m")
        assert isinstance(app.screen, CaptionsScreen)
        app.draft.set("dataset.train_data_dir", "")
        app.go_to("captions")
        await until(pilot, lambda: "No folder of images is chosen yet." in text(app))
        await pilot.press("escape")
        assert app.draft.step == "folders"


async def test_a_caption_that_is_no_utf8_stops_the_way_until_it_is_rewritten(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path
) -> None:
    (photos / "a.txt").write_bytes(b"caf\xe9")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "✗ 1 unreadable" in text(app) and "encoding:" in text(app))
        await pilot.press("ctrl+n")
        assert line_text(app) == "✗ 1 caption cannot be read: a.txt"
        await pilot.press("enter", *"fox cafe", "escape", "ctrl+n")
        await until(pilot, lambda: app.draft.step == "parameters")
    assert (photos / "a.txt").read_text() == "fox cafe\n"


async def test_one_image_can_have_the_screen_and_the_list_keeps_the_focus(
    app: LoraSmithApp, until: Until, text: Shown
) -> None:
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await opened(app, pilot, until)
        image = screen.query_one(ImageView)
        width = image.size.width
        await pilot.press("f11")
        await until(pilot, lambda: image.size.width > width)
        assert isinstance(app.focused, CaptionList) and "✗ c" not in text(app), "the list is hidden"
        await pilot.press("down")
        await until(pilot, lambda: screen.shown == 1)
        await pilot.press("f11")
        await until(pilot, lambda: image.size.width == width)
        assert isinstance(app.focused, CaptionList) and app.focused.position == 1
        await pilot.press("enter", "f11")
        await until(pilot, lambda: image.size.width > width)
        await pilot.press("f11")
        await until(pilot, lambda: image.size.width == width and isinstance(app.focused, CaptionEditor))


async def test_where_the_captions_are(app: LoraSmithApp, smith: Smith, until: Until, text: Shown, photos: Path) -> None:
    own = smith("captions", app.draft.values, extras={"folders.take_in": "leave"})
    async with own.run_test(size=(120, 36)) as pilot:
        await opened(own, pilot, until)
        assert f"in your own folder {photos}." in line_text(own, "notes")
    demo = smith("captions", {"dataset.train_data_dir": str(ASSETS / "demo_pictures")})
    async with demo.run_test(size=(80, 24)) as pilot:
        await opened(demo, pilot, until)
        assert "come with the program" in line_text(demo, "notes") and "cannot be edited" in line_text(demo, "notes")
        offered = {active.binding.action for active in demo.screen.active_bindings.values()}
        assert not offered & {"edit", "captioner", "add_trigger", "replace", "frame", "undo"} and "tags" in offered
        await pilot.press("enter", "f", "a", "c", "x")
        assert isinstance(demo.screen, CaptionsScreen) and isinstance(demo.focused, CaptionList)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: demo.draft.step == "parameters")
    assert not (ASSETS / "demo_pictures" / ".captions").exists()


async def test_the_list_stays_quick_with_ten_thousand(
    app: LoraSmithApp, until: Until, photos: Path, text: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more rows are drawn than are seen, however long the list is."""
    for number in range(10_000):
        (photos / f"p{number:05}.png").touch()
    marked: list[object] = []
    real = caption_book.Book.mark

    def mark(self: caption_book.Book, file: caption_files.CaptionFile) -> str:
        marked.append(file)
        return real(self, file)

    monkeypatch.setattr(caption_book.Book, "mark", mark)
    async with app.run_test(size=(80, 24)) as pilot:
        app.go_to("captions")
        await until(pilot, lambda: "of 10005 images" in text(app), 60)
        marked.clear()
        await pilot.press("end")
        await until(pilot, lambda: "p09999.png" in line_text(app, "about"))
        await until(pilot, lambda: "✗ p09999.png" in text(app))
        assert 0 < len(marked) < 500


# Captions by a model. The process itself has tests of its own; here a lock and an event log stand for it.


async def test_the_options_of_the_model(app: LoraSmithApp, until: Until, text: Shown, photos: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))
        await until(pilot, lambda: "2 of 5 images without a caption" in text(app))
        assert "Salesforce/blip-image-captioning-large" in text(app)
        assert app.screen.query_one("#trigger_word", Input).value == "fox"
        while not (isinstance(app.focused, Input) and app.focused.id == "batch_size"):
            await pilot.press("tab")
        assert "faster on a GPU" in text(app) and "from 1 to 256" in text(app)
        await pilot.press("end", "backspace", "0", "ctrl+n")
        assert "✗ Batch size:" in text(app) and isinstance(app.screen, CaptionerScreen)
        await pilot.press("escape")
        assert isinstance(app.screen, CaptionsScreen)
    assert not CaptionJob.of(photos).path.exists()


async def test_without_the_model_it_shows_what_to_fetch(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    async with app.run_test(size=(120, 36)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("c", "enter", "ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, CaptioningScreen))
        await until(pilot, lambda: "✗ BLIP: The captioning model" in text(app).replace("│", ""), 120)
        shown_text = " ".join(text(app).replace("│", " ").split())
        assert "model.safetensors" in shown_text and "set it as the model" in shown_text
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))
        await pilot.press("escape")
        assert "is not on this machine" in line_text(app, "job")
    assert app.draft.extras["captions.options"]["blip"]["existing"] == "keep"


@pytest.fixture
def job(photos: Path) -> CaptionJob:
    """A job that is running, in this process: two of three are done."""
    job = CaptionJob.of(photos)
    job.control.mkdir(parents=True)
    job.meta_path.write_text(json.dumps({"version": 1, "captioner": "blip", "options": {}}))
    job.state_path.write_text(json.dumps({**own_identity(), "state": "running"}))
    return job


async def test_a_job_is_found_again_followed_and_stopped(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path, job: CaptionJob
) -> None:
    events = EventLog(job.events_path)
    events.emit(RunStartedEvent(name="x", pid=1))
    events.emit(PhaseEvent(name="caption", state="start"))
    events.emit(ProgressEvent(phase="caption", done=0, total=2, unit="image", written=[]))
    with RunLock(job.lock_path):
        async with app.run_test(size=(80, 24)) as pilot:
            step = await opened(app, pilot, until)
            await until(pilot, lambda: "BLIP: 0 of 2 images" in line_text(app, "job"))
            await pilot.press("down", "down")
            (photos / "c.txt").write_text("fox, a hat")
            events.emit(ProgressEvent(phase="caption", done=1, total=2, unit="image", written=["c.png"]))
            await until(pilot, lambda: step.query_one(CaptionEditor).text == "fox, a hat")
            assert "4 of 5 images" in text(app)
            await pilot.press("escape")
            await until(pilot, lambda: app.draft.step == "folders")
            await opened(app, pilot, until)
            await until(pilot, lambda: "BLIP: 1 of 2 images" in line_text(app, "job"))
            await pilot.press("down", "enter", *"mine")
            (photos / "d.txt").write_text("fox, a cat")
            events.emit(ProgressEvent(phase="caption", done=2, total=2, unit="image", written=["d.png"]))
            await until(pilot, lambda: "5 of 5 images" in text(app))
            assert app.screen.query_one(CaptionEditor).text == "mine", "what is being typed stays"
            await pilot.press("escape", "c")
            await until(pilot, lambda: isinstance(app.screen, CaptioningScreen))
            assert "2 of 2 images" in text(app)
            await pilot.press("s")
            await until(pilot, lambda: list(job.control.glob("*.json")))
        (command,) = job.control.glob("*.json")
        assert json.loads(command.read_text())["command"] == "stop"
    assert (photos / "d.txt").read_text() == "mine\n"


async def test_a_job_that_was_killed_explains_itself(app: LoraSmithApp, until: Until, job: CaptionJob) -> None:
    job.state_path.write_text(json.dumps({**own_identity(), "pid": 2**22 - 3, "state": "running"}))
    events = EventLog(job.events_path)
    events.emit(ProgressEvent(phase="caption", done=1, total=3, unit="image", written=[]))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "! BLIP ended unexpectedly at 1 of 3 images." in line_text(app, "job"))
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))


async def test_captions_by_a_model_from_the_keys(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny_blip import tiny_blip

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    app.draft.extras["captions.options"] = {"blip": {"model": str(tiny_blip(tmp_path / "blip")), "max_length": 12}}
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, CaptioningScreen))
        await until(pilot, lambda: "✓ BLIP: 2 captions written." in text(app), 120)
        await pilot.press("escape")
        await until(pilot, lambda: "5 of 5 images" in text(app))
        assert (photos / "b.txt").read_text() == "red hat"
    for name in ("c", "d"):
        assert (photos / f"{name}.txt").read_text().startswith("fox, ")


async def test_a_job_that_cannot_start_shows_why(app: LoraSmithApp, until: Until, text: Shown, photos: Path) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        (photos / ".captions").write_text("a file in its place")
        await pilot.press("c", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, ProblemScreen))
        assert "cannot be written" in text(app)


async def test_a_template_from_the_keys_and_back_again(
    app: LoraSmithApp, until: Until, text: Shown, photos: Path
) -> None:
    """All captioners fit into 80 x 24; what one has written is taken back by u, and what was edited since stays."""
    before = {path.name: path.read_bytes() for path in photos.glob("*.txt")}
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert all(kind.title in text(app) for kind in KINDS.values())
        await pilot.press("end", "enter")
        await until(pilot, lambda: isinstance(app.screen, CaptionerScreen))
        await until(pilot, lambda: "Captions by Template" in text(app))
        assert "2 of 5 images without a caption" in text(app)
        await pilot.press("ctrl+u", *"a {trigger} in {where}", "ctrl+n")
        await until(pilot, lambda: "not {where}" in text(app))
        await pilot.press("ctrl+u", *"a {trigger}, {name}", "ctrl+n")
        await until(pilot, lambda: "✓ Template: 2 captions written." in text(app), 60)
        await pilot.press("escape")
        await until(pilot, lambda: "5 of 5 images" in text(app))
        assert "u undoes it." in line_text(app, "job")
        assert (photos / "c.txt").read_text() == "a fox, c\n"
        (photos / "d.txt").write_text("mine")
        await pilot.press("u")
        await until(pilot, lambda: "Changed since and not touched: d.txt." in line_text(app))
    assert app.draft.extras["captions.captioner"] == "template"
    after = {path.name: path.read_bytes() for path in photos.glob("*.txt")}
    assert after == {**before, "d.txt": b"mine"}
