"""Curves over each other: letters at the measurements, dashes between them, readable without colours."""

from __future__ import annotations

import pytest

from tui.widgets.overlay_chart import Curves, overlay_rows

TWO: Curves = (("A robot", {0: 0.4, 50: 0.2, 100: 0.1}), ("B droid", {0: 0.3, 50: 0.25, 100: 0.3}))


def plain(curves: Curves, width: int, height: int) -> list[str]:
    return ["".join(text for text, _kind in row) for row in overlay_rows(curves, width, height)]


@pytest.mark.parametrize(("width", "height"), [(78, 18), (58, 14), (40, 10)])
def test_each_measurement_has_the_letter_of_its_run(width: int, height: int) -> None:
    rows = plain(TWO, width, height)
    body = "".join(rows[1:-1])
    assert len(rows) == height and body.count("A") == 3 and body.count("B") == 3
    assert rows[0].split() == ["A", "robot", "B", "droid"] and rows[-1].startswith("  step └0")
    assert all(len(row) <= width for row in rows)


def test_lines_have_dashes_of_their_own() -> None:
    rows = overlay_rows([("A", {0: 2.0, 99: 2.0}), ("B", {0: 1.0, 99: 1.0})], 78, 18)
    dots = {kind: sum(bin(ord(letter) - 0x2800).count("1") for text, other in (pair for row in rows for pair in row)
                      for letter in text if other == kind and letter > "\u2800") for kind in "01"}  # fmt: skip
    assert dots["0"] > 100 and dots["1"] < 0.8 * dots["0"]


def test_without_losses_or_room() -> None:
    assert plain([("A", {}), ("B", {})], 78, 18) == ["No validation loss in these runs."]
    assert overlay_rows(TWO, 19, 18) == [] == overlay_rows(TWO, 78, 3)


def test_a_run_without_losses_keeps_the_letters_of_the_others() -> None:
    rows = overlay_rows([("A one", {}), ("B two", {0: 0.5})], 78, 10)
    assert rows[0] == [("B two  ", "1")] and any(("B", "1") in row for row in rows[1:])
