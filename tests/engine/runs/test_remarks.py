"""What a person notes about a run: kept in its directory, read with limits, shown by lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.runs import RunDir, find_runs, prepare_run, resolve
from engine.runs.remarks import LONGEST_NOTE, LONGEST_TITLE, Remarks, read_remarks, write_remarks
from tests.refusals import refused


def make(folder: Path, name: str = "fox") -> RunDir:
    return prepare_run(RunConfig().changed(saving={"output_name": name, "output_dir": str(folder)}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run_dir = make(tmp_path / "fox" / "results_current")
    assert read_remarks(run_dir) == Remarks()
    remarks = Remarks("The red fox", "rank 8: too soft", frozenset({"fox-000002.safetensors"}))
    write_remarks(run_dir, remarks)
    assert read_remarks(run_dir) == remarks
    assert remarks.toggled("fox.safetensors").toggled("fox.safetensors") == remarks


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ({}, Remarks()),
        ([], Remarks()),
        ({"title": 5, "note": None, "favourites": "fox"}, Remarks()),
        ({"title": "a\x1b[2J\nb", "note": "  x \t y "}, Remarks("a [2J b", "x y")),
        ({"title": "t" * 999, "note": "n" * 9999}, Remarks("t" * LONGEST_TITLE, "n" * LONGEST_NOTE)),
        ({"favourites": ["../up", 7, "", "a.safetensors"]}, Remarks(favourites=frozenset({"a.safetensors"}))),
    ],
)  # fmt: skip
def test_what_a_stranger_wrote_is_checked(tmp_path: Path, content: Any, read: Remarks) -> None:
    run_dir = make(tmp_path)
    run_dir.remarks_path.write_text(json.dumps(content))
    assert read_remarks(run_dir) == read


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    run_dir, other = make(tmp_path / "run"), tmp_path / "other.json"
    other.write_text('{"title": "stolen"}')
    run_dir.remarks_path.symlink_to(other)
    assert read_remarks(run_dir) == Remarks()
    with refused("run-damaged", "remarks.json"):
        write_remarks(run_dir, Remarks("mine"))
    assert other.read_text() == '{"title": "stolen"}'


@pytest.mark.parametrize(
    ("folder", "name", "title", "shown"),
    [
        ("fox/results_current", "fox", "", "fox"),
        ("demo/results_current", "smithy", "", "smithy (demo)"),
        ("demo/results_20260101T000000Z", "smithy", "", "smithy (demo)"),
        ("out", "fox", "", "fox (out)"),
        ("demo/results_current", "smithy", "The smith", "The smith"),
    ],
)
def test_the_name_that_lists_show(tmp_path: Path, folder: str, name: str, title: str, shown: str) -> None:
    run_dir = make(tmp_path / folder, name)
    write_remarks(run_dir, Remarks(title))
    assert [run.title for run in find_runs([tmp_path])] == [shown]
    if not find_runs([tmp_path])[0].archived:
        assert resolve(shown, [tmp_path]) == run_dir, "it can be typed as it is shown"
