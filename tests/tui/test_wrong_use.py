"""A person's mistakes: one sentence, a hint, an exit code; never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tui import cli as cli_module
from tui.main import run


@pytest.fixture(autouse=True)
def in_place(place: Path) -> None:
    """Every test in a directory of its own."""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "The screen needs a terminal"),
        (["--images", "x"], 2, "A run needs a preset"),
        (["--preset", "sd15-realistc", "--images", "x"], 2, "Did you mean sd15-realistic?"),
        (["--preset", "robot.toml", "runs"], 2, "cannot be combined with `runs`"),
        (["--nonsense"], 2, "No such option"),
        (["nonsense"], 2, "No such command"),
        (["resum", "x"], 2, "Did you mean resume?"),
        (["completion", "csh"], 2, "csh"),
        (["--preset", "sd15-realistic"], 2, "--images DIR"),
        (["--preset", "robot.toml", "--set", "training.seeed=1"], 2, "seed"),
        (["--preset", "robot.toml", "--set", "training.lr=1"], 2, "Did you mean training.unet_lr or"),
        (["--preset", "robot.toml", "--set", "network.network_dim=-1"], 2, "network_dim"),
        (["--preset", "robot.toml", "--name", "a/b"], 2, "cannot be a file name"),
        (["--preset", "robot.toml"], 3, "model.safetensors"),
        (["--preset", "robot.toml", "--dry-run"], 3, "model.safetensors"),
        (["attach", "nothing"], 2, "There is no run 'nothing'"),
        (["attach"], 2, "No run is training"),
        (["presets", "show", "nothing"], 2, "No preset or file named 'nothing'"),
        (["inspect", "nothing.safetensors"], 3, "nothing.safetensors"),
    ],
)
def test_mistakes(arguments: list[str], code: int, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == code
    out, err = capfd.readouterr()
    assert text in err and "Traceback" not in err and out == ""
    assert not Path("robot").exists()


def test_our_own_mistake_is_a_traceback(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(cli_module, "_without_preset", broken)
    assert run(["--no-mouse"]) == 1
    assert "RuntimeError: a mistake of ours" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["presets"], "sd15-realistic"),
        (["presets", "show", "sd15-realistic"], "[network]"),
        (["schema"], '"properties"'),
        (["locate"], "list of runs"),
        (["--help"], "--preset"),
        (["runs"], ""),
    ],
)
def test_what_only_shows(arguments: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert text in capfd.readouterr().out
