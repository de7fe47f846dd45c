"""Bars, lines and half-block images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from engine.runs import Event, RunDir, RunState
from engine.runs.events import event_of
from engine.runs.history import RunHistory
from engine.text import duration
from tui.display.halfblocks import depth, nearest, render, side_by_side
from tui.shell import event_printer as printers
from tui.shell import output
from tui.shell.event_printer import BarPrinter, EventPrinter, bar_line, clip
from tui.text.run import progress_lines


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 79, 300])
def test_a_bar_is_never_wider_than_the_terminal(columns: int) -> None:
    for text in ("step 5 of 10, loss 0.1234, 3:05 left", "ステップ 5" * 9, ""):
        line = bar_line(text, 0.5, columns)
        assert sum(2 if ord(character) > 0x1100 else 1 for character in line) <= columns


def test_a_bar_shows_its_share() -> None:
    assert bar_line("x", 0.5, 80) == f"[{'#' * 15}{'.' * 15}]  50% x"
    assert bar_line("x", None, 80) == "x"
    assert clip("日本語", 5) == "日本"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (3723, "1 h 2 min"), (-1, "0 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def events(*pairs: tuple[str, Mapping[str, object]]) -> list[Event]:
    return [event_of(kind, data, number, 0.0) for number, (kind, data) in enumerate(pairs)]


def test_lines_come_at_most_every_five_seconds(tmp_path, capsys, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(printers.time, "monotonic", lambda: clock[0])
    printer = EventPrinter(RunDir(tmp_path))
    for step in range(1, 21):
        clock[0] += 1
        printer(event_of("step", {"step": step, "loss_average": 0.5, "eta_seconds": None}, step, 0.0))
    assert capsys.readouterr().err.splitlines() == [f"step {step}, loss 0.5000" for step in (1, 6, 11, 16)]


def test_every_event_that_a_person_needs_is_reported(tmp_path, capsys) -> None:
    printer = EventPrinter(RunDir(tmp_path))
    for event in events(
        ("phase", {"name": "load", "state": "start"}),
        ("phase", {"name": "load", "state": "end"}),
        ("progress", {"phase": "cache", "done": 3, "total": 3, "unit": "images"}),
        ("note", {"text": "bf16: \udcff\x1b[2J"}),
        ("warning", {"code": "x", "text": "careful"}),
        ("validation", {"step": 0, "loss": 0.25}),
        ("saved", {"path": "/a.safetensors", "bytes": 3 << 20, "step": 5}),
        ("error", {"title": "Storage", "message": "full.", "hint": "free some."}),
        ("of_the_future", {}),
    ):
        printer(event)
    assert capsys.readouterr().err.splitlines() == [
        "loading ...",
        "caching: 3 of 3 images",
        "bf16: \ufffd\\x1b[2J",
        "warning: careful",
        "validation loss 0.2500 at step 0",
        "saved and verified /a.safetensors (3.0 MiB), step 5",
        "Storage: full. free some.",
    ]


def test_lines_stay_above_the_bar(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(output, "width", lambda _: 40)
    printer = BarPrinter(RunDir(tmp_path))
    printer(event_of("progress", {"phase": "cache", "done": 1, "total": 2, "unit": "p"}))
    printer(event_of("note", {"text": "said"}, 1, 0.0))
    printer.close()
    bar = bar_line("caching: 1 of 2 p", 0.5, 39)
    assert capsys.readouterr().err == f"\r\x1b[K{bar}\r\x1b[Ksaid\n\r\x1b[K{bar}\n"


def test_history_is_shown_briefly(tmp_path, capsys) -> None:
    printer = EventPrinter(RunDir(tmp_path))
    printer.show_history(events(
        ("run_started", {}), ("note", {"text": "first part"}), ("validation", {"step": 0, "loss": 1.0}),
        ("run_started", {}), ("note", {"text": "second part"}), ("step", {"step": 1}), ("step", {"step": 2}),
    ))  # fmt: skip
    assert capsys.readouterr().err.splitlines() == ["second part", "step 2"]
    assert len(printer.validations) == 1


def test_half_blocks_show_two_pixels_a_cell() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    lines = render(image, 4, "truecolor")
    assert len(lines) == 2 and all(line.count("▀") == 4 and line.endswith("\x1b[0m") for line in lines)
    assert lines[0].startswith("\x1b[38;2;255;0;") and "38;5;196" in render(image, 4, "256")[0]
    assert side_by_side(["a", "b"], ["c", "d"], "|") == ["a|c", "b|d"]


def test_the_nearest_of_256_colours() -> None:
    colours = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128))
    assert [nearest(*colour) for colour in colours] == [16, 231, 196, 244]


@pytest.mark.parametrize(
    ("environment", "encoding", "expected"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "utf-8", "truecolor"),
        ({"TERM": "xterm-256color"}, "utf-8", "256"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "utf-8", None),
        ({"TERM": "dumb"}, "utf-8", None),
        ({}, "utf-8", None),
        ({"TERM": "xterm"}, "latin-1", None),
    ],
)
def test_where_images_can_be_drawn(environment: dict[str, str], encoding: str, expected: str | None) -> None:
    assert depth(environment, encoding) == expected


def caching(seconds: int, rate: int) -> list[Event]:
    begin = [event_of("phase", {"name": "cache", "state": "start"})]
    data = {"phase": "cache", "total": 100_000, "unit": "images"}
    return begin + [event_of("progress", {**data, "done": rate * time}, time=float(time)) for time in range(seconds)]


def test_the_dashboard_shows_how_fast_images_are_cached_and_how_long_it_takes() -> None:
    history, state = RunHistory(), RunState("running", "")
    history.feed(caching(5, 30))
    first, second = progress_lines(history, state, 78).plain.split("\n")
    assert "120 of 100000 images · about 55 min 29 s left" in first and "30.0 images/s" in second
    assert len(first) <= 78
    history.feed([event_of("phase", {"name": "cache", "state": "end"})])
    assert "images" not in progress_lines(history, state, 78).plain


def test_so_does_the_printer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(printers, "LINE_SECONDS", 0)
    monkeypatch.setattr(EventPrinter, "line", lambda _self, text: lines.append(text))
    printer = EventPrinter(RunDir(tmp_path))
    for event in caching(5, 30):
        printer(event)
    assert lines[-1].endswith("120 of 100000 images, 30.0 images/s, about 55 min 29 s left")
    assert lines[1].endswith("0 of 100000 images")
