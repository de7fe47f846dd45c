"""A job seen from outside; nothing here starts a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.captioning.job import CaptionJob, JobHistory, start, try_out
from engine.dataset.folders import read_folder
from engine.processes import PARENT
from engine.runs.events import event_of
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[3]


def test_screens_may_import_it() -> None:
    heavy = {"torch", "numpy", "transformers", "huggingface_hub", "tokenizers", "textual", "rich"}
    code = f"import sys, engine.captioning.job; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_files_are_no_images(images: Path) -> None:
    job = CaptionJob.of(images)
    job.path.mkdir()
    (job.path / "a.png").write_bytes(b"")
    folder = read_folder(images, "Images")
    assert len(folder.images) == 6
    assert not folder.subfolders and not folder.rejected


def test_time_left_counts_from_the_beginning_of_this_process() -> None:
    history = JobHistory()

    def emit(seq: int, time: float, kind: str, **data: object) -> None:
        history.add(event_of(kind, data, seq, time))

    emit(0, 0, "run_started")
    emit(1, 5, "progress", done=0, total=10, written=[])
    assert history.seconds_left is None
    emit(2, 9, "progress", done=2, total=10, written=["a.png", "b.png"])
    assert history.seconds_left == pytest.approx(16)
    emit(3, 1000, "run_started")
    emit(4, 1010, "progress", done=2, total=10, written=[])
    assert history.seconds_left is None
    emit(5, 1011, "progress", done=4, total=10, written=["c.png", "d.png"])
    assert history.seconds_left == pytest.approx(3)
    assert history.written == ["a.png", "b.png", "c.png", "d.png"]


def test_a_trial_ends_with_whoever_started_it_and_a_job_does_not(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    def launch(*_: object, variables: object = None, **__: object) -> SimpleNamespace:
        started.append(variables)
        return SimpleNamespace(wait=lambda: 0)

    monkeypatch.setattr("engine.captioning.job.launch", launch)
    start(images, "blip", {})
    (tmp_path / "trial").mkdir()
    try_out(images, "blip", {}, 2, tmp_path / "trial")
    assert started == [None, {PARENT: f"{os.getpid()} main"}]


def test_what_cannot_start(images: Path) -> None:
    with refused("caption-option-not-possible", "Beams: 0"):
        start(images, "blip", {"num_beams": 0})
    assert not CaptionJob.of(images).path.exists()
    (images / ".captions").write_text("a file in its place")
    with refused("write-failed", ".captions"):
        start(images, "blip", {})
