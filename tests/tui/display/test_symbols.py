"""Which characters a terminal gets for bars and charts."""

from __future__ import annotations

import pytest

from engine.runs.curve import Curve
from tui.display.symbols import ASCII, BLOCKS, symbols
from tui.widgets.chart import chart_rows


@pytest.mark.parametrize(
    ("environment", "is_ascii"),
    [
        ({"TERM": "xterm-256color"}, False),
        ({"TERM": "linux"}, True),
        ({"TERM": "vt100"}, True),
        ({"TERM": "linux", "LORASMITH_ASCII": "0"}, False),
        ({"TERM": "tmux-256color", "LORASMITH_ASCII": "1"}, True),
        ({}, False),
    ],
)
def test_consoles_get_ascii(environment: dict[str, str], is_ascii: bool) -> None:
    assert symbols(environment).ascii is is_ascii


@pytest.mark.parametrize(("bits", "character"), [(0x00, " "), (0x09, "'"), (0x02, "-"), (0x80, "_"), (0x47, "|")])
def test_a_cell_in_ascii(bits: int, character: str) -> None:
    assert ASCII.cell(bits) == character and (BLOCKS.cell(bits) == chr(0x2800 + bits))


def test_a_bar() -> None:
    assert ASCII.bar(2, 5) == "##---" and BLOCKS.bar(2, 5) == "━━───"


def falling(*values: float) -> Curve:
    made = Curve()
    for step, value in enumerate(values, 1):
        made.add(step, value)
    return made


def test_a_chart_on_a_console_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORASMITH_ASCII", "1")
    rows = chart_rows(falling(0.5, 0.3, 0.4), falling(0.5, 0.45, 0.4), {3: 0.42}, 10, 76, 10)
    assert "".join(text for row in rows for text, _kind in row).isascii()


def test_without_colour_the_raw_loss_is_dotted() -> None:
    raw, smooth = falling(0.5, 0.1, 0.5, 0.1), falling(0.4, 0.4, 0.4, 0.4)

    def cells(*, dotted: bool) -> int:
        rows = chart_rows(raw, smooth, {}, 4, 76, 12, dotted=dotted)
        return sum(len(text) for row in rows[1:] for text, kind in row if kind == "raw")

    assert 0 < cells(dotted=True) < cells(dotted=False)
