"""The captioning process as a whole, with real classes: it ends, is killed, is stopped, and goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from engine.captioning.job import CaptionJob, JobHistory, start, stop, try_out, undo
from engine.captioning.model_files import own_place
from engine.errors import UsageError
from engine.runs.events import read_events
from engine.runs.state import RunState, true_state
from tests.fake_endpoint import FakeEndpoint, running
from tests.tiny_blip import WORDS

EndOf = Callable[[CaptionJob], RunState]


def history(job: CaptionJob) -> JobHistory:
    """What the job has told so far."""
    told = JobHistory()
    for event in read_events(job.events_path):
        told.add(event)
    return told


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def many(folder: Path, count: int = 10) -> None:
    """More pictures, so that a process can be met in the middle."""
    for number in range(count):
        Image.new("RGB", (40, 40), (number * 20, 80, 80)).save(folder / f"more{number}.png")


def test_missing_captions_are_made_and_others_are_kept(pictures: Path, model: Path, end_of: EndOf) -> None:
    (pictures / "blue.txt").write_text("a blue sheet\n")
    (pictures / "red.caption").write_text("\n")
    (pictures / "white.png").write_bytes(b"\x89PNG no more")
    job = start(
        pictures,
        "blip",
        {"model": str(model), "trigger_word": "smithy", "postfix": "here", "batch_size": 4, "max_length": 12},
    )
    assert end_of(job).state == "finished"
    told = history(job)
    assert (told.done, told.total, told.ending) == (5, 5, "finished")
    assert len(told.warnings) == 1 and "white.png" in told.warnings[0]
    assert sorted(told.written) == ["black.png", "green.png", "orange.png", "red.png"]
    assert (pictures / "blue.txt").read_text() == "a blue sheet\n"
    assert not (pictures / "white.txt").exists()
    for caption in (pictures / "black.txt", pictures / "red.caption"):
        first, *words, last = caption.read_bytes().decode().rstrip("\n").split(" ")
        assert (first, last) == ("smithy,", "here")
        assert len(words) >= 1 and set(words) <= set(WORDS)
    assert not (pictures / "red.txt").exists(), "an existing file keeps its extension"


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    """A server that takes its time, so that a process can be met in the middle; no torch has to be loaded for it."""
    with running() as fake:
        fake.delay = 0.1
        yield fake


def test_killed_in_the_middle_it_goes_on_and_all_can_be_undone(
    pictures: Path, server: FakeEndpoint, end_of: EndOf
) -> None:
    """Appended to what is there, a caption that was made twice would show."""
    many(pictures)
    for picture in pictures.glob("*.png"):
        picture.with_suffix(".txt").write_text("old")
    values = {"url": server.address, "existing": "append", "prefix": "new:"}
    job = start(pictures, "endpoint", values)
    wait_for(lambda: len(history(job).written) >= 2)
    os.kill(true_state(job).pid or 0, signal.SIGKILL)
    wait_for(lambda: not true_state(job).live)
    assert true_state(job).state == "lost"
    before = {name: (pictures / name).with_suffix(".txt").stat().st_mtime_ns for name in history(job).written}
    assert 2 <= len(before) < 16
    by_hand = pictures / f"{Path(next(iter(before))).stem}.txt"
    by_hand.write_text("by hand")
    del before[next(iter(before))]
    assert end_of(start(pictures, "endpoint", {**values, "parallel": 3})).state == "finished"
    told = history(job)
    assert (told.done, told.total) == (16, 16)
    assert len(told.written) == len(set(told.written)), "none twice"
    assert all((pictures / name).with_suffix(".txt").stat().st_mtime_ns == moment for name, moment in before.items())
    assert len(server.asked) in (16, 17), "at most the one that the kill has cut is asked again"
    texts = {path.name: path.read_text() for path in pictures.glob("*.txt")}
    assert texts.pop(by_hand.name) == "by hand"
    assert len(texts) == 15 and all(
        text.startswith("old, new: ") and text.count("new:") == 1 for text in texts.values()
    )
    undone = undo(job)
    assert (undone.what, undone.changed, undone.skipped) == ("Endpoint", 15, (by_hand,))
    assert {path.read_text() for path in pictures.glob("*.txt")} == {"old", "by hand"}


def test_another_job_begins_anew_and_is_undone_alone(pictures: Path, end_of: EndOf) -> None:
    first = {"template": "one", "existing": "append"}
    end_of(start(pictures, "template", first))
    end_of(start(pictures, "template", first))
    job = CaptionJob.of(pictures)
    assert {path.read_text() for path in pictures.glob("*.txt")} == {"one\n"}, "the same tag is not added again"
    end_of(start(pictures, "template", {**first, "template": "two"}))
    assert {path.read_text() for path in pictures.glob("*.txt")} == {"one, two\n"}
    undo(job)
    assert {path.read_text() for path in pictures.glob("*.txt")} == {"one\n"}


def test_a_trial_tells_and_writes_nothing(pictures: Path, tmp_path: Path, end_of: EndOf) -> None:
    (pictures / "black.txt").write_text("old")
    before = sorted(pictures.rglob("*"))
    place = tmp_path / "trial"
    place.mkdir()
    values = {"template": "photo of {trigger}", "trigger_word": "smithy", "existing": "prepend"}
    job = try_out(pictures, "template", values, 2, place)
    assert end_of(job).state == "finished"
    proposed = [entry for event in read_events(job.events_path) for entry in event.get("proposed", [])]
    assert proposed == [
        {"picture": "black.png", "before": "old", "after": "photo of smithy, old"},
        {"picture": "blue.png", "before": "", "after": "photo of smithy"},
    ]
    assert sorted(pictures.rglob("*")) == before


def test_nothing_is_undone_while_captions_are_made(pictures: Path, server: FakeEndpoint, end_of: EndOf) -> None:
    job = start(pictures, "endpoint", {"url": server.address})
    with pytest.raises(UsageError, match="are being made"):
        undo(job)
    stop(job)
    end_of(job)


def test_when_no_picture_can_be_read_it_has_failed(pictures: Path, end_of: EndOf) -> None:
    for path in pictures.glob("*.png"):
        path.write_bytes(b"\x89PNG no more")
    job = start(pictures, "template", {"template": "words"})
    state = end_of(job)
    assert (state.state, state.exit_code) == ("failed", 3)
    assert state.detail == "None of the 6 pictures gets a caption." and len(history(job).warnings) == 6


def test_a_stop_finishes_the_batch(pictures: Path, server: FakeEndpoint, end_of: EndOf) -> None:
    many(pictures)
    job = start(pictures, "endpoint", {"url": server.address})
    with pytest.raises(UsageError, match="already"):
        start(pictures, "endpoint", {"url": server.address})
    wait_for(lambda: history(job).written)
    stop(job)
    assert end_of(job).state == "stopped"
    told = history(job)
    made = sorted(path.stem for path in pictures.glob("*.txt"))
    assert made == sorted(Path(name).stem for name in told.written)
    assert 0 < len(made) < 16
    assert all(path.read_text().strip() for path in pictures.glob("*.txt"))


def test_a_model_that_is_not_there_offline(pictures: Path, end_of: EndOf) -> None:
    job = start(pictures, "blip", {})
    state = end_of(job)
    assert (state.state, state.exit_code) == ("failed", 3)
    message, hint = history(job).error or ("", "")
    assert message == "The captioning model Salesforce/blip-image-captioning-large is not on this machine."
    assert "model.safetensors" in hint and "Salesforce/blip-image-captioning-large on the Hugging Face hub" in hint
    assert str(own_place("Salesforce/blip-image-captioning-large")) in hint
    assert not list(pictures.glob("*.txt"))
