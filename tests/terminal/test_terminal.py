"""What happens between the screen and a real terminal: starting, leaving, signals, hang-ups, sizes, odd bytes."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.runs import RunDir, is_locked, true_state
from engine.text import attach_line

Start = Callable[..., Any]
WELCOME = "There is no run yet"
QUIT, REPAINT, INTERRUPT = "\x11", "\x0c", "\x03"


@pytest.mark.parametrize("term", ["xterm", "xterm-256color", "screen-256color"])
def test_it_starts_and_quits(start: Start, term: str) -> None:
    terminal = start(term=term)
    terminal.until_shown(WELCOME, "Quit")
    terminal.send(QUIT)
    assert terminal.wait() == 0 and terminal.restored
    deep = re.search(rb"[34]8;[25];", terminal.raw)
    assert (deep is None) == (term == "xterm"), "sixteen colours where the terminal has sixteen"


@pytest.mark.parametrize(
    "variables",
    [
        {"term": "xterm"},
        {"term": "xterm-256color"},
        {"COLORTERM": "truecolor"},
        {"COLORTERM": "truecolor", "LORASMITH_THEME": "smith-light"},
    ],
)
def test_no_colour_at_all(start: Start, live: RunDir, variables: dict[str, str]) -> None:
    """From the list of runs into a dashboard, a dialog and the wizard: bold, dim, underlined, reversed, no more."""
    terminal = start(NO_COLOR="1", **variables)
    terminal.until_shown("▶ running")
    terminal.send("\r")
    terminal.until_shown("smoothed")
    terminal.send("\x1b[11~")
    terminal.until_shown("Escape closes")
    terminal.send("\x1b\x1b")
    terminal.until_shown("Last seen")
    terminal.send("n")
    terminal.until_shown("Hardware", "Next")
    terminal.send(QUIT)
    terminal.until_shown("Detach")
    terminal.send("\r")
    terminal.wait()
    codes = {code for group in re.findall(rb"\x1b\[([0-9;]*)m", terminal.raw) for code in group.split(b";")}
    assert b"1" in codes and codes <= {
        b"",
        *(b"%d" % code for code in range(10)),
        *(b"%d" % code for code in range(21, 30)),
    }


def test_without_a_mouse(start: Start) -> None:
    terminal = start("--no-mouse")
    terminal.until_shown(WELCOME)
    terminal.send(QUIT)
    assert terminal.wait() == 0 and b"?1000h" not in terminal.raw


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_dumb_terminal_gets_a_sentence(start: Start, term: str) -> None:
    terminal = start(term=term)
    assert terminal.wait() == 2
    assert "cannot place characters" in terminal.text and "?1049h" not in terminal.raw.decode()


def test_no_terminal_gets_a_sentence(place: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tui.main"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "needs a terminal" in done.stderr and "--preset" in done.stderr and "\x1b" not in done.stderr


def test_nohup_is_refused(start: Start) -> None:
    """nohup ignores the hang-up and takes the output away."""
    terminal = start(command=["nohup", sys.executable, "-m", "tui.main"])
    assert terminal.wait() == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_closes_it_and_leaves_the_run_alone(start: Start, live: RunDir, number: int, code: int) -> None:
    terminal = start("attach", "robot")
    terminal.until_shown("▶ running  · training")
    terminal.process.send_signal(number)
    assert terminal.wait() == code and terminal.restored
    assert true_state(live).live


def test_a_hang_up_ends_the_screen_and_not_the_run(start: Start, live: RunDir) -> None:
    terminal = start("attach", "robot")
    terminal.until_shown("▶ running  · training")
    terminal.hang_up()
    assert terminal.wait() == 129
    step = true_state(live).step
    assert is_locked(live.lock_path) is not None
    second = start("attach", "robot")
    second.until_shown("▶ running  · training")
    second.until(lambda: true_state(live).step > step)


def test_a_hang_up_that_is_ignored_does_not_spin(start: Start) -> None:
    """A parent may have set SIGHUP to be ignored; the end of the input is enough."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from tui.main import main; main()"
    terminal = start(command=[sys.executable, "-c", code])
    terminal.until_shown(WELCOME)
    terminal.hang_up()
    assert terminal.wait() == 129


def test_the_end_of_the_input_ends_it(start: Start) -> None:
    """The terminal is alive, only what is read from it is at its end: not a reason to spin."""
    code = (
        "import os, threading, time\n"
        "def end():\n"
        "    time.sleep(2)\n"
        "    null = os.open(os.devnull, os.O_RDONLY)\n"
        "    os.dup2(null, 0)\n"
        "threading.Thread(target=end, daemon=True).start()\n"
        "from tui.main import main\n"
        "main()\n"
    )
    terminal = start(command=[sys.executable, "-c", code])
    assert terminal.wait() == 129


def test_a_crash_is_not_silent_and_gives_the_terminal_back(start: Start) -> None:
    code = (
        "from tui.app import LoraSmithApp\n"
        "from tui.main import main\n"
        "def action_repaint(self): raise RuntimeError('a mistake of ours')\n"
        "LoraSmithApp.action_repaint = action_repaint\n"
        "main()\n"
    )
    terminal = start(command=[sys.executable, "-c", code], size=(120, 60))
    terminal.until_shown(WELCOME)
    terminal.send(REPAINT)
    assert terminal.wait() == 1 and terminal.restored
    assert b"a mistake of ours" in terminal.raw and b"running training continues." in terminal.raw


def test_ctrl_c_twice(start: Start) -> None:
    terminal = start()
    terminal.until_shown(WELCOME)
    terminal.send(INTERRUPT)
    terminal.until_shown("Press Ctrl+C again")
    terminal.send(INTERRUPT)
    assert terminal.wait() == 0 and terminal.restored


def test_mouse_reports_of_the_oldest_form(start: Start) -> None:
    """As after a detach and attach in tmux: bytes beyond column 95 are no UTF-8."""
    terminal = start(size=(160, 40))
    terminal.until_shown(WELCOME)
    for column in range(90, 160):
        terminal.send(b"\x1b[M\x20" + bytes([32 + column, 40]))
    terminal.send(b"\xff\xfe\xc3")
    terminal.send("?")
    terminal.until_shown("The states are checked")
    terminal.send(QUIT)
    assert terminal.wait() == 0


def test_a_small_terminal_shows_one_panel_and_comes_back(start: Start) -> None:
    terminal = start(COLUMNS="80", LINES="24")  # as some shells and tools export them
    terminal.until_shown(WELCOME)
    terminal.resize(40, 10)
    terminal.until_shown("Enlarge the terminal to 60 × 16")
    assert WELCOME not in terminal.text
    terminal.resize(80, 24)
    terminal.until_shown(WELCOME, "Quit")


def test_a_small_terminal_shows_how_the_training_is(start: Start, live: RunDir) -> None:
    terminal = start("attach", "robot")
    terminal.until_shown("▶ running  · training", "Rates")
    terminal.resize(40, 10)
    terminal.until_shown("robot", "of 99999", "loss 0.", "Enlarge the terminal")
    assert "Rates" not in terminal.text
    terminal.resize(80, 24)
    terminal.until_shown("Rates", "Quit")


def test_images_by_sixel_in_a_terminal_that_answers_nothing(start: Start) -> None:
    pytest.importorskip("textual_image")
    terminal = start("--images", "sixel")
    terminal.until_shown(WELCOME)
    assert b"Traceback" not in terminal.raw
    terminal.send(QUIT)
    assert terminal.wait() == 0 and terminal.restored


def test_ctrl_l_redraws_everything(start: Start) -> None:
    terminal = start()
    terminal.until_shown(WELCOME, "Quit")
    terminal.screen.reset()
    assert WELCOME not in terminal.text
    terminal.send(REPAINT)
    terminal.until_shown(WELCOME, "Quit", "LoRA Smith")


def test_two_viewers_of_one_run(start: Start, live: RunDir) -> None:
    first, second = start("attach", "robot"), start("attach", str(live.path), term="xterm")
    for terminal in (first, second):
        terminal.until_shown("▶ running  · training", "smoothed")
    first.send(QUIT)
    first.until_shown("Detach")
    first.send("\r")
    assert first.wait() == 0 and "lorasmith attach" in first.text
    step = true_state(live).step
    second.until(lambda: true_state(live).step > step + 5)
    second.send("\x1b")
    second.until_shown("▶ running")
    assert second.process.poll() is None and true_state(live).live


def test_detach_and_attach(start: Start, live: RunDir) -> None:
    for _ in range(2):
        terminal = start("attach", "robot")
        terminal.until_shown("▶ running  · training")
        terminal.send(QUIT)
        terminal.until_shown("Detach")
        terminal.send("\r")
        assert terminal.wait() == 0 and terminal.restored
        command = f"\r\n  {attach_line(live.path)}\r\n"  # on a line of its own, however long it is
        assert command.encode() in terminal.raw.replace(b"\x1b[K", b"")
    terminal = start()
    terminal.until_shown("▶ running")
    terminal.send("x")
    terminal.until_shown("Stop robot?")
    terminal.send("\x1b[B\r")
    terminal.until_shown("□ stopped")
    assert true_state(live).state == "stopped"


def test_attach_without_a_terminal_prints_lines(place: Path, live: RunDir) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tui.main", "attach", "robot"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"step" in process.stderr.readline() + process.stderr.readline() + process.stderr.readline()
    process.kill()
    process.wait()


def test_at_rest_it_hardly_works(start: Start, seconds_of_cpu: Callable[..., float]) -> None:
    terminal = start()
    terminal.until_shown(WELCOME)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        terminal.read()
    before, written = seconds_of_cpu(terminal.process), len(terminal.raw)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        terminal.read()
    assert seconds_of_cpu(terminal.process) - before < 1.0 and len(terminal.raw) - written < 4096
    assert terminal.process.poll() is None


def test_y_copies_by_the_terminal_s_own_clipboard(start: Start, live: RunDir) -> None:
    terminal = start()
    terminal.until_shown("▶ running")
    terminal.send("y")
    terminal.until_shown("Copied")
    encoded = base64.b64encode(str(live.path).encode()).decode()
    assert f"\x1b]52;c;{encoded}".encode() in terminal.raw


@pytest.mark.parametrize(("term", "is_ascii"), [("linux", True), ("xterm-256color", False)])
def test_a_console_gets_bars_of_ascii(start: Start, live: RunDir, term: str, is_ascii: bool) -> None:
    terminal = start("attach", "robot", term=term)
    terminal.until_shown("running", "Step ")
    terminal.until(lambda: ("─".encode() in terminal.raw) is not is_ascii and b"smoothed" in terminal.raw)
    braille = [character for character in terminal.text if "\u2800" <= character <= "\u28ff"]
    assert bool(braille) is not is_ascii


def test_the_editor_gets_the_terminal_and_gives_it_back(start: Start, place: Path) -> None:
    editor = place / "my editor"
    editor.write_text('#!/bin/sh\necho "EDITING $1"; read -r word; sed -i "s/^seed = .*/seed = $word/" "$1"\n')
    editor.chmod(0o755)
    terminal = start(VISUAL=f"'{editor}'")
    terminal.until_shown(WELCOME)
    terminal.send("n")
    terminal.until_shown("Hardware")
    terminal.send("\x075")  # Ctrl+G, Parameters
    terminal.until_shown("basic · 0 changed")
    terminal.send("\x1b[17~")
    terminal.until_shown("EDITING")
    terminal.send("77\r")
    terminal.until_shown("basic · 1 changed")
    terminal.send("/seed\r")
    terminal.until_shown("• Seed", "77")
    terminal.send(QUIT)
    assert terminal.wait() == 0 and terminal.restored


def test_own_keys(start: Start, place: Path) -> None:
    folder = place.parent / "home" / "lorasmith"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('[keys]\n"New run" = "z"\n')
    terminal = start()
    terminal.until_shown(WELCOME, "z New run")
    terminal.send("z")
    terminal.until_shown("Train on")
    terminal.send(QUIT)
    assert terminal.wait() == 0
    (folder / "config.toml").write_text('[keys]\n"New run" = "d"\n')
    refused = start()
    assert refused.wait() == 2 and "line 2" in refused.text and b"?1049h" not in refused.raw
