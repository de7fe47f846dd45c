"""Where the screen opens and where it refuses; what the command line hands on to it; odd bytes from the terminal."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import textual

from tui import start
from tui.display.terminal import KNOWN_TEXTUAL, InputBytes, SturdyDriver, _Output, driver_class
from tui.main import run
from tui.setup.user_config import IMAGE_MODES


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


class Hidden:
    """An import system in which textual-image is not installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "textual_image":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three streams are terminals."""
    for name in ("__stdin__", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, Terminal())
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def opened(terminal: None, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the screen was opened with, instead of opening it."""
    calls: list[dict[str, Any]] = []

    def show(run_dir: Any = None, **options: Any) -> int:
        calls.append({"run_dir": run_dir, **options})
        return 0

    monkeypatch.setattr(start, "show", show)
    return calls


def test_a_terminal_is_accepted(terminal: None) -> None:
    assert start.refusal() is None


@pytest.mark.parametrize("name", ["__stdin__", "__stdout__", "__stderr__"])
@pytest.mark.parametrize("stream", ["none", "closed", "file"])
def test_every_stream_must_be_a_terminal(
    terminal: None, monkeypatch: pytest.MonkeyPatch, name: str, stream: str
) -> None:
    closed = Terminal()
    closed.close()
    monkeypatch.setattr(sys, name, {"none": None, "closed": closed, "file": io.StringIO()}[stream])
    assert "needs a terminal" in str(start.refusal())


@pytest.mark.parametrize("term", ["dumb", "unknown", "", None])
def test_a_dumb_terminal_is_refused(terminal: None, monkeypatch: pytest.MonkeyPatch, term: str | None) -> None:
    if term is None:
        monkeypatch.delenv("TERM")
    else:
        monkeypatch.setenv("TERM", term)
    assert "By its TERM" in str(start.refusal())


def test_no_arguments_open_the_screen(opened: list[dict[str, Any]]) -> None:
    assert run([]) == 0
    assert opened == [{"run_dir": None}]


def test_what_was_typed_is_filled_into_the_wizard(opened: list[dict[str, Any]], place: Path) -> None:
    (place / "images").mkdir()
    arguments = ["--images", "images", "--model", "some/model", "--name", "ann", "--no-mouse", "--low-bandwidth"]
    assert run(arguments) == 0
    assert opened[0]["prefill"] == {
        "dataset.train_data_dir": str(place / "images"),
        "model.pretrained_model_name_or_path": "some/model",
        "saving.output_name": "ann",
    }
    assert opened[0]["low_bandwidth"] and not opened[0]["mouse"]


@pytest.mark.parametrize("mode", IMAGE_MODES)
def test_images_is_a_mode_or_a_folder(opened: list[dict[str, Any]], place: Path, mode: str) -> None:
    (place / mode).mkdir()
    assert run(["--images", mode]) == run(["--images", f"./{mode}"]) == 0
    assert opened[0]["images"] == mode and not opened[0]["prefill"]
    assert opened[1]["images"] is None
    assert opened[1]["prefill"] == {"dataset.train_data_dir": str(place / mode)}


@pytest.mark.parametrize("arguments", [["--json"], ["--set", "training.seed=1"], ["--dry-run"], ["--output_dir", "x"]])
def test_what_needs_a_preset_is_reported(
    opened: list[dict[str, Any]], arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert "A run needs a preset" in capfd.readouterr().err and not opened


@pytest.mark.parametrize("option", ["--no-mouse", "--low-bandwidth", "--ascii"])
def test_screen_options_do_not_go_with_a_preset(place: Path, option: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--preset", "robot.toml", option]) == 2
    assert f"{option} is for the screen" in capfd.readouterr().err


def test_attach_opens_the_dashboard_and_plain_does_not(
    opened: list[dict[str, Any]], place: Path, lorasmith: Any, run_dir: Any
) -> None:
    assert lorasmith("--preset", "robot.toml").returncode == 0
    assert run(["attach", "robot", "--images", "off", "--no-mouse"]) == 0
    assert opened == [{"run_dir": run_dir, "images": "off", "mouse": False, "low_bandwidth": None, "ascii_only": None}]
    assert run(["attach", "robot", "--plain"]) == 0 and len(opened) == 1


def test_no_such_theme_is_a_sentence(
    terminal: None, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORASMITH_THEME", "pink")
    assert run([]) == 2
    assert "LORASMITH_THEME=pink" in capfd.readouterr().err


def test_protocols_need_their_library(
    terminal: None, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual_image"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])
    assert run(["--images", "sixel"]) == 2
    assert "pip install 'lorasmith[images]'" in capfd.readouterr().err


def test_the_driver_is_used_with_the_textual_it_was_written_for() -> None:
    assert driver_class() is SturdyDriver and textual.__version__ == KNOWN_TEXTUAL


def test_answers_of_the_terminal_are_waited_for_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late answer to an earlier question comes before the answer to the last one."""
    controller, line = os.openpty()
    with os.fdopen(line, "r+b", buffering=0) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        os.write(controller, b"\x1b[6;20;10t\x1b[?62;4c")
        start._await_answers()
        os.set_blocking(line, False)
        with pytest.raises(BlockingIOError):
            os.read(line, 10)
        assert b"\x1b[c" in os.read(controller, 100)
    os.close(controller)


def test_old_mouse_reports_are_dropped_also_in_two_parts() -> None:
    data = b"a\x1b[M \xff\xfeb\x1b[Mabc\xc3\xa9\x1b[A"
    assert InputBytes().text(data) == "abé\x1b[A"
    inside = {2, 3, 9, 10}  # an Escape that waited for more would be an Escape key that does nothing
    for cut in set(range(len(data))) - inside:
        incoming = InputBytes()
        assert incoming.text(data[:cut]) + incoming.text(data[cut:]) == "abé\x1b[A", cut


def test_bytes_that_are_no_text_do_not_raise() -> None:
    assert InputBytes().text(b"x\xff\xfey", final=True) == "x��y"


def test_output_into_a_terminal_that_is_gone_is_dropped() -> None:
    class Gone(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise OSError(5, "Input/output error")

    gone = Gone()
    wrapped = _Output(gone)
    for _ in range(3):
        wrapped.write("x")
        wrapped.flush()
    assert gone.writes == 1
