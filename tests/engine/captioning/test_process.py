"""The complete captioning process with real classes: it ends, is killed, is stopped, and continues."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from engine.captioning.job import CaptionJob, JobHistory, start, stop, try_out, undo
from engine.captioning.model_files import models_folder
from engine.runs.events import read_events
from engine.runs.state import RunState, true_state
from tests.fake_endpoint import FakeEndpoint, running
from tests.refusals import refused
from tests.tiny_blip import WORDS

EndOf = Callable[[CaptionJob], RunState]


def history(job: CaptionJob) -> JobHistory:
    """The history of the job so far."""
    progress = JobHistory()
    for event in read_events(job.events_path):
        progress.add(event)
    return progress


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def many(folder: Path, count: int = 10) -> None:
    """More images, so that a process can be met in the middle."""
    for number in range(count):
        Image.new("RGB", (40, 40), (number * 20, 80, 80)).save(folder / f"more{number}.png")


def test_missing_captions_are_written_and_others_are_kept(images: Path, model: Path, end_of: EndOf) -> None:
    (images / "blue.txt").write_text("a blue sheet\n")
    (images / "red.caption").write_text("\n")
    (images / "white.png").write_bytes(b"\x89PNG no more")
    job = start(
        images,
        "blip",
        {"model": str(model), "trigger_word": "smithy", "postfix": "here", "batch_size": 4, "max_length": 12},
    )
    assert end_of(job).state == "finished"
    progress = history(job)
    assert (progress.done, progress.total, progress.ending) == (5, 5, "finished")
    assert len(progress.warnings) == 1 and "white.png" in progress.warnings[0]
    assert sorted(progress.written) == ["black.png", "green.png", "orange.png", "red.png"]
    assert (images / "blue.txt").read_text() == "a blue sheet\n"
    assert not (images / "white.txt").exists()
    for caption in (images / "black.txt", images / "red.caption"):
        first, *words, last = caption.read_bytes().decode().rstrip("\n").split(" ")
        assert (first, last) == ("smithy,", "here")
        assert len(words) >= 1 and set(words) <= set(WORDS)
    assert not (images / "red.txt").exists(), "an existing file keeps its extension"


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    """A server that takes its time, so that a process can be met in the middle; no torch has to be loaded for it."""
    with running() as fake:
        fake.delay = 0.1
        yield fake


def test_killed_in_the_middle_it_goes_on_and_all_can_be_undone(
    images: Path, server: FakeEndpoint, end_of: EndOf
) -> None:
    """Appended to what is there, a caption that was made twice would show."""
    many(images)
    for image in images.glob("*.png"):
        image.with_suffix(".txt").write_text("old")
    values = {"url": server.address, "existing": "append", "prefix": "new:"}
    job = start(images, "endpoint", values)
    wait_for(lambda: len(history(job).written) >= 2)
    pid = true_state(job).pid
    assert pid, "0 would be this whole group of processes"
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not true_state(job).live)
    assert true_state(job).state == "lost"
    before = {name: (images / name).with_suffix(".txt").stat().st_mtime_ns for name in history(job).written}
    assert 2 <= len(before) < 16
    by_hand = images / f"{Path(next(iter(before))).stem}.txt"
    by_hand.write_text("by hand")
    del before[next(iter(before))]
    assert end_of(start(images, "endpoint", {**values, "parallel": 3})).state == "finished"
    progress = history(job)
    assert (progress.done, progress.total) == (16, 16)
    assert len(progress.written) == len(set(progress.written)), "none twice"
    assert all((images / name).with_suffix(".txt").stat().st_mtime_ns == moment for name, moment in before.items())
    assert len(server.requests) in (16, 17), "at most the request cut by the kill is repeated"
    texts = {path.name: path.read_text() for path in images.glob("*.txt")}
    assert texts.pop(by_hand.name) == "by hand"
    assert len(texts) == 15 and all(
        text.startswith("old, new: ") and text.count("new:") == 1 for text in texts.values()
    )
    undone = undo(job)
    assert (undone.what, undone.changed, undone.skipped) == ("Endpoint", 15, (by_hand,))
    assert {path.read_text() for path in images.glob("*.txt")} == {"old", "by hand"}


def test_another_job_starts_over_and_is_undone_alone(images: Path, end_of: EndOf) -> None:
    first = {"template": "one", "existing": "append"}
    end_of(start(images, "template", first))
    end_of(start(images, "template", first))
    job = CaptionJob.of(images)
    assert {path.read_text() for path in images.glob("*.txt")} == {"one\n"}, "the same tag is not added again"
    end_of(start(images, "template", {**first, "template": "two"}))
    assert {path.read_text() for path in images.glob("*.txt")} == {"one, two\n"}
    undo(job)
    assert {path.read_text() for path in images.glob("*.txt")} == {"one\n"}


def test_a_trial_reports_and_writes_nothing(images: Path, tmp_path: Path, end_of: EndOf) -> None:
    (images / "black.txt").write_text("old")
    before = sorted(images.rglob("*"))
    place = tmp_path / "trial"
    place.mkdir()
    values = {"template": "photo of {trigger}", "trigger_word": "smithy", "existing": "prepend"}
    job = try_out(images, "template", values, 2, place)
    assert end_of(job).state == "finished"
    proposed = [entry for event in read_events(job.events_path) for entry in event.get("proposed", [])]
    assert proposed == [
        {"image": "black.png", "before": "old", "after": "photo of smithy, old"},
        {"image": "blue.png", "before": "", "after": "photo of smithy"},
    ]
    assert sorted(images.rglob("*")) == before


def test_nothing_is_undone_while_a_job_runs(images: Path, server: FakeEndpoint, end_of: EndOf) -> None:
    job = start(images, "endpoint", {"url": server.address})
    with refused("captioning-is-live", images):
        undo(job)
    stop(job)
    end_of(job)


def test_when_no_image_can_be_read_it_has_failed(images: Path, end_of: EndOf) -> None:
    for path in images.glob("*.png"):
        path.write_bytes(b"\x89PNG no more")
    job = start(images, "template", {"template": "words"})
    state = end_of(job)
    assert (state.state, state.exit_code) == ("failed", 3)
    assert state.detail == "None of the 6 images gets a caption." and len(history(job).warnings) == 6


def test_a_stop_finishes_the_batch(images: Path, server: FakeEndpoint, end_of: EndOf) -> None:
    many(images)
    job = start(images, "endpoint", {"url": server.address})
    with refused("captioning-is-live", images):
        start(images, "endpoint", {"url": server.address})
    wait_for(lambda: history(job).written)
    stop(job)
    assert end_of(job).state == "stopped"
    progress = history(job)
    captioned = sorted(path.stem for path in images.glob("*.txt"))
    assert captioned == sorted(Path(name).stem for name in progress.written)
    assert 0 < len(captioned) < 16
    assert all(path.read_text().strip() for path in images.glob("*.txt"))


def test_a_model_that_is_not_there_offline(images: Path, end_of: EndOf) -> None:
    job = start(images, "blip", {})
    state = end_of(job)
    assert (state.state, state.exit_code) == ("failed", 3)
    error = history(job).error
    assert error is not None and error.code == "captioner-not-here"
    hint = error.hint
    assert "model.safetensors" in hint and "Salesforce/blip-image-captioning-large on the Hugging Face hub" in hint
    assert str(models_folder("Salesforce/blip-image-captioning-large")) in hint
    assert not list(images.glob("*.txt"))
