"""Signs and lines in ASCII."""

from __future__ import annotations

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.geometry import Size

from engine.results.columns import BEST, FAVOURITE
from engine.results.columns import SIGNS as VERDICTS
from tui.display.ascii_filter import AsciiFilter, in_ascii
from tui.display.symbols import ASCII, VARIABLE
from tui.text.rows import SIGNS
from tui.widgets.step_bar import StepBar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("╭─ Runs ─╮", "+- Runs -+"),
        ("│ a │ ┤ ├ ┼ ┃ ━", "| a | + + + | -"),
        ("▶ running · 3 → 4", "> running | 3 > 4"),
        ("██░▄▀", "##.##"),
        ("größer 日本 38 °C", "größer 日本 38 °C"),
        ("plain", "plain"),
        ("Reading …  ", "Reading ..."),
        ("Reading … x", "Reading ~ x"),
        ("a long na…", "a long na~"),
    ],
)
def test_signs_become_letters_and_words_stay(text: str, expected: str) -> None:
    assert in_ascii(text) == expected and len(expected) == len(text)


def test_every_state_has_a_sign_of_its_own_or_a_word() -> None:
    signs = [(in_ascii(sign), word) for sign, word, _colour in SIGNS.values()]
    assert all(sign.isascii() for sign, _ in signs) and len(set(signs)) == len(SIGNS)


def test_styles_stay() -> None:
    bold = Style(bold=True)
    assert AsciiFilter().apply([Segment("✓", bold)], Color(0, 0, 0)) == [Segment("v", bold, None)]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Reading …", "     "], ["Reading ...", "   "]),
        (["Reading …", " x"], ["Reading ~", " x"]),
        (["a", "…", "  b"], ["a", "...", "b"]),
        (["…"], ["~"]),
    ],
)
def test_an_ellipsis_has_three_dots_where_the_next_part_has_room(texts: list[str], expected: list[str]) -> None:
    drawn = AsciiFilter().apply([Segment(text) for text in texts], Color(0, 0, 0))
    assert [segment.text for segment in drawn] == expected


def test_signs_that_can_be_next_to_each_other_differ() -> None:
    """A favourite may be the best file; a verdict, a chart's raw dots and what separates parts of a line."""
    signs = [*map(in_ascii, (BEST, FAVOURITE, *VERDICTS.values(), "·", "…")), "."]
    assert len(set(signs)) == len(signs)
    assert in_ascii(BEST) == ASCII.mark, "the help names the mark of a chart by the same sign"


def test_the_sign_of_a_step_that_is_done_is_no_letter_before_its_title(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = StepBar("model", ["hardware"])
    monkeypatch.setattr(StepBar, "size", Size(200, 1))
    for value, sign in (("1", "*"), ("0", "✓")):
        monkeypatch.setenv(VARIABLE, value)
        assert bar.render().plain.startswith(f"{sign}Hardware ▸Model")
