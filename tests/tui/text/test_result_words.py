"""The columns of the table of files."""

from __future__ import annotations

import pytest

from tui.text.results import DROPPED, GAP, LEAST_NAME, columns_for

NATURAL = {"file": 32, "verdict": 21, "epoch": 5, "step": 4, "learned": 7, "response": 8}


@pytest.mark.parametrize(
    ("width", "hidden", "name"),
    [(120, 0, 32), (89, 0, 32), (88, 1, 32), (82, 1, 32), (79, 1, 29), (74, 1, 24), (73, 2, 29), (58, 3, 24)],
)
def test_columns_that_do_not_fit_are_left_out_whole(width: int, hidden: int, name: int) -> None:
    columns = columns_for(width, NATURAL)
    assert list(columns) == [column for column in NATURAL if column not in DROPPED[:hidden]]
    assert columns["file"] == name
    assert all(columns[column] == NATURAL[column] for column in columns if column != "file")


@pytest.mark.parametrize("width", range(30, 130))
def test_they_fit(width: int) -> None:
    columns = columns_for(width, NATURAL)
    assert sum(columns.values()) + GAP * len(columns) <= width
    assert columns["file"] >= min(LEAST_NAME, width - NATURAL["verdict"] - 2 * GAP)
