"""The mouse in a real terminal: what it sends, and what that does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.runs import RunDir
from tests.fake_run import PlayedTrainer, prepared_run

Start = Callable[..., Any]
MOVE, WHEEL_UP, WHEEL_DOWN = 35, 64, 65


def finished_run(place: Path, name: str) -> RunDir:
    """A finished run with samples of two steps."""
    run_dir = prepared_run(place, name)
    trainer = PlayedTrainer(run_dir, total=20)
    for _ in range(2):
        trainer.train(10)
        trainer.save(validation_loss=0.2)
        trainer.sample()
    trainer.end()
    return run_dir


def test_a_click_chooses_a_run_and_a_second_click_opens_it(start: Start, place: Path) -> None:
    for name in ("robot", "ann"):
        finished_run(place, name)
    terminal = start()
    terminal.until_shown("─ann─", "robot")
    terminal.click("robot")
    terminal.until_shown("─robot─")
    terminal.click("robot   ")
    terminal.until_shown("1 Overview", "Rates")


def test_a_click_on_a_tab_shows_its_pane(start: Start, place: Path) -> None:
    terminal = start("attach", str(finished_run(place, "robot").path))
    terminal.until_shown("Rates", "4 Log")
    terminal.click("4 Log")
    terminal.until_shown("The trainer has printed nothing yet.")
    terminal.click("1 Overview")
    terminal.until_shown("Rates")


def test_a_button_is_lit_under_the_mouse_and_clicked(start: Start) -> None:
    terminal = start(COLORTERM="truecolor")
    terminal.until_shown("There is no run yet")
    terminal.send("n")
    terminal.until_shown("Train on", "Next")
    for label in ("Next ", "Runs "):
        before = terminal.style(label)
        terminal.mouse(MOVE, label)
        terminal.until(lambda label=label, before=before: terminal.style(label) != before)
        terminal.mouse(MOVE, "Train on")
        terminal.until(lambda label=label, before=before: terminal.style(label) == before)
    terminal.click("Next ")
    terminal.until_shown("▸Model")


def test_the_wheel_moves_a_list(start: Start, place: Path) -> None:
    for number in range(30):
        prepared_run(place, f"run{number:02}")
    terminal = start()
    terminal.until_shown("run29", "Last seen")
    for _ in range(4):
        terminal.mouse(WHEEL_DOWN, "Last seen", row=3)
    terminal.until(lambda: "run29  " not in terminal.text.partition("Last seen")[2].partition("─run29─")[0])
    for _ in range(8):
        terminal.mouse(WHEEL_UP, "Last seen", row=3)
    terminal.until(lambda: "run29  " in terminal.text.partition("Last seen")[2].partition("─run29─")[0])
