"""Reading a configuration: every problem at once, each with its place and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import ConfigError, RunConfig, dump_toml, find_preset, list_presets, load_config, update_toml
from engine.config.literals import parse_value
from engine.config.problems import keys
from engine.exit_codes import ExitCode
from tests.refusals import refused


@pytest.mark.parametrize("preset", [preset.name for preset in list_presets()])
def test_every_shipped_preset_is_valid_and_described(preset: str) -> None:
    info = next(item for item in list_presets() if item.name == preset)
    assert isinstance(load_config(preset), RunConfig)
    assert len(info.title) > 10
    assert info.description


def test_the_shipped_presets_are_these() -> None:
    assert {preset.name for preset in list_presets()} == {
        "demo", "flux-dev", "flux-dev-12gb", "flux-dev-8gb", "flux-dev-anime", "sd15-anime", "sd15-realistic",
        "sdxl", "sdxl-illustrious", "sdxl-noobai-vpred", "sdxl-pony",
    }  # fmt: skip


def test_all_problems_are_reported_at_once_with_file_line_and_nearest_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[model]\nclip_skp = 2\n\n[training]\nunet_lr = 'fast'\nseed = -1\nloss_type = 'l3'\n\n[trainig]\na = 1\n"
        "\n[network]\nunet_lr = 1e-4\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["dataset.resolution=10", "memory.nothing=1", "seed=3", "training.seed"])
    places = {(problem.where, problem.key): problem for problem in caught.value.problems}
    hints = {
        (f"{file}, line 2", "model.clip_skp"): "model.clip_skip",
        (f"{file}, line 5", "training.unet_lr"): "'fast'",
        (f"{file}, line 6", "training.seed"): "-1",
        (f"{file}, line 7", "training.loss_type"): "'l3'",
        (f"{file}, line 9", "trainig"): "[training]",
        (f"{file}, line 13", "network.unet_lr"): "training.unet_lr",
        ("--set dataset.resolution=10", "dataset.resolution"): "10",
        ("--set memory.nothing=1", "memory.nothing"): "lorasmith schema",
        ("--set seed=3", "seed"): "[training]",
        ("--set training.seed", ""): "table.key=value",
    }
    assert places.keys() == hints.keys() and len(caught.value.problems) == len(hints)
    assert [place for place, hint in hints.items() if hint not in f"{places[place].message} {places[place].hint}"] == []
    assert caught.value.exit_code == ExitCode.USAGE


def test_no_such_preset_names_the_nearest() -> None:
    with refused("preset-missing", "'sd15-anim'", "sd15-anime"):
        load_config("sd15-anim")


def test_broken_toml_is_reported_with_its_line_and_a_hint_on_backslashes(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_text('[dataset]\ntrain_data_dir = "C:\\images\\new"\n')
    with refused("config-invalid", "windows.toml", "line 2", "single quotes"):
        load_config(file)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with refused("preset-not-utf8", "binary.toml"):
        load_config(file)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"min_timestep": 500, "max_timestep": 400}, ("min_timestep", "max_timestep")),
        ({"adaptive_noise_scale": 0.1}, ("adaptive_noise_scale", "noise_offset")),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 10}, ("lr_warmup_steps", "constant_with_warmup")),
    ],
)
def test_impossible_combinations_are_refused(changes: dict[str, object], keys: tuple[str, str]) -> None:
    with refused("config-invalid", *keys):
        load_config(None, [f"training.{key}={value}" for key, value in changes.items()])


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=true", "network.network_dim=true", "training.max_train_epochs=true",
        "training.seed=false", "dataset.resolution=[true, 512]", "training.max_train_epochs=99999999999999",
    ],
)  # fmt: skip
def test_true_is_no_number_and_no_length_is_endless(override: str) -> None:
    key, _, value = override.partition("=")
    with refused("config-invalid", f"{key}: {value.replace('true', 'True').replace('false', 'False')}"):
        load_config(None, [override])


def test_options_win_over_overrides_and_overrides_over_the_preset() -> None:
    config = load_config(
        "sd15-anime", ["training.unet_lr=2e-4", "saving.output_name=a"], {"saving.output_name": ("--name", "b")}
    )
    assert config.training.unet_lr == 2e-4
    assert config.saving.output_name == "b"
    assert config.model.clip_skip == 2


def test_a_wrong_option_is_reported_by_its_name() -> None:
    with refused("config-invalid", "--device: memory.device: 'tpu'"):
        load_config(None, options={"memory.device": ("--device", "tpu")})


@pytest.mark.parametrize(("text", "size"), [("512,768", (512, 768)), ("512", (512, 512)), ("[640, 448]", (640, 448))])
def test_a_resolution_in_kohyas_form_is_understood(text: str, size: tuple[int, int]) -> None:
    assert load_config(None, [f"dataset.resolution={text}"]).dataset.size == size


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("true", True), ("[1, 2]", [1, 2]), ("cosine", "cosine"), ("/a b/c", "/a b/c"), ("none", None)],
)
def test_override_values_are_toml_or_text(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    config = load_config(
        "sd15-realistic", ["saving.output_name=ann", "dataset.resolution=[512, 768]", "dataset.train_data_dir=a[b] ü"]
    )
    file = tmp_path / "run.toml"
    file.write_text(dump_toml(config, "A heading"))
    assert load_config(file) == config


def test_a_persons_comments_survive_a_change() -> None:
    text = find_preset("sd15-realistic").read_text()
    config = load_config("sd15-realistic", ["training.unet_lr=3e-4", "model.clip_skip=none", "dataset.flip_aug=true"])
    changed = update_toml(text, config)
    assert "unet_lr = 0.0003" in changed
    assert "clip_skip" not in changed
    assert "flip_aug = true" in changed
    assert "# Adam's statistics settle in the first 5 %" in changed
    assert changed.count("\n") >= text.count("\n") - 1


def test_every_setting_explains_itself() -> None:
    for table, names in keys().items():
        fields = RunConfig.model_fields[table].annotation.model_fields  # type: ignore[union-attr]
        assert list(fields) == names
        for name, field in fields.items():
            assert field.title, f"{table}.{name} has no title"
            assert field.description is not None


def test_what_can_be_unset_is_unset_by_default_because_toml_has_no_null() -> None:
    for table in RunConfig.model_fields.values():
        for name, field in table.annotation.model_fields.items():  # type: ignore[union-attr]
            if "None" in str(field.annotation):
                assert field.default is None, f"{name} would come back from a file as {field.default}"


@pytest.mark.parametrize("word", ["unset", "none"])
def test_a_setting_is_unset_by_a_word(word: str) -> None:
    assert load_config(None, [f"dataset.class_tokens={word}"]).dataset.class_tokens is None
    assert load_config(None, ["flow.weighting_scheme=none"]).flow.weighting_scheme == "none", "where that is a choice"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sampling.sample_every_n_steps=unset", "cannot be unset: enter a whole number. 0 generates none."),
        ("sampling.sample_prompts=unset", "cannot be unset: enter a string. [] is none at all."),
        ("training.changes=[{step=10}]", 'enter a list of changes of the form "200: training.unet_lr=5e-5".'),
    ],
)
def test_a_refusal_names_what_to_enter(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [text])
    assert caught.value.message.endswith(sentence)
