"""The contact sheet: a row a prompt, a column a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.runs import Event, RunDir
from engine.runs.contact import Samples, collect, sheet_path, write_sheet
from engine.runs.events import event_of
from engine.runs.grid import GAP, HEAD, LABELS, TILE


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    run_dir.samples.mkdir(parents=True)
    return run_dir


@pytest.fixture
def events(run_dir: RunDir) -> list[Event]:
    colours = {(0, 0): "red", (0, 50): "lime", (1, 0): "blue", (1, 50): "white"}
    events = []
    for number, ((index, step), colour) in enumerate(colours.items()):
        path = run_dir.samples / f"{index}-{step}.png"
        Image.new("RGB", (64, 32), colour).save(path)
        data = {"path": str(path), "prompt": f"prompt {index} ロボット [x]", "index": index, "step": step}
        events.append(event_of("sample", data, number, 0.0))
    return events


def test_every_image_has_its_place(events: list[Event], run_dir: RunDir, tmp_path: Path) -> None:
    path = write_sheet(collect(events, run_dir), tmp_path / "new" / "sheet.png")
    assert path is not None
    sheet = Image.open(path)
    assert sheet.size == (LABELS + 2 * (TILE + GAP) + GAP, HEAD + 2 * (TILE + GAP) + GAP)
    across, down = ([edge + n * (TILE + GAP) + TILE // 4 for n in (0, 1)] for edge in (LABELS, HEAD))
    centres = [(x, y) for y in down for x in across]
    assert [sheet.getpixel(at) for at in centres] == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]


def test_missing_images_leave_a_gap(events: list[Event], run_dir: RunDir, tmp_path: Path) -> None:
    Path(events[1].data["path"]).unlink()
    samples = collect(events, run_dir)
    assert sorted(samples.images) == [(0, 0), (1, 0), (1, 50)]
    assert write_sheet(samples, tmp_path / "sheet.png") is not None
    assert write_sheet(collect([], run_dir), tmp_path / "none.png") is None and not (tmp_path / "none.png").exists()


def test_a_long_run_shows_first_and_last_and_some_between() -> None:
    samples = Samples({0: ""}, {(0, step): Path() for step in range(0, 2000, 100)})
    steps = samples.sheet_steps(5)
    assert len(steps) == 5 and steps[0] == 0 and steps[-1] == 1900


def test_the_sheet_belongs_to_the_runs_files(prepared: RunDir) -> None:
    assert sheet_path(prepared).name == "robot_sheet.png"
