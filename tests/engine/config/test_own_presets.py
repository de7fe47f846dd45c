"""A preset of one's own: the base's file with the changed values, without what belongs to one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import find_preset, list_presets, load_config
from engine.config.own_presets import PERSONAL, preset_text, save_preset
from engine.paths import user_config
from engine.text import printable
from tests.refusals import refused


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return user_config()


@pytest.mark.parametrize("base", [preset.name for preset in list_presets()])
def test_it_equals_the_configuration_except_personal_settings(base: str) -> None:
    config = load_config(base).changed(
        model={"pretrained_model_name_or_path": "m.safetensors", "vae": "v.safetensors"},
        dataset={"train_data_dir": "images", "class_tokens": "ohwx", "num_repeats": 3},
        network={"network_dim": 12, "conv_dim": None},
        training={"unet_lr": None, "seed": 7},
        memory={"cache_latents": False, "cache_dir": "cache"},
        saving={"output_name": "robot", "output_dir": "out"},
    )
    path = save_preset("mine", base, config, "mine: a test")
    assert next(preset for preset in list_presets() if preset.name == "mine").title == "mine: a test"
    read, neutral = load_config("mine"), load_config(None)
    for table, values in config.model_dump().items():
        for key, value in values.items():
            source = neutral if f"{table}.{key}" in PERSONAL else config
            assert getattr(getattr(read, table), key) == getattr(getattr(source, table), key), (key, value)
    assert find_preset("mine") == path and "robot" not in path.read_text()


def test_comments_of_the_base_are_kept() -> None:
    text = preset_text("sd15-realistic", load_config("sd15-realistic").changed(training={"seed": 7}), "t")
    assert "# ends slowly, so that the last epochs differ little" in text and "seed = 7" in text
    assert text.startswith("# t\n# For 15-40 photographs")


def test_a_file_of_prompts_is_a_path_and_stays_out() -> None:
    config = load_config("sd15-realistic").changed(sampling={"sample_prompts": "prompts.txt"})
    assert "sample_prompts" not in preset_text("sd15-realistic", config, "t")


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 101, "a b", "a\n"])
def test_names_that_cannot_be(name: str) -> None:
    with refused("preset-name-not-possible", repr(printable(name))):
        save_preset(name, "sd15-anime", load_config("sd15-anime"), "t")


def test_an_own_preset_is_only_overwritten_on_request(own_home: Path) -> None:
    config = load_config("sd15-anime")
    path = save_preset("mine", "sd15-anime", config, "first")
    with refused("preset-exists", path):
        save_preset("mine", "sd15-anime", config, "second")
    assert path.read_text().startswith("# first")
    save_preset("mine", "sd15-anime", config, "second", overwrite=True)
    assert path.read_text().startswith("# second")


def test_a_place_that_cannot_be_written(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(own_home))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused("not-writable"):
        save_preset("mine", "sd15-anime", load_config("sd15-anime"), "t")
