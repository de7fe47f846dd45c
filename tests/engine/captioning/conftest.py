"""A tiny model, images, and the captioning process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.captioning.job import CaptionJob
from engine.runs.state import RunState, true_state
from tests.tiny_blip import tiny_blip

COLOURS = ("red", "blue", "green", "white", "black", "orange")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny BLIP."""
    return tiny_blip(tmp_path_factory.mktemp("model") / "blip")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; the user's own files are elsewhere."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def images(place: Path) -> Path:
    """A folder of six small images without captions."""
    folder = place / "images"
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (48, 40), colour).save(folder / f"{colour}.png")
    return folder


@pytest.fixture
def end_of() -> Callable[[CaptionJob], RunState]:
    """end_of(job): wait until its process has ended; how."""

    def wait(job: CaptionJob, seconds: float = 120.0) -> RunState:
        end = time.monotonic() + seconds
        while (state := true_state(job)).live:
            assert time.monotonic() < end, "the captioning process does not end"
            time.sleep(0.05)
        return state

    return wait
