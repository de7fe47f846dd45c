"""The tables of a comparison: widths, wrapping, marks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.cells import cell_len

from engine.results.comparison import Comparison, MatchedPrompt
from tui.text.compare import column_widths, table


@pytest.mark.parametrize(
    ("wanted", "width", "expected"),
    [
        ([4, 4, 4], 80, [4, 4, 4]),
        ([10, 100, 100], 80, [10, 33, 33]),
        ([10, 5, 100], 80, [10, 5, 61]),
        ([50, 50, 50], 30, [8, 9, 9]),
        ([0, 3], 20, [1, 3]),
    ],
)
def test_widths(wanted: list[int], width: int, expected: list[int]) -> None:
    assert column_widths(wanted, width) == expected


def test_long_cells_are_wrapped_and_cut() -> None:
    lines = list(table(("", "A", "B"), [("prompts", "x " * 200, "山" * 30)], 60))
    assert max(map(cell_len, lines)) <= 60 and len(lines) == 5
    assert lines[0].split() == ["A", "B"] and lines[1].startswith("prompts  x x") and "…" in lines[-1]


def test_a_head_of_blanks_and_a_table_without_rows_are_left_out() -> None:
    assert list(table(("", ""), [("a", "b")], 20)) == ["a  b"]
    assert list(table(("x", "y"), [], 20)) == []


def test_a_prompt_has_the_triggers_of_the_runs_that_have_it() -> None:
    runs = [SimpleNamespace(trigger=word) for word in ("robot", "smithy", "robot", "fox")]
    comparison = Comparison(tuple(runs), (), ())  # type: ignore[arg-type]
    matched = MatchedPrompt("a {trigger} on a beach", 1, (None,) * 4, (0, 0, 1, None))
    assert comparison.prompt_text(matched) == "a robot/smithy on a beach"
    assert comparison.prompt_text(replace(matched, prompt="a dog")) == "a dog"
