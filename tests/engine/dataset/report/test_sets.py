"""Complete sets: each fault is found where it is and nowhere else, and nothing is found in a clean set."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.dataset.report.checking import KINDS, check
from engine.dataset.report.findings import Report
from engine.dataset.report.measure_cache import MeasureCache
from tests.drawn_images import clean_set
from tests.engine.dataset.report.bad_set import EXPECTED, TRIGGER, draw_bad_set
from tests.engine.dataset.report.conftest import Checked, codes, image_names


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Report:
    place = tmp_path_factory.mktemp("bad")
    folder = draw_bad_set(place / "images")
    values = {"dataset": {"train_data_dir": str(folder), "class_tokens": TRIGGER, "flip_aug": True}}
    return check(RunConfig.model_validate(values), cache=MeasureCache(place / "cache.sqlite"))[0]


@pytest.mark.parametrize("code", EXPECTED)
def test_a_fault_is_found_where_it_is_and_nowhere_else(bad: Report, code: str) -> None:
    assert image_names(bad, code) == EXPECTED[code]


def test_nothing_else_is_found_in_the_bad_set(bad: Report) -> None:
    assert codes(bad) == {*EXPECTED, "flip-aug", "facing"}


def test_a_report_with_broken_images_has_failed(bad: Report) -> None:
    assert bad.failed
    assert bad.images == 34
    assert bad.findings[0].kind.level == "error"
    assert Report.restored(bad.as_json()) == Report.restored(Report.restored(bad.as_json()).as_json())


def test_a_clean_set_gets_at_most_notes(tmp_path: Path, checked: Checked) -> None:
    clean_set(tmp_path / "clean", 20)
    report = checked(tmp_path / "clean")
    assert codes(report) == {"facing"}
    assert not report.failed
    assert report.verdict == "20 images: 1 note"


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


def test_the_page_of_all_findings_is_up_to_date() -> None:
    root = Path(__file__).resolve().parents[4]
    spec = importlib.util.spec_from_file_location("report_table", root / "tools" / "report_table.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (root / "docs" / "report.md").read_text(encoding="utf-8") == tool.page(), "python tools/report_table.py"
