"""The loss chart: where its dots, labels and marks are."""

from __future__ import annotations

from itertools import pairwise

import pytest
from textual.app import App, ComposeResult

from engine.runs.curve import Curve
from engine.runs.scales import loss_scale, nice, step_scale, tick_text, value_scale
from tui.display.symbols import BLOCKS
from tui.widgets.chart import SLOW_SECONDS, Canvas, LossChart, Row, chart_rows, labelled_ticks, with_remark


def curve(*values: float) -> Curve:
    made = Curve()
    for step, value in enumerate(values, 1):
        made.add(step, value)
    return made


def plain(rows: list[Row]) -> list[str]:
    return ["".join(text for text, _ in row) for row in rows]


def test_dots_stand_where_they_belong() -> None:
    canvas = Canvas(2, 2)
    canvas.column(0, 0, 0)
    canvas.column(3, 7, 7)
    assert [bytes(row) for row in canvas.cells] == [b"\x00\x08", b"\x40\x00"]
    canvas.line(0, 0, 3, 7)
    assert all(any(row) for row in canvas.cells)


def test_a_line_has_no_gap() -> None:
    canvas = Canvas(1, 4)
    canvas.line(0, 0, 1, 15)
    assert all(cell[0] for cell in canvas.cells)


def test_it_shows_numbers_axes_and_marks() -> None:
    rows = chart_rows(curve(0.5, 0.4, 0.3), curve(0.5, 0.45, 0.4), {3: 0.42}, 10, 76, 10)
    lines = plain(rows)
    assert len(lines) == 10 and all(len(line) <= 76 for line in lines)
    assert "smoothed 0.4000" in lines[0] and "raw 0.3000" in lines[0] and "validation 0.4200 (step 3)" in lines[0]
    assert any(line.startswith(" 0.500 ┤") for line in lines) and any(line.startswith(" 0.300 ┤") for line in lines)
    assert lines[-1].startswith("  step └0") and lines[-1].rstrip().endswith("10")
    marked = [line for line in lines[1:] if BLOCKS.mark in line]
    assert len(marked) == 1 and marked[0].index(BLOCKS.mark) in range(26, 32)  # step 3 of 10 in 68 columns, behind 8
    kinds = {kind for row in rows[1:] for _, kind in row}
    assert {"raw", "smoothed", "mark", "axis"} <= kinds
    narrow = plain(chart_rows(curve(0.5), curve(0.5), {3: 0.42}, 10, 62, 10))[0]
    assert "validation 0.4200" in narrow and "step" not in narrow


def test_before_the_first_step_it_is_reported() -> None:
    assert plain(chart_rows(Curve(), Curve(), {}, 100, 60, 10)) == [
        "No loss yet. The chart starts with the first step."
    ]
    assert "validation 0.5000" in plain(chart_rows(Curve(), Curve(), {0: 0.5}, 100, 60, 10))[0]
    assert chart_rows(curve(1.0), Curve(), {}, None, 10, 3) == []


def test_a_constant_loss_has_an_axis_too() -> None:
    for value in (0.0, 0.3, 1e-9):
        rows = chart_rows(curve(*[value] * 20), curve(*[value] * 20), {}, 20, 60, 10)
        assert any("⠤" <= character <= "⣿" for line in plain(rows) for character in line)


def test_one_peak_does_not_flatten_the_rest() -> None:
    values = [0.2 + 0.001 * (n % 10) for n in range(100)]
    values[50] = 40.0
    points = curve(*values).points(1)
    assert loss_scale(points, points[:1], []).high < 1.0


def test_a_low_chart_uses_its_rows() -> None:
    rows = chart_rows(curve(0.5, 0.15, 0.2), curve(0.5, 0.4, 0.22), {3: 0.16}, 3, 76, 5)
    kinds = [{kind for _text, kind in row} & {"raw", "smoothed", "mark"} for row in rows[1:-1]]
    assert len(kinds) == 3 and all(kinds)
    assert not any(line.strip().startswith("0.0") for line in plain(rows)[1:]), "the axis ends near the values"


def test_the_step_axis_grows_in_leaps_and_ends_with_the_run() -> None:
    ends = [step_scale(newest, 1000, 70).high for newest in range(1, 1001)]
    assert ends == sorted(ends) and len(set(ends)) < 25 and ends[-1] == 1000
    assert step_scale(50, None, 70).high == 50 and step_scale(1200, 1000, 70).high >= 1200


def test_round_numbers() -> None:
    assert [nice(value) for value in (0.03, 0.2, 7.0, 100.0)] == [0.05, 0.2, 10.0, 100.0]
    assert [tick_text(0.25, 0.05), tick_text(20000.0, 10000.0), tick_text(1234567.0, 1e6)] == [
        "0.250",
        "20000",
        "1.2e+06",
    ]


@pytest.mark.parametrize("high", [0.2, 0.25, 0.3, 0.35, 0.5, 0.9, 12.0])
@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6, 7, 8, 10, 13, 20])
def test_equal_distances_of_the_axis_look_equal(high: float, rows: int) -> None:
    up = value_scale([0.1, high])
    labels = labelled_ticks(up, rows)
    assert labels[rows - 1] == up.ticks()[0] and len(labels) >= 2
    places, values = zip(*sorted(labels.items(), reverse=True), strict=True)
    assert {round((b - a) / (values[1] - values[0]), 6) for a, b in pairwise(values)} == {1}
    gaps = [a - b for a, b in pairwise(places)]
    assert min(gaps) > 0 and max(gaps) <= 1.5 * min(gaps)


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield LossChart()


async def test_new_numbers_show_at_once_and_the_curve_soon() -> None:
    async with Shown().run_test(size=(60, 12)) as pilot:
        chart = pilot.app.query_one(LossChart)
        raw, smoothed = curve(0.5, 0.4), curve(0.5, 0.45)
        chart.show(raw, smoothed, {}, 10)
        before = [chart.render_line(y).text for y in range(12)]
        raw.add(9, 0.3)
        smoothed.add(9, 0.35)
        chart.show(raw, smoothed, {}, 10)
        after = [chart.render_line(y).text for y in range(12)]
        assert "smoothed 0.3500" in after[0] and after[1:] == before[1:]
        await pilot.resize_terminal(70, 12)
        await pilot.pause()
        assert [chart.render_line(y).text.strip() for y in range(1, 11)] != [line.strip() for line in before[1:11]]


async def test_on_a_slow_line_a_late_curve_has_a_remark_and_an_event_redraws_it() -> None:
    async with Shown().run_test(size=(60, 12)) as pilot:
        chart = pilot.app.query_one(LossChart)
        chart._pace = SLOW_SECONDS
        raw, marks = curve(0.5, 0.4), dict[int, float]()

        def lines(state: str) -> list[str]:
            chart.show(raw, raw, marks, 10, state)
            return [chart.render_line(y).text.rstrip() for y in range(12)]

        before = lines("running")
        assert "drawn" not in "".join(before)
        for step in (5, 9):
            raw.add(step, 0.3)
            late = lines("running")
            assert late[1].endswith("drawn up to step 2") and late[2:] == before[2:]
        ended = lines("finished")
        assert "drawn" not in "".join(ended) and ended[2:] != before[2:]
        raw.add(10, 0.3)
        assert lines("finished")[1].endswith("drawn up to step 9")
        marks[10] = 0.35
        assert "drawn" not in "".join(lines("finished")) and "●" in "".join(lines("finished")[1:])
        raw.add(11, 0.3)
        assert "drawn" in lines("finished")[1]
        chart.display = False
        await pilot.pause()
        chart.display = True
        await pilot.pause()
        assert "drawn" not in chart.render_line(1).text


def test_a_remark_leaves_a_narrow_row_alone() -> None:
    assert with_remark([("abc", "axis"), ("defghi", "raw")], "xyz") == [
        ("abc", "axis"),
        ("def", "raw"),
        ("xyz", "axis"),
    ]
    assert with_remark([("abcd", "axis")], "xyz") == [("abcd", "axis")]
