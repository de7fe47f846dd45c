"""`lorasmith completion`: one command, and Tab completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.refusals import require
from tui.commands.completion import command
from tui.main import run


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without start files."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    return tmp_path


def test_it_is_installed_once_and_nothing_of_the_start_file_is_lost(user: Path) -> None:
    own = user / "dotfiles"
    own.write_text("alias ll='ls -l'\n")
    (user / ".bashrc").symlink_to(own)
    for _time in range(2):
        assert run(["completion"]) == 0
    lines = own.read_text().splitlines()
    script = user / "config" / "lorasmith" / "completion.bash"
    assert len(lines) == 2 and lines[0] == "alias ll='ls -l'" and str(script) in lines[1]
    assert (user / ".bashrc").is_symlink() and "_LORASMITH_COMPLETE=bash_complete" in script.read_text()


def test_fish_reads_its_own_folder(user: Path) -> None:
    assert run(["completion", "fish"]) == 0
    assert (user / "config" / "fish" / "completions" / "lorasmith.fish").exists()
    assert not (user / ".fishrc").exists()


def test_print_installs_nothing(user: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "zsh", "--print"]) == 0
    assert capsys.readouterr().out.startswith("#compdef lorasmith") and list(user.iterdir()) == []


def test_a_shell_without_completion_is_named(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(Exception) as caught:
        command.main([], standalone_mode=False)
    require(caught.value, "shell-unknown", "tcsh", "bash")


def test_the_shell_gets_commands_and_options() -> None:
    environment = {
        **os.environ,
        "_LORASMITH_COMPLETE": "bash_complete",
        "COMP_WORDS": "lorasmith re",
        "COMP_CWORD": "1",
    }
    command_line = [sys.executable, "-m", "tui.main"]
    done = subprocess.run(command_line, env=environment, capture_output=True, text=True, check=False)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == {"resume", "report"}
