"""`lorasmith config`: what is in force, and the file in an editor; a wrong file stops what would use it."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from tui import start
from tui.main import run
from tui.setup.user_config import TEMPLATE, forget_user_config, user_config_path


@pytest.fixture(autouse=True)
def _anew(place: Path) -> None:
    forget_user_config()


def written(text: str) -> Path:
    path = user_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_it_prints_the_path_and_effective_values(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["config"]) == 0
    assert f"{user_config_path()} (not there)" in capfd.readouterr().out
    written("[defaults]\ntraining.seed = 7\n[screen]\nmouse = false\nascii = true\n")
    forget_user_config()
    monkeypatch.setenv("LORASMITH_ASCII", "0")
    assert run(["config"]) == 0
    lines = capfd.readouterr().out.splitlines()
    for expected in (
        "training.seed = 7  # line 2", "mouse = false  # this file", "ascii = false  # LORASMITH_ASCII",
        'images = "auto"  # default', "# theme: as chosen last",
    ):  # fmt: skip
        assert expected in lines


VALUES = {
    "sampling": {"sample_prompts": ['a "fox"', "back\\slash", "tab\t, bell \a, \u202e turned", "# no comment"]},
    "training": {"learning_rate": 1e-05, "seed": 7},
    "dataset": {"enable_bucket": False, "caption_extension": ".caption"},
}


@pytest.mark.parametrize(
    "variables", [{}, {"LORASMITH_ASCII": "1", "LORASMITH_NOTIFY": "off", "LORASMITH_THEME": 'a "theme"'}]
)
def test_what_it_prints_is_a_file_of_the_same_values(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    keys = {"Save": "ctrl+s"}
    monkeypatch.setattr("tui.display.own_keys.bind_own_keys", lambda keys: None)  # it would bind them in all tests
    written(tomlkit.dumps({"defaults": VALUES, "screen": {"mouse": False, "theme": "smith-light"}, "keys": keys}))
    assert run(["config"]) == 0
    printed = tomllib.loads(capfd.readouterr().out)
    assert printed["defaults"] == VALUES and printed["keys"] == keys
    of_environment = {"ascii": True, "notify": False, "theme": 'a "theme"'} if variables else {}
    usual = {"theme": "smith-light", "images": "auto", "mouse": False, "low_bandwidth": False, "notify": True}
    assert printed["screen"] == {**usual, **of_environment}


def test_the_file_in_an_editor(place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    script = place / "editor"
    script.write_text('#!/bin/sh\ncp "$1" seen\necho \'[screen]\nmouze = 1\' > "$1"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("VISUAL", str(script))
    assert run(["config", "--edit"]) == 2
    assert "line 2: screen.mouze" in capfd.readouterr().err
    assert (place / "seen").read_text() == TEMPLATE, "what can be set, for a first time"
    assert "mouze" in user_config_path().read_text(), "nothing that was typed is lost"
    monkeypatch.setenv("VISUAL", "true")
    assert run(["config", "--edit"]) == 2, "still wrong"


def test_the_first_text_is_valid(capfd: pytest.CaptureFixture[str]) -> None:
    written(re.sub(r"^# (?=[a-z_.]+ = )", "", TEMPLATE, flags=re.MULTILINE))
    assert run(["config"]) == 0
    assert 'theme = "smith-light"  # this file' in capfd.readouterr().out


@pytest.mark.parametrize("arguments", [["--preset", "sd15-realistic", "--dry-run"], ["plan", "sd15-realistic"]])
def test_a_wrong_file_stops_a_run(arguments: list[str], place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written("[defaults]\ntraining.sead = 7\n")
    assert run(arguments) == 2
    printed = capfd.readouterr()
    assert f"{path}, line 2: training.sead" in printed.err and "training.seed" in printed.err and not printed.out
    assert {entry.name for entry in place.iterdir()} == {"robot.toml"}


def test_commands_that_use_no_default_work(capfd: pytest.CaptureFixture[str]) -> None:
    written("[broken\n")
    assert run(["runs"]) == 0


def test_the_command_line_overrides_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class App:
        farewell = ()
        return_code = 0

        def __init__(self, _run_dir: object, appearance: object) -> None:
            shown.append(appearance)

        def run(self, *, mouse: bool) -> None:
            shown.append(mouse)

    monkeypatch.setattr(start, "refusal", lambda: None)
    monkeypatch.setattr("tui.app.LoraSmithApp", App)
    monkeypatch.setenv("LORASMITH_ASCII", "0")
    for name in ("TEXTUAL_FPS", "TEXTUAL_ANIMATIONS", "TEXTUAL_SMOOTH_SCROLL", "COLUMNS", "LINES"):
        monkeypatch.setenv(name, "1")  # so that they are restored
    written("[screen]\nmouse = false\nimages = 'off'\nlow_bandwidth = true\nascii = true\ntheme = 'smith-light'\n")
    assert run([]) == run(["--mouse", "--full-bandwidth", "--images", "halfblock"]) == 0
    ours, mouse, typed, typed_mouse = shown
    assert (ours.images, ours.low_bandwidth, ours.theme, mouse) == ("off", True, "smith-light", False)
    assert (typed.images, typed.low_bandwidth, typed_mouse) == ("halfblock", False, True)
