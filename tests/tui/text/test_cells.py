"""Text fitted into the cells of a terminal."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from tui.text.cells import hanging


@pytest.mark.parametrize(
    ("text", "width", "rows"),
    [
        ("", 10, [""]),
        ("fits", 4, ["fits"]),
        ("one two three", 8, ["one two", "  three"]),
        ("  one two three", 9, ["  one two", "    three"]),
        ("  /a/long/path/of/many and more", 12, ["  /a/long/", "    path/of/", "    many and", "    more"]),
        ("word /a/long/path", 12, ["word", "  /a/long/pa", "  th"]),
        ("画像 画像画像", 8, ["画像", "  画像画", "  像"]),
        ("A  b   c", 20, ["A  b   c"]),
        ("no room at all", 2, ["no room at all"]),
    ],
)
def test_rows_after_the_first_are_indented_further(text: str, width: int, rows: list[str]) -> None:
    assert hanging(text, width) == rows


@pytest.mark.parametrize("width", range(4, 40))
def test_no_row_is_too_wide_and_no_letter_is_lost(width: int) -> None:
    text = "  Disk: about 19.7 MiB (LoRA files 2.8 MiB, /somewhere/far/down/in/a/folder); 76.1 GiB are free."
    rows = hanging(text, width)
    assert "".join("".join(rows).split()) == "".join(text.split())
    assert max(map(cell_len, rows)) <= max(width, len(text) if width < 6 else 0)
