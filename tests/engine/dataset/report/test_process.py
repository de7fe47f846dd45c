"""The report as a process: what it answers, the page, the copy, a cut, and that the second one measures nothing."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from PIL import Image

from engine.config import RunConfig
from engine.dataset.report import checking, measuring
from engine.dataset.report.checking import check
from engine.dataset.report.measure_cache import MeasureCache
from engine.dataset.report.process import CheckRequest, ask
from engine.dataset.report.repair import repair, require_new_folder
from engine.worker import Cancelled
from tests.drawn_images import letterboxed, save, scene
from tests.engine.dataset.report.conftest import image_names
from tests.engine.dataset.report.crashing import CrashingJob
from tests.gone import still_there
from tests.html_check import sound
from tests.refusals import refused

SIZE = (128, 128)
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two folders of Kohya's with a copy, bars, a wrong name, a rotated one, a broken one."""
    first, second = tmp_path / "set" / "3_f0x fox", tmp_path / "set" / "5_f0x cub"
    save(first, "a.png", scene(1, SIZE), None)
    save(first, "b.bmp", scene(1, SIZE), "f0x, twice")
    save(first, "bars.jpg", letterboxed(scene(2, (256, 256)), 0.125), "f0x, with bars")
    save(first, "bars.png", scene(3, SIZE), "f0x, with bars")
    save(second, "named.jpg", scene(4, SIZE), "a fox, f0x0", format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    save(second, "lying.jpg", scene(5, (128, 96)), "f0x, lying", exif=exif)
    (second / "broken.webp").write_bytes(b"RIFF no image")
    return tmp_path / "set"


def config(folder: Path, **dataset: object) -> RunConfig:
    return RunConfig.model_validate({"dataset": {"train_data_dir": str(folder), "class_tokens": "f0x", **dataset}})


def contents(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_process_answers_with_report_page_and_copy(images: Path, tmp_path: Path) -> None:
    before, calls = contents(images), []
    request = CheckRequest(config(images), tmp_path / "page.html", tmp_path / "copy")
    report, repaired = ask(request, lambda *words: calls.append(words))
    assert image_names(report, "duplicate") == {"a.png", "b.bmp"}
    assert image_names(report, "broken") == {"broken.webp"}
    assert ("looking at images", 6, 6) in calls
    assert contents(images) == before
    assert repaired == (
        f"Repaired copy in {tmp_path / 'copy'}: 5 images, 2 of them re-encoded, 4 renamed, 1 caption changed, "
        "2 files left out."
    )
    reader = sound((tmp_path / "page.html").read_text())
    assert len(reader.images) > 6 and all(image.startswith("data:image/jpeg;base64,") for image in reader.images)
    assert reader.sections == ["summary", "errors", "warnings", "notes", "buckets"]
    assert reader.ids["duplicate"] == 1 and "broken.webp" in " ".join(reader.text)


def test_the_copy_is_repaired(images: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    report, survey = check(config(images), cache=MeasureCache(tmp_path / "cache"))
    repair(report, survey, copy)
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert names == {
        "3_f0x fox/b.bmp", "3_f0x fox/b.txt",  # of two copies that with a caption
        "3_f0x fox/bars.png", "3_f0x fox/bars.txt",
        "3_f0x fox/bars-2.png", "3_f0x fox/bars-2.txt",
        "5_f0x cub/named.png", "5_f0x cub/named.txt",
        "5_f0x cub/lying.png", "5_f0x cub/lying.txt",
    }  # fmt: skip
    assert Image.open(copy / "3_f0x fox/bars.png").size in [(256, 190), (256, 191)]
    assert Image.open(copy / "5_f0x cub/lying.png").size == (96, 128)
    assert (copy / "5_f0x cub/named.txt").read_text() == "f0x, a fox, f0x0\n"
    repaired_report = check(config(copy), cache=MeasureCache(tmp_path / "cache"))[0]
    codes = {finding.kind.code for finding in repaired_report.findings}
    assert codes & {"duplicate", "broken", "borders", "rotated", "wrong-extension", "trigger-missing"} == set()


def test_a_dataset_configuration_is_checked_and_copied(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "dataset.toml"
    file.write_text(
        "[[datasets]]\nresolution = 256\n"
        f"[[datasets.subsets]]\nimage_dir = {str(images / '3_f0x fox')!r}\nnum_repeats = 2\nflip_aug = true\n"
        f"[[datasets.subsets]]\nimage_dir = {str(images / '5_f0x cub')!r}\nis_reg = true\n"
    )
    report, survey = check(config(Path(), dataset_config=str(file)), cache=MeasureCache(tmp_path / "cache"))
    assert "flip-aug" in {finding.kind.code for finding in report.findings}
    repair(report, survey, tmp_path / "copy")
    assert (tmp_path / "copy" / "2_3_f0x fox" / "b.bmp").is_file()
    assert (tmp_path / "copy" / "regularization_images" / "1_5_f0x cub" / "lying.png").is_file()


def test_a_copy_never_goes_where_something_is(images: Path, tmp_path: Path) -> None:
    with refused("repair-folder-inside-images", images / "new"):
        require_new_folder([images], images / "new")
    with refused("output-exists", images):
        require_new_folder([], images)
    with refused("repair-folder-inside-images", images / "new"):
        ask(CheckRequest(config(images), repair=images / "new"))
    assert not (images / "new").exists()
    (tmp_path / "empty").mkdir()
    require_new_folder([images], tmp_path / "empty")


def test_no_images_is_an_error_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused("no-images", tmp_path / "empty"):
        ask(CheckRequest(config(tmp_path / "empty")))


def test_a_second_report_measures_nothing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = check(config(images), cache=MeasureCache(tmp_path / "cache"))[0]
    measured: list[Path] = []
    real = measuring.measure
    monkeypatch.setattr(
        measuring, "measure", lambda path, *rest, **more: (measured.append(path), real(path, *rest, **more))[1]
    )
    assert check(config(images), cache=MeasureCache(tmp_path / "cache"))[0] == first
    assert measured == []
    changed = save(images / "5_f0x cub", "named.jpg", scene(8, SIZE), "f0x")
    check(config(images), cache=MeasureCache(tmp_path / "cache"))
    assert measured == [changed]


def test_what_was_measured_before_a_cut_is_kept(images: Path, tmp_path: Path) -> None:
    def cut(what: str, done: int, _total: int) -> None:
        if what == "looking at images" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(config(images), cut, MeasureCache(tmp_path / "cache"))
    with sqlite3.connect(tmp_path / "cache") as database:
        assert database.execute("SELECT count(*) FROM taken").fetchone() == (3,)


def test_a_cancelled_report_ends(images: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        ask(CheckRequest(config(images)), cancelled=lambda: True)
    assert time.monotonic() - begun < 5


def test_a_killed_process_is_reported(images: Path) -> None:
    def kill(_what: str, _done: int, _total: int) -> None:
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # one that has just ended
                if "engine.dataset.report" in child.cmdline():
                    child.kill()

    with refused("worker-failed", "SIGKILL"):
        ask(CheckRequest(config(images)), kill)


ASKING = """
import os, signal, sys, time
from pathlib import Path
import psutil
from engine.config import RunConfig
from engine.dataset.report.process import CheckRequest, ask
def on_progress(*_):
    child, = psutil.Process().children()
    child.send_signal(signal.SIGSTOP)
    print(child.pid, flush=True)
    time.sleep(600)
dataset = {"train_data_dir": sys.argv[1], "class_tokens": "f0x"}
ask(CheckRequest(RunConfig.model_validate({"dataset": dataset})), on_progress)
"""
POOLING = """
import time
from engine.dataset.report.measuring import _pool
if __name__ == "__main__":
    pool = _pool(2)
    for _ in range(2):
        pool.submit(time.sleep, 600)
    print(*pool._processes, flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("code", [ASKING, POOLING])
def test_no_process_of_it_outlives_the_caller(code: str, images: Path, tmp_path: Path) -> None:
    """Not even one that is stopped, or busy for ten minutes."""
    script = tmp_path / "asking.py"  # a pool's processes read the main module again
    script.write_text(code)
    command = [sys.executable, str(script), str(images)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(2 if code == POOLING else 0)  # their own imports
        parent.kill()
    assert children and still_there(children) == []


def test_a_damaged_or_missing_cache_is_no_obstacle(images: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"no database" * 1000)
    assert check(config(images), cache=MeasureCache(tmp_path / "cache"))[0].images == 6
    (tmp_path / "file").write_text("")
    report = check(config(images), cache=MeasureCache(tmp_path / "file" / "cache"))[0]
    assert any("cannot be used" in note for note in report.notes)


def test_a_image_that_kills_its_process_is_named(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured all the same."""
    monkeypatch.setattr(measuring, "_FEW", 0)
    monkeypatch.setattr(checking, "Job", CrashingJob)
    report = check(config(images), cache=MeasureCache(tmp_path / "cache"))[0]
    assert image_names(report, "broken") == {"broken.webp", "bars.jpg"}
    assert report.images == 5


def test_no_image_is_blamed_where_no_process_can_be_started(images: Path, tmp_path: Path) -> None:
    """A program whose module cannot be imported anew without starting processes itself."""
    program = tmp_path / "program.py"
    program.write_text(
        "from engine.config import load_config\n"
        "from engine.dataset.report import measuring\n"
        "from engine.dataset.report.checking import check\n"
        "measuring._FEW = 0\n"
        f"check(load_config(None, ['dataset.train_data_dir={images}', 'dataset.resolution=128']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert "engine.errors.LoraSmithError: The processes that look" in done.stderr
