"""The columns of the list of runs."""

from __future__ import annotations

import pytest

from tui.text.rows import COLUMNS, FRAME, NARROW_NAME, columns_for


@pytest.mark.parametrize("width", [60, 63, 64, 72, 80, 84, 86, 100, 200])
def test_the_columns_fit_whole(width: int) -> None:
    columns = columns_for(width)
    assert FRAME + sum(column.width + 2 for column in columns) <= width
    assert [column.name for column in columns] == [column.name for column in COLUMNS][: len(columns)]
    assert columns[0].width >= NARROW_NAME
    for shown, whole in zip(columns[1:], COLUMNS[1:], strict=False):
        assert shown.width >= whole.width
