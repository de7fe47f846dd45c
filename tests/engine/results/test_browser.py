"""The pages in a real browser: no complaint, keys that flip, light and dark, print, and no request to anywhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from engine.config import RunConfig
from engine.dataset.report.checking import check
from engine.dataset.report.measure_cache import MeasureCache
from engine.dataset.report.pages import write_page
from engine.results.compare_page import write_comparison
from engine.results.comparison import compare
from engine.results.record import read_run
from engine.results.report import write_report
from tests.chromium import Browser, browser, find
from tests.drawn_images import save, scene
from tests.engine.results.conftest import Make

pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium here (Debian: apt-get install chromium)")
SHOWN = "document.getElementById('view').open + ' ' + document.getElementById('view-name').textContent"
FOCUS = "document.activeElement.cellIndex + ' ' + document.activeElement.parentElement.rowIndex"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here."""
    program = find()
    assert program is not None
    with browser(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture
def report(trained: Make, tmp_path: Path, chromium: Browser) -> Browser:
    """The browser with a report, of base and three steps, two prompts; step 20 is recommended."""
    path = tmp_path / "report.html"
    write_report(read_run(trained()), path)
    chromium.complaints.clear()
    chromium.requests.clear()
    chromium.prefer("light")
    chromium.resize(1100, 900)
    chromium.open(path)
    return chromium


def test_it_opens_without_a_complaint_and_asks_for_nothing(report: Browser) -> None:
    assert report.run("document.title") == "robot: report"
    assert report.run("getComputedStyle(document.querySelector('.hero')).display") == "flex", "the style is in force"
    assert report.run("document.documentElement.classList.contains('scripted')"), "the script ran"
    report.press("Tab", "Tab", "Tab")
    assert report.complaints == []
    assert len(report.requests) == 1, "the page itself"


def test_keys_walk_open_flip_and_close(report: Browser) -> None:
    report.run("document.querySelector('#grid td[tabindex=\"0\"]').focus()")
    assert report.run(FOCUS) == "3 1", "the recommended step, the first prompt"
    report.press("ArrowLeft", "ArrowDown")
    assert report.run(FOCUS) == "2 2"
    report.press("Enter")
    assert report.run(SHOWN).startswith("true step 10")
    source = "document.querySelector('#view-place img').src"
    before = report.run(source)
    report.press("ArrowRight")
    assert report.run(SHOWN).startswith("true step 20") and report.run(source) != before
    flipped = report.run(source)
    report.press("b")
    assert report.run(SHOWN) == "true base" and report.run(source) != flipped
    report.press("b")
    assert report.run(source) == flipped, "and back"
    prompt = report.run("document.getElementById('view-prompt').textContent")
    report.press("ArrowUp")
    assert report.run("document.getElementById('view-prompt').textContent") != prompt
    report.press("End", "ArrowRight")
    assert report.run(SHOWN).startswith("true step 30"), "it stays at the end"
    report.press("Escape")
    assert report.run("document.getElementById('view').open") is False
    assert report.eventually(FOCUS, "4 1") == "4 1", "the focus is where the view was"
    assert report.complaints == []


def test_a_click_opens_and_buttons_do_what_keys_do(report: Browser) -> None:
    report.run("document.querySelector('#grid tbody tr td').click()")
    assert report.run(SHOWN) == "true base"
    report.run("document.querySelector('[data-key=ArrowRight]').click()")
    assert report.run(SHOWN).startswith("true step 10")
    report.run("document.querySelector('[data-key=Escape]').click()")
    assert report.run("document.getElementById('view').open") is False


def mean(png: bytes) -> float:
    return float(ImageStat.Stat(Image.open(io.BytesIO(png)).convert("L")).mean[0])


def test_light_dark_and_print(report: Browser) -> None:
    light = mean(report.screenshot())
    report.prefer("dark")
    dark = mean(report.screenshot())
    assert light > 190 and dark < 90
    report.prefer("dark", media="print")
    report.resize(794, 1123)  # A4 at 96 px an inch
    assert mean(report.screenshot()) > 190, "paper is white"
    for table in ("#grid", ".files"):
        assert report.run(f"document.querySelector('{table}').getBoundingClientRect().right <= window.innerWidth"), (
            table
        )
    assert report.run("getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_contrast_of_text(report: Browser, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1 for text of this size."""
    report.prefer(scheme)
    script = """
    (() => {
      const channel = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
      const light = (rgb) => 0.2126 * channel(rgb[0]) + 0.7152 * channel(rgb[1]) + 0.0722 * channel(rgb[2]);
      const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
      const ground = (one) => {
        for (; one; one = one.parentElement) {
          const found = numbers(getComputedStyle(one).backgroundColor);
          if (found.length === 3 || found[3] > 0) return found;
        }
      };
      return [...document.querySelectorAll('p, li, th, td, dd, dt, small, a, .pill, h1, h2, figcaption, code')]
        .filter((one) => one.innerText)
        .map((one) => {
          const a = light(numbers(getComputedStyle(one).color)), b = light(ground(one));
          return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.className + ' ' + one.innerText.slice(0, 30)];
        })
        .filter(([contrast]) => contrast < 4.5);
    })()"""
    assert report.run(script) == []


def test_a_phone_scrolls_the_tables_and_not_the_page(report: Browser) -> None:
    report.resize(360, 800)
    assert report.run("document.documentElement.scrollWidth") == 360


def test_the_switch_of_colours_overrides_the_system(report: Browser) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    report.prefer("light")
    light = report.run(ground)
    report.run("document.getElementById('colours-dark').click()")
    dark = report.run(ground)
    report.prefer("dark")
    report.run("document.getElementById('colours-auto').click()")
    assert report.run(ground) == dark != light
    report.run("document.getElementById('colours-light').click()")
    assert report.run(ground) == light
    assert report.complaints == []


def test_a_dataset_report_on_a_phone(tmp_path: Path, chromium: Browser) -> None:
    save(tmp_path / "set", f"{'wide' * 20}.png", scene(1, (640, 128)), None)
    report, survey = check(
        RunConfig.model_validate({"dataset": {"train_data_dir": str(tmp_path / "set")}}),
        cache=MeasureCache(tmp_path / "cache"),
    )
    write_page(report, survey, tmp_path / "check.html")
    chromium.complaints.clear()
    chromium.prefer("light")
    chromium.resize(360, 800)
    chromium.open(tmp_path / "check.html")
    assert chromium.run("document.documentElement.scrollWidth") == 360
    assert chromium.run("document.querySelector('.thumb svg').getBoundingClientRect().width") > 90, "the crop is shaded"
    assert chromium.complaints == []


def test_a_comparison(trained: Make, tmp_path: Path, chromium: Browser) -> None:
    path = tmp_path / "compare.html"
    write_comparison(compare([read_run(trained("robot")), read_run(trained("droid", (0.3, 0.1)))]), path)
    chromium.complaints.clear()
    chromium.resize(1100, 900)
    chromium.open(path)
    chromium.run("document.querySelector('#grid td[tabindex=\"0\"]').focus()")
    chromium.press("Enter")
    assert chromium.run(SHOWN).startswith("true A step 20")
    chromium.press("ArrowRight", "ArrowRight")
    assert chromium.run(SHOWN).startswith("true B step 20")
    chromium.press("b", "Escape")
    assert chromium.complaints == []
