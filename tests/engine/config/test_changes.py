"""The list of what changes in the middle of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import ConfigError, RunConfig, digest, dump_toml, load_config
from engine.config.change import LIVE_KEYS, MOST, Change
from engine.config.changes import at_the_end, changes_of, effective_config, stages, with_change
from engine.config.form import fields

LISTED = ["5: training.unet_lr=5e-5", "5: training.max_train_epochs=3", "9: training.max_train_steps=70"]


def config_of(*texts: str) -> RunConfig:
    return RunConfig().changed(training={"changes": list(texts)})


def test_effective_settings_from_step_to_step() -> None:
    config = config_of(*LISTED)
    effective = [(step, now.training.unet_lr, now.training.max_train_epochs, now.training.max_train_steps)
             for step, now in stages(config)]  # fmt: skip
    assert effective == [(0, None, None, 1600), (5, 5e-5, 3, 1600), (9, 5e-5, None, 70)]
    assert effective_config(config, 4) == RunConfig() and effective_config(config, 8) == effective_config(config, 5)
    assert at_the_end(config).training.changes == []
    assert at_the_end(config_of("0: training.unet_lr=1e-3")).training.unet_lr == 1e-3


@pytest.mark.parametrize("key", LIVE_KEYS)
def test_each_key_goes_through_its_text_and_a_file(key: str, tmp_path: Path) -> None:
    value = ['a "{trigger}"\nat sea', "# x = 1"] if key == "sampling.sample_prompts" else 1
    config, _ = with_change(RunConfig(), Change(7, key, value))
    path = tmp_path / "run.toml"
    path.write_text(dump_toml(config))
    (change,) = changes_of(load_config(path))
    assert (change.step, change.key, change.value) == (7, key, value) and key in fields()


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["training.unet_lr=1"], 'changes of the form "200: training.unet_lr=5e-5"'),
        (["x: training.unet_lr=1"], "changes of the form"),
        (["5: training.seed=1"], "training.seed cannot change during a run"),
        (["9: training.unet_lr=1", "5: training.unet_lr=1"], "in the order of their steps"),
        (["5: training.unet_lr=1"] * (MOST + 1), f"up to {MOST} changes"),
        (["5: training.unet_lr=-1"], "'5: training.unet_lr=-1' is not valid: it must be greater than or equal to 0"),
        (["5: training.unet_lr=fast"], "'5: training.unet_lr=fast' is not valid: it must be a valid number"),
        (["5: training.max_train_epochs=0"], "greater than or equal to 1"),
    ],
)
def test_what_is_no_change(texts: list[str], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config_of(*texts)
    assert words in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        load_config(None, [f"training.changes={texts}"])
    assert "training.changes" in str(refused.value)


def test_a_new_change_replaces_later_ones_of_the_same_setting() -> None:
    config, replaced = with_change(config_of(*LISTED), Change(3, "training.max_train_steps", 50))
    assert [str(change) for change in changes_of(config)] == [
        "3: training.max_train_steps=50",
        "5: training.unet_lr=5e-05",
    ]
    assert [change.key for change in replaced] == ["training.max_train_epochs", "training.max_train_steps"]
    config, replaced = with_change(config, Change(5, "training.unet_lr", 1e-4))
    assert replaced == [] and [change.value for change in changes_of(config)] == [50, 5e-5, 1e-4], (
        "one of the same step stays"
    )


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ([], LISTED),
        (["training.max_train_epochs=2"], LISTED[:1]),
        (["training.unet_lr=1e-3", "training.seed=3"], LISTED[1:]),
        (["training.unet_lr=1e-3", "training.changes=[]"], []),
    ],
)
def test_a_new_value_applies_to_the_end(typed: list[str], left: list[str], tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(dump_toml(config_of(*LISTED)))
    assert load_config(path, typed).training.changes == left


def test_the_digest_is_that_of_the_start() -> None:
    assert digest(config_of(*LISTED)) == digest(RunConfig()) != digest(at_the_end(config_of(*LISTED)))
