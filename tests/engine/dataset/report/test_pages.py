"""The page of the report: text is text, its size is bounded, and only an earlier page is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.dataset.report import pages
from engine.dataset.report.checking import check
from engine.dataset.report.measure_cache import MeasureCache
from engine.dataset.report.pages import write_page
from engine.html_page.place import IMAGES, RESULTS, begin, require_place
from tests.drawn_images import save, scene
from tests.html_check import PageReader, sound
from tests.refusals import refused


def page_of(folder: Path, **dataset: object) -> tuple[str, PageReader]:
    values = {"dataset": {"train_data_dir": str(folder), **dataset}}
    report, survey = check(RunConfig.model_validate(values), cache=MeasureCache(folder.parent / "cache"))
    path = folder.parent / "page.html"
    write_page(report, survey, path)
    text = path.read_text("utf-8")
    return text, sound(text)


def words(reader: PageReader) -> str:
    return " ".join(" ".join(reader.text).split())


def test_names_and_captions_are_text_in_the_page(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)> {{ 7*7 }}.png"
    save(tmp_path / "set <b>&amp;", name, scene(1, (64, 64)), "<script>alert(2)</script>")
    text, reader = page_of(tmp_path / "set <b>&amp;", class_tokens="<i>'\"")
    assert "<img src=x" not in text and "<script>alert" not in text and "<b>" not in text
    assert name in words(reader) and reader.tags["img"] == len(reader.images)


def test_many_buckets_and_images_give_a_bounded_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        save(tmp_path / "set", f"{number}.png", scene(number, (256, 256 + 256 * number)), "a fox")
    monkeypatch.setattr(pages, "MOST_BUCKETS", 1)
    monkeypatch.setattr(pages, "MOST_BYTES", 20_000)
    reader = page_of(tmp_path / "set")[1]
    assert "and 3 more buckets." in words(reader) and "no image" in words(reader)
    assert 0 < sum(map(len, reader.images)) <= 20_000


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for text in (begin(IMAGES), "<!doctype html><html lang=en><meta charset=utf-8><title>Images: 3 images</title>"):
        page.write_text(text)
        require_place(page, IMAGES)
    page.write_text(begin(RESULTS))
    with refused("output-exists", page):
        require_place(page, IMAGES)
