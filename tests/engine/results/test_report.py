"""The report and the comparison as pages: complete, well-formed, self-contained, whatever the run holds."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.html_page import page
from engine.html_page.place import RESULTS, begin, require_place
from engine.results.compare_page import write_comparison
from engine.results.comparison import compare
from engine.results.record import read_run
from engine.results.report import write_report
from engine.runs import EventLog, RunDir
from engine.runs.events import SampleEvent, SampleMeasuresEvent, StepEvent, WarningEvent
from tests.engine.results.conftest import Make
from tests.fake_run import PlayedTrainer, prepared_run
from tests.html_check import PageReader, sound
from tests.refusals import refused

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}{% include 'page.js' %}"


def report_of(run_dir: RunDir, tmp_path: Path) -> tuple[str, PageReader]:
    path = tmp_path / "report.html"
    written = write_report(read_run(run_dir), path)
    text = path.read_text("utf-8")
    assert written.bytes == path.stat().st_size <= page.MOST_BYTES
    return text, sound(text)


def words(reader: PageReader) -> str:
    return " ".join(" ".join(reader.text).split())


def test_a_report_has_everything(trained: Make, tmp_path: Path) -> None:
    html, reader = report_of(
        trained(losses=(0.2, 0.15, 0.25), training={"unet_lr": 3e-4}, dataset={"class_tokens": "smith"}), tmp_path
    )
    page_text = words(reader)
    for expected in (
        "Take robot-step00000020.safetensors", "epoch 1, step 20", "62.5 %", "Trigger smith", "State finished",
        "Steps 30 of 30", "VRAM, peak 4.2 GiB", "a smithy robot, hammer in hand", "a [robot] on a beach", "base",
        "● best", "Validation loss", "Training loss", "Learning rate", "Copying", "↑ overtrained",
        "Most like the training image 001.png", "training.unet_lr 0.0003 unset", "Other than in the defaults",
        "<lora:robot-step00000020:0.8>", "load_lora_weights", "The disk is nearly full. (2 times)",
    ):  # fmt: skip
        assert expected in page_text, expected
    assert len(reader.images) == 2 * 4 + 2, "two prompts at four steps, and the pair beside the recommendation"
    assert all(image.startswith("data:image/webp;base64,") for image in reader.images)
    assert html.startswith(begin(RESULTS))


def test_a_run_of_a_stranger_is_text_only(tmp_path: Path) -> None:
    run_dir = prepared_run(tmp_path, "<img src=x onerror=alert(3)>'\"", dataset={"class_tokens": EVIL[:60]})
    trainer = PlayedTrainer(run_dir)
    trainer.train(10)
    trainer.save(validation_loss=0.2)
    trainer.sample()
    sample = next(run_dir.samples.iterdir())
    trainer.events.emit(SampleEvent(path=str(sample), prompt=EVIL + "\u202e\u0007\ud800", index=0, step=10))
    trainer.events.emit(SampleMeasuresEvent(step=10, copying=0.5, copied=EVIL))
    trainer.events.emit(WarningEvent(text=EVIL))
    trainer.events.emit(StepEvent(step=11, loss=0.2, lr={EVIL: 1e-4}))
    trainer.end("failed", 1, title=EVIL, message="line\nline", hint="")
    text, reader = report_of(run_dir, tmp_path)
    assert "<script>alert" not in text and "<img src=x" not in text
    assert reader.tags["img"] == len(reader.images) == text.count("data:image/webp")
    assert "{{ 7*7 }}" in words(reader), "a template in a prompt is text too"
    assert "\u202e" not in text and "\u0007" not in text


def test_images_that_are_gone_or_broken_leave_a_place(trained: Make, tmp_path: Path) -> None:
    run_dir = trained()
    first, second, *_rest, last = sorted(run_dir.samples.iterdir())
    first.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    second.unlink()
    last.unlink()
    last.symlink_to("/etc/passwd")
    reader = report_of(run_dir, tmp_path)[1]
    assert "no image" in words(reader) and "1 sample cannot be read." in words(reader)


def test_a_link_in_a_run_is_not_followed(trained: Make, tmp_path: Path) -> None:
    run_dir = trained()
    outside = tmp_path / "private.png"
    Image.new("RGB", (16, 16), "white").save(outside)
    for sample in run_dir.samples.iterdir():
        sample.unlink()
        sample.symlink_to(outside)
    reader = report_of(run_dir, tmp_path)[1]
    assert reader.images == [] and reader.tags["dialog"] == 0


@pytest.mark.parametrize(
    "line",
    [
        '{"v":1,"seq":900,"time":1,"type":"validation","step":10,"loss":NaN}',
        '{"v":1,"seq":900,"time":1,"type":"validation","step":1e300,"loss":1e99,"train_loss":-1e99}',
        '{"v":1,"seq":900,"time":1e12,"type":"step","step":9007199254740991,"loss":1e99,"lr":{"a":1e99}}',
        '{"v":1,"seq":900,"time":1,"type":"step","step":20,"loss":null,"lr":[1],"memory":{"peak_gib":"x"}}',
        '{"v":1,"seq":900,"time":1,"type":"sample","step":-3,"index":{},"path":"../../x.png","prompt":7}',
        '{"v":1,"seq":900,"time":1,"type":"sample_measures","step":20,"burn":{"detail":1e99,"odd":2}}',
        "not json at all",
        '{"v":1,"seq":900,"time":1,"type":"saved","path":"/etc/passwd","step":20}',
    ],
)
def test_odd_events_give_a_page(trained: Make, tmp_path: Path, line: str) -> None:
    run_dir = trained()
    with run_dir.events_path.open("a") as file:
        file.write(line + "\n")
    paths = re.findall(r' d="([^"]*)"', report_of(run_dir, tmp_path)[0])
    assert paths and not [path for path in paths if re.search("nan|inf|None", path)]


def test_a_run_that_only_began_has_a_report(tmp_path: Path) -> None:
    run_dir = prepared_run(tmp_path)
    EventLog(run_dir.events_path).close()
    text = words(report_of(run_dir, tmp_path)[1])
    assert "No file can be recommended" in text and "This run has no LoRA file." in text


def test_a_configuration_that_cannot_be_read_is_reported(trained: Make, tmp_path: Path) -> None:
    run_dir = trained()
    run_dir.config_path.write_text("[training]\nunet_lr = 'x <b>'\n")
    text = words(report_of(run_dir, tmp_path)[1])
    assert "The configuration of this run cannot be read" in text and "Trigger unknown" in text


def flood(run_dir: RunDir, count: int) -> None:
    """Many steps, many samples of equal prompts, many files' worth of validation losses."""
    with run_dir.events_path.open("a") as file:
        for number in range(count):
            event: dict[str, Any] = {"v": 1, "seq": 5000 + number, "time": 1.0 + number, "step": 40 + number}
            event |= {"type": "step", "loss": 0.1, "loss_average": 0.1, "lr": {f"group {number % 50}": 1e-4}}
            file.write(json.dumps(event) + "\n")


def test_many_events_and_samples_give_a_bounded_page(trained: Make, tmp_path: Path) -> None:
    run_dir = trained()
    flood(run_dir, 3000)
    sample = next(run_dir.samples.iterdir())
    with run_dir.events_path.open("a") as file:
        for number in range(3000):
            event = {
                "type": "sample",
                "index": number % 60,
                "step": 10 * number,
                "prompt": "p" * 900,
                "path": sample.name,
            }
            file.write(json.dumps({"v": 1, "seq": 90000 + number, "time": 1.0, **event}) + "\n")
    text, reader = report_of(run_dir, tmp_path)
    assert len(text) < 2**21 and len(reader.images) <= 24 * 16 + 2
    assert "24 of 3000 steps and 16 of 60 prompts are shown." in words(reader)


def test_long_texts_and_many_measurements_are_bounded(trained: Make, tmp_path: Path) -> None:
    run_dir = trained(dataset={"class_tokens": "t" * 500_000})
    sample = next(run_dir.samples.iterdir())
    with run_dir.events_path.open("a") as file:
        for number in range(2000):
            event: dict[str, Any] = {"type": "validation", "step": 100 + number, "loss": 0.3, "train_loss": 0.2}
            file.write(json.dumps({"v": 1, "seq": 9000 + number, "time": 1.0, **event}) + "\n")
        for place, event in enumerate([
            {"type": "sample", "index": 0, "step": 30, "prompt": "p" * 3_000_000, "path": sample.name},
            {"type": "sample_measures", "step": 30, "copying": 0.5, "copied": "c" * 3_000_000},
            {"type": "warning", "text": "w" * 3_000_000},
        ]):  # fmt: skip
            file.write(json.dumps({"v": 1, "seq": 99000 + place, "time": 1.0, **event}) + "\n")
    text, reader = report_of(run_dir, tmp_path)
    assert len(text) < 2**21 and "p …" in words(reader)
    assert 1000 < text.count('class="mark') < 6000


@pytest.mark.soak
def test_a_hundred_thousand_events_give_a_bounded_page(trained: Make, tmp_path: Path) -> None:
    run_dir = trained()
    flood(run_dir, 100_000)
    assert len(report_of(run_dir, tmp_path)[0]) < 2**20


def test_only_an_earlier_page_is_replaced(trained: Make, tmp_path: Path) -> None:
    run_dir, path = trained(), tmp_path / "page.html"
    require_place(path, RESULTS)
    write_report(read_run(run_dir), path)
    require_place(path, RESULTS)
    path.write_text("<!doctype html>\n<html>my own page")
    with refused("output-exists", path, "--overwrite"):
        require_place(path, RESULTS)
    assert path.read_text().endswith("my own page")
    require_place(path, RESULTS, overwrite=True)
    with refused("output-not-a-file", tmp_path):
        require_place(tmp_path, RESULTS, overwrite=True)


def test_a_comparison_as_a_page(trained: Make, tmp_path: Path) -> None:
    runs = [trained("robot", (0.2, 0.15, 0.18)), trained("droid", (0.3, 0.2, 0.12), training={"unet_lr": 2e-4})]
    path = tmp_path / "compare.html"
    written = write_comparison(compare([read_run(run) for run in runs]), path)
    reader = sound(path.read_text("utf-8"))
    text = words(reader)
    for expected in (
        "A robot · B droid", "robot-step00000020.safetensors", "droid-step00000030.safetensors", "0.1500", "0.1200",
        "training.unet_lr unset 0.0002", "A step 20", "A step 30", "B step 30", "hammer in hand",
    ):  # fmt: skip
        assert expected in text, expected
    assert written.images == len(reader.images) == 2 * 4, "base, best and last of A, best of B which is its last"
    assert "B step 20" not in text


def test_the_images_of_a_page_are_those_of_the_run(trained: Make, tmp_path: Path) -> None:
    reader = report_of(trained(), tmp_path)[1]
    colours = set()
    for image in reader.images:
        (tmp_path / "one.webp").write_bytes(base64.b64decode(image.partition(",")[2]))
        colours.add(Image.open(tmp_path / "one.webp").convert("RGB").getpixel((0, 0)))
    assert colours == {(step, 100 * index, 50) for step in (0, 10, 20, 30) for index in (0, 1)}
