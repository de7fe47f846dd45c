"""Signs and lines in ASCII."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from tui.display.ascii_filter import AsciiFilter, in_ascii
from tui.text.rows import SIGNS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("╭─ Runs ─╮", "+- Runs -+"),
        ("│ a │ ┤ ├ ┼ ┃ ━", "| a | + + + | -"),
        ("▶ running · 3 → 4", "> running . 3 > 4"),
        ("██░▄▀", "##.##"),
        ("größer 日本 38 °C", "größer 日本 38 °C"),
        ("plain", "plain"),
    ],
)
def test_signs_become_letters_and_words_stay(text: str, expected: str) -> None:
    assert in_ascii(text) == expected and len(expected) == len(text)


def test_every_state_has_a_sign_of_its_own_or_a_word() -> None:
    signs = [(in_ascii(sign), word) for sign, word, _colour in SIGNS.values()]
    assert all(sign.isascii() for sign, _ in signs) and len(set(signs)) == len(SIGNS)


def test_styles_stay() -> None:
    bold = Style(bold=True)
    assert AsciiFilter().apply([Segment("✓", bold)], Color(0, 0, 0)) == [Segment("+", bold, None)]
