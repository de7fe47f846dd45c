"""The person's own file of defaults: where they count, and that each mistake in it is a sentence with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import dump_toml, load_config
from tests.refusals import refused
from tui.display.themes import first_theme
from tui.setup import configuration
from tui.setup.draft import Draft, forget_presets
from tui.setup.review_report import settings
from tui.setup.user_config import (
    ScreenDefaults,
    UserConfig,
    effective_defaults,
    forget_user_config,
    read_user_config,
    user_config_path,
)
from tui.shell import notify

PRESET = "sd15-realistic"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    forget_presets()


def written(text: str) -> Path:
    path = user_config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    forget_user_config()
    return path


def test_no_file_is_normal() -> None:
    assert read_user_config() == UserConfig() and effective_defaults(PRESET) == {}


def test_a_default_counts_where_preset_and_command_line_are_silent() -> None:
    rate = load_config(PRESET).training.unet_lr
    path = written("[defaults]\nmemory.device = 'cuda:1'\ntraining.unet_lr = 9\n[defaults.sampling]\nsample_seed = 7\n")
    config = configuration.read_partly(PRESET)
    assert (config.memory.device, config.sampling.sample_seed, config.training.unet_lr) == ("cuda:1", 7, rate)
    assert configuration.read_partly(PRESET, ["memory.device=cpu"]).memory.device == "cpu"
    assert effective_defaults(PRESET) == {"memory.device": "cuda:1", "sampling.sample_seed": 7}
    note = configuration.defaults_note(PRESET, config)
    assert note is not None and str(path) in note and "memory.device=" in note and "unet_lr" not in note


def test_the_file_of_a_run_is_taken_as_it_is(tmp_path: Path) -> None:
    """It has no line for a setting that is unset, so that a default would change what it repeats."""
    run = tmp_path / "robot.toml"
    run.write_text(dump_toml(load_config(PRESET)))
    before = load_config(run)
    written("[defaults.training]\ntext_encoder_lr = 1e-5\nseed = 7\n")
    assert configuration.read_partly(str(run)) == before
    assert Draft(preset=str(run)).config() == before
    assert load_config(run) == before, "as the trainer and a resume read it"


def test_the_wizard_starts_with_them_and_the_review_names_them() -> None:
    written("[defaults]\nsampling.sample_seed = 7\nmemory.device = 'cpu'\n")
    draft = Draft(preset=PRESET)
    assert draft.get("sampling.sample_seed") == draft.config().sampling.sample_seed == 7
    draft.set("sampling.sample_seed", 7)
    assert draft.values == {}, "it does not differ"
    assert "Sample seed: 7 (your default)" in settings(draft.config(), draft)
    draft.set("sampling.sample_seed", 8)
    assert "• Sample seed: 8 (your default: 7)" in settings(draft.config(), draft)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\n[screen]\ntheem = 'x'\n", ("line 3", "screen.theem", "theme")),
        ("[screan]\n", ("line 1", "screan", "screen")),
        ("screen = 3\n", ("line 1", "screen")),
        ("[screen]\nmouse = 'no'\n", ("line 2", "screen.mouse", "true or false")),
        ("[screen]\nlow_bandwidth = 1\n", ("line 2", "screen.low_bandwidth", "true or false")),
        ("[screen]\nimages = 'sixal'\n", ("line 2", "screen.images", "sixel")),
        ("[screen]\ntheme = 'smith'\n", ("line 2", "screen.theme", "smith-dark")),
        ("[defaults]\ntraining.sead = 1\n", ("line 2", "training.sead", "training.seed")),
        ("[defaults]\nseed = 1\n", ("line 2", "seed", "[training]")),
        ("[defaults]\ntraining.seed = 'a'\n", ("line 2", "training.seed")),
        ("[defaults.training]\nseed = -1\n", ("line 2", "training.seed")),
        ("[defaults]\nsaving.output_name = 'a'\n", ("line 2", "saving.output_name", "one run")),
        ("[keys]\n'Save now' = 3\n", ("line 2", "keys.Save now")),
        ("[defaults\n", ("not valid TOML",)),
    ],
)
def test_a_mistake_is_a_sentence_with_its_line(text: str, parts: tuple[str, ...]) -> None:
    path = written(text)
    with refused("config-invalid", path, *parts):
        read_user_config()


def test_a_file_that_cannot_be_read() -> None:
    path = written("")
    path.write_bytes(b"\xff\xfe\x00")
    with refused("user-config-not-utf8", path):
        read_user_config()
    path.unlink()
    path.mkdir()
    with refused("user-config-unreadable", path):
        read_user_config()


def test_screen_defaults() -> None:
    written("[screen]\ntheme = 'smith-light'\nmouse = false\nascii = true\nnotify = false\n")
    assert read_user_config().screen == ScreenDefaults(theme="smith-light", mouse=False, ascii=True, notify=False)
    assert not notify.enabled({}) and notify.enabled({notify.VARIABLE: "on"})


@pytest.mark.parametrize(
    ("colours", "environment", "own", "theme"),
    [
        ("truecolor", {}, "smith-light", "smith-light"),
        ("truecolor", {"LORASMITH_THEME": "high-contrast"}, "smith-light", "high-contrast"),
        ("standard", {}, "smith-light", "smith-16"),
        ("standard", {}, "no-colour", "no-colour"),
        ("truecolor", {"NO_COLOR": "1"}, "smith-light", "no-colour"),
    ],
)
def test_the_theme_of_the_file(colours: str, environment: dict[str, str], own: str, theme: str) -> None:
    assert first_theme(colours, environment, own) == theme
