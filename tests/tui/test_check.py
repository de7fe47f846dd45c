"""`lorasmith check`: words, JSON, exit codes, and whose folders it takes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.report.__main__ import answer
from engine.runs.find import record_run
from engine.runs.prepare import prepare_run
from tests.drawn_images import save, scene
from tui.commands.check import project_folders
from tui.main import run

Lorasmith = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Lorasmith:
    """here(*arguments): `lorasmith` and the report in this process; the first test has both as processes."""

    def ask(module: str, request: Any, title: str, progress: Callable[..., object], cancelled: object) -> Any:
        assert module == "engine.dataset.report"
        return json.loads(json.dumps(answer(json.loads(json.dumps(request)), progress)))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        return subprocess.CompletedProcess(arguments, run([*arguments]), *capsys.readouterr())

    monkeypatch.setattr("engine.dataset.report.process.worker", SimpleNamespace(ask=ask))
    return call


@pytest.fixture
def photos(place: Path) -> Path:
    """Two equal images and another one."""
    folder = place / "photos"
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        save(folder, name, scene(seed, (128, 128)), f"f0x, {name}")
    return folder


def test_the_report_in_words(lorasmith: Lorasmith, photos: Path) -> None:
    (photos / "film.mp4").write_bytes(b"")
    (photos / "c.txt").write_bytes("f0x, a café".encode("latin-1"))
    done = lorasmith("check", str(photos), "--trigger", "f0x")
    assert done.returncode == 3
    lines = done.stdout.splitlines()
    assert "! Copies: 2 images [duplicate]" in lines
    assert "  · a.png, b.png" in lines
    assert lines[-1] == "3 images: 1 error, 3 warnings, 2 notes"
    assert "byte 10 is 0xe9" in done.stdout.replace("\n    ", " ")
    assert max(len(line) for line in lines if str(photos) not in line) <= 80
    assert "i Other files: 1 file [stray-file]" in lines


def test_json_and_a_image_that_is_broken(here: Lorasmith, photos: Path) -> None:
    (photos / "c.png").write_bytes(b"no image")
    done = here("check", str(photos), "--json", "--set", "dataset.resolution=128")
    report = json.loads(done.stdout)
    assert done.returncode == 3
    assert report["levels"]["error"] == 1
    assert report["findings"][0]["cases"] == [
        {"images": [str(photos / "c.png")], "text": "broken, or not an image of a known format"}
    ]
    assert report["buckets"] == [[128, 128, 2]] or report["buckets"] == []


def test_flip_aug_of_a_preset_is_reported(here: Lorasmith, photos: Path, place: Path) -> None:
    (place / "mine.toml").write_text("[dataset]\nflip_aug = true\nmin_bucket_reso = 64\nresolution = 128\n")
    done = here("check", str(photos), "--preset", "mine.toml")
    assert "! Mirroring is on (flip_aug) [flip-aug]" in done.stdout


def test_no_images_is_exit_code_3(here: Lorasmith, place: Path) -> None:
    (place / "empty").mkdir()
    done = here("check", str(place / "empty"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "no images" in done.stderr


def test_a_folder_that_does_not_exist_is_the_first_thing_to_read(here: Lorasmith, place: Path) -> None:
    done = here("check", str(place / "nope"))
    assert done.returncode == 3 and "nope does not exist" in done.stderr.splitlines()[0]


def test_wrong_use(here: Lorasmith, photos: Path) -> None:
    assert here("check").returncode == 2
    done = here("check", str(photos), "--repair", str(photos / "inside"))
    assert done.returncode == 2
    assert "inside the image folder" in done.stderr
    assert not (photos / "inside").exists()


def test_a_page_replaces_only_an_earlier_one(here: Lorasmith, photos: Path, place: Path) -> None:
    (place / "notes.html").write_text("mine")
    for target, code, message in (
        ("notes.html", 2, "and no earlier report"), (str(photos), 2, "is a folder"), ("notes.html/r.html", 5, "cannot"),
        ("new/r.html", 0, "The report with images is in"), ("new/r.html", 0, "The report with images is in"),
    ):  # fmt: skip
        done = here("check", str(photos), "--html", target)
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert (place / "notes.html").read_text() == "mine"


def test_projects_of_both_programs(tmp_path: Path) -> None:
    assert project_folders(tmp_path) == (tmp_path, None)
    (tmp_path / "training_images").mkdir()
    (tmp_path / "regularization_images").mkdir()
    assert project_folders(tmp_path) == (tmp_path / "training_images", None)
    (tmp_path / "regularization_images" / "1_fox").mkdir()
    assert project_folders(tmp_path)[1] == tmp_path / "regularization_images"
    (tmp_path / "gui" / "img").mkdir(parents=True)
    assert project_folders(tmp_path / "gui") == (tmp_path / "gui" / "img", None)
    save(tmp_path, "loose.png", scene(1, (64, 64)), None)
    assert project_folders(tmp_path) == (tmp_path, None), "a folder that has images itself is meant itself"


def test_the_settings_of_the_newest_run_on_the_folder(here: Lorasmith, photos: Path, place: Path) -> None:
    """Small images that a run trains at their own size are not called small."""
    assert "[small]" in (alone := here("check", str(photos))).stdout
    assert "Checked for 512×512 px, the default resolution" in alone.stderr
    for name, side in (("old", 512), ("new", 128)):
        config = RunConfig().changed(
            dataset={"train_data_dir": str(photos), "resolution": side, "min_bucket_reso": 64},
            saving={"output_name": name, "output_dir": str(place / name)},
        )
        record_run(prepare_run(config))
        time.sleep(0.01)
    elsewhere = {"dataset": {"train_data_dir": str(place)}, "saving": {"output_dir": str(place / "x")}}
    record_run(prepare_run(config.changed(**elsewhere)))
    done = here("check", str(photos))
    assert "[small]" not in done.stdout and "Buckets: 128×128" in done.stdout
    assert "Checked for the run new, with its settings" in done.stderr
    assert "Buckets: 512×512" in here("check", str(photos), "--preset", "sd15-realistic").stdout
    (place / "new" / "new.toml").write_text("[[[")
    assert "Checked for the run old" in here("check", str(photos)).stderr
