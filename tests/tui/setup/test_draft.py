"""The draft of a run: values on top of a preset, the command line that means the same, what survives a broken file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import tui.commands.run
import tui.setup.draft
from engine.config import ConfigError, RunConfig, dump_toml, load_config
from engine.errors import UsageError
from engine.paths import user_config
from tests.refusals import refused
from tui.main import run
from tui.screens.steps import STEPS
from tui.setup.draft import FIRST_PRESET, STEP_NAMES, Draft, draft_path, forget_presets

PATHS = {
    "model.pretrained_model_name_or_path": "models/base model.safetensors",
    "dataset.train_data_dir": "$HOME/it's [here]",
    "saving.output_name": "ohwx",
}


@pytest.fixture(autouse=True)
def no_memory_of_presets(place: Path) -> None:
    forget_presets()


def parsed(command: str, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """What the shell's own code makes of a command."""
    read: list[RunConfig] = []

    def prepare(config: RunConfig, **_: object) -> None:
        read.append(config)
        raise UsageError("Read.")

    monkeypatch.setattr(tui.commands.run, "prepare", prepare)
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    words = printed.decode().split("\0")[:-1]
    assert words[0] == "lorasmith"
    run(words[1:])
    return read[0]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"training.unet_lr": 5e-5, "training.max_train_epochs": 10, "network.conv_dim": None},
        {"sampling.sample_prompts": ["a {trigger}, on grass", 'say "hi" --n ugly', "naïve\\"]},
        {"sampling.sample_prompts": [], "memory.cache_latents": False, "model.v_parameterization": True},
        {"dataset.class_tokens": "none", "saving.training_comment": "1\nb = 2"},
        {"dataset.class_tokens": "12", "saving.metadata_author": " [x] # y "},
        {"saving.metadata_title": "a\x7fb\t", "saving.metadata_tags": "'"},
        {"dataset.resolution": [512, 768], "saving.output_dir": "out dir", "model.clip_skip": None},
        {"saving.metadata_description": '"quoted"', "dataset.caption_separator": ";"},
    ],
)
@pytest.mark.parametrize("preset", ["sd15-realistic", "demo"])
def test_the_command_means_the_same_run(preset: str, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft(preset=preset, values={**PATHS, **values})
    assert parsed(draft.command(), monkeypatch) == draft.config()


def test_the_command_of_a_runs_own_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft(preset="robot.toml", values={"saving.output_name": "other"})
    assert parsed(draft.command(), monkeypatch) == draft.config()
    assert draft.command() == "lorasmith --preset robot.toml --name other"


def test_a_value_that_is_the_presets_is_no_change() -> None:
    draft = Draft()
    draft.set("network.network_dim", 8)
    assert draft.values == {"network.network_dim": 8} and draft.get("network.network_dim") == 8
    draft.set("network.network_dim", 32)
    assert draft.values == {} and draft.config() == load_config(FIRST_PRESET)


def test_another_preset_keeps_what_was_changed() -> None:
    draft = Draft(values={**PATHS, "training.unet_lr": 5e-4, "network.network_dim": 8})
    kept = draft.choose_preset("sd15-anime")
    assert kept == ["network.network_dim"]  # the rate is the new preset's own
    assert draft.values == {**PATHS, "network.network_dim": 8}
    with refused("preset-missing"):
        draft.choose_preset("nowhere")
    assert draft.preset == "sd15-anime"


def test_a_preset_does_not_answer_what_a_step_has_asked() -> None:
    """The demo has a trigger word and repeats of its own; a preset between, which has none, changes nothing."""
    draft = Draft(values=dict(PATHS), done=["hardware", "model", "folders"])
    for preset in ("demo", "sd15-anime", "demo"):
        draft.choose_preset(preset)
        config = draft.config()
        assert (config.dataset.class_tokens, config.dataset.num_repeats) == (None, None)
    assert config.memory.device == "cpu"  # the demo's own, as long as no other was chosen


def test_the_paths_of_a_runs_file_stay_when_a_preset_takes_its_place(place: Path) -> None:
    draft = Draft(preset="robot.toml", values={"saving.output_name": "other"})
    draft.choose_preset("sd15-anime")
    assert draft.config().model.pretrained_model_name_or_path == "model.safetensors"
    assert draft.get("dataset.train_data_dir") == "images" and draft.get("saving.output_name") == "other"


@pytest.mark.parametrize("content", [None, "[training]\nseed = 'x'\n", "not TOML"])
def test_a_preset_that_is_gone_or_broken_makes_way_and_that_is_reported_once(content: str | None) -> None:
    path = user_config() / "presets" / "mine.toml"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_text(content)
    draft = Draft(preset="mine", values={"training.seed": 7})
    assert draft.get("network.network_dim") == 32
    assert draft.preset == FIRST_PRESET and draft.config().training.seed == 7
    notice = draft.take_notice()
    assert "The preset mine cannot be used" in notice and "sd15-realistic replaces it" in notice
    assert draft.take_notice() == ""


def test_a_draft_of_another_version(place: Path) -> None:
    draft_path().parent.mkdir(parents=True, exist_ok=True)
    draft_path().write_text(json.dumps({"values": {"training.gone": 1, "training.seed": 3}, "step": 4, "new": 1}))
    draft = Draft.load()
    assert draft.step == "hardware" and draft.config().training.seed == 3
    assert "training.gone" in draft.take_notice()


def test_it_is_kept_between_starts(place: Path) -> None:
    draft = Draft(values={"training.seed": 3}, step="review", done=["model"], extras={"a.b": [1]}, notice="Look.")
    assert draft.save() is None
    assert Draft.load() == draft


def test_on_another_preset_with_the_same_configuration() -> None:
    draft = Draft(values={**PATHS, "training.unet_lr": 5e-4})
    before = draft.config()
    draft.rebase("sd15-anime", before)
    assert draft.config() == before and draft.preset == "sd15-anime"
    assert "training.unet_lr" not in draft.values and draft.values["network.network_dim"] == 32


def test_values_on_trial_change_nothing() -> None:
    draft = Draft()
    with pytest.raises(ConfigError):
        draft.config(training__adaptive_noise_scale=0.1, training__noise_offset=None)
    assert draft.config(training__seed=1).training.seed == 1 and draft.values == {}


def test_a_started_draft_is_no_longer_unfinished_until_it_changes() -> None:
    draft = Draft()
    assert not draft.unfinished
    draft.set("saving.output_name", "ann")
    assert draft.unfinished
    draft.mark_started()
    assert not draft.unfinished
    draft.set("training.seed", 7)
    assert draft.unfinished


def test_a_step_that_there_is_no_more() -> None:
    assert [step.name for step in STEPS] == list(STEP_NAMES)
    draft_path().parent.mkdir(parents=True, exist_ok=True)
    draft_path().write_text('{"step": "wardrobe", "preset": "sdxl"}')
    loaded = Draft.load()
    assert loaded.step == "hardware" and loaded.preset == "sdxl"


CHANGED = ["100: training.unet_lr=5e-05", "200: training.max_train_steps=300", "250: training.unet_lr=1e-05"]


@pytest.fixture
def copied(place: Path) -> Draft:
    """The draft of a copy of a run whose settings changed while it trained."""
    config = RunConfig().changed(
        training={"unet_lr": 1e-4, "max_train_epochs": 2, "changes": CHANGED}, saving={"output_name": "robot"}
    )
    path = place / "robot.toml"
    path.write_text(dump_toml(config))
    return Draft(preset=str(path))


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({}, [0, 1, 2]),
        ({"training.seed": 7}, [0, 1, 2]),
        ({"training.unet_lr": 2e-4}, [1]),
        ({"training.max_train_steps": 50}, [0, 2]),
        ({"training.max_train_epochs": 5}, [0, 2]),
        ({"training.unet_lr": 2e-4, "training.max_train_epochs": 5}, []),
        ({"training.changes": []}, []),
        ({"training.unet_lr": 2e-4, "training.changes": CHANGED[:1]}, [0]),
    ],
)
def test_a_setting_that_is_set_leaves_out_its_changes_during_training(
    copied: Draft, values: dict[str, Any], kept: list[int]
) -> None:
    for key, value in values.items():
        copied.set(key, value)
    expected = [CHANGED[place] for place in kept]
    assert copied.get("training.changes") == copied.config().training.changes == expected, "what is shown is what runs"
    words = copied.command_words()
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    assert load_config(copied.preset, overrides).training.changes == expected
    for key in values:
        copied.values.pop(key, None)
    assert copied.get("training.changes") == CHANGED, "nothing is lost"


@pytest.mark.parametrize("key", ["training.unet_lr", "training.seed"])
def test_an_editor_takes_what_the_text_has(copied: Draft, key: str) -> None:
    text = dump_toml(copied.config().changed(training={key.partition(".")[2]: 3}))
    copied.adopt(text)
    assert copied.config() == load_config(copied.preset).changed(training={key.partition(".")[2]: 3})


def test_the_command_has_the_length_that_decides() -> None:
    draft = Draft(values={"training.max_train_epochs": 3, "training.max_train_steps": 1601})
    assert "max_train_epochs=3" in draft.command() and "max_train_steps" not in draft.command()
    draft.set("training.max_train_epochs", None)
    assert "max_train_steps=1601" in draft.command()
