"""Bell and notification, and the words of --on-end."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from engine.runs import RunDir
from tests.refusals import refused
from tui.shell import notify
from tui.shell.on_end import parse_command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "variables", "code", "shown"),
    [
        (Terminal(), {"TERM": "xterm"}, 0, "\x1b]9;LoRA Smith: robot finished\x1b\\\a"),
        (Terminal(), {"TERM": "xterm"}, 6, "\x1b]9;LoRA Smith: robot stopped\x1b\\\a"),
        (Terminal(), {"TERM": "xterm"}, 143, "\x1b]9;LoRA Smith: robot failed\x1b\\\a"),
        (Terminal(), {"TERM": "xterm", "LORASMITH_NOTIFY": "off"}, 0, ""),
        (Terminal(), {"TERM": "dumb"}, 0, ""),
        (io.StringIO(), {"TERM": "xterm"}, 0, ""),
    ],
)
def test_only_a_terminal_is_notified(
    stream: io.StringIO, variables: dict[str, str], code: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORASMITH_NOTIFY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    notify.on_terminal(RunDir(Path("robot/results_current")), code)
    assert stream.getvalue() == shown


def test_a_name_cannot_end_the_sequence() -> None:
    escape = notify.sequence("a\x1b\\\a\x9cb" * 100)
    assert escape.count("\x1b") == 2 and escape.count("\a") == 1 and len(escape) < 220


@pytest.mark.parametrize(
    ("typed", "words"),
    [(None, ()), ("true", ("true",)), ("sh -c 'echo \"$LORASMITH_FILE\"'", ("sh", "-c", 'echo "$LORASMITH_FILE"'))],
)
def test_a_command_is_split_as_a_shell_does(typed: str | None, words: tuple[str, ...]) -> None:
    assert parse_command(typed) == words


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("", "on-end-without-command"),
        ("  ", "on-end-without-command"),
        ("echo 'a", "on-end-not-possible"),
        ("gone-x", "on-end-program-missing"),
    ],
)
def test_what_is_no_command(typed: str, code: str) -> None:
    with refused(code, typed.strip()):
        parse_command(typed)
