"""Optimizers and adapter kinds of other trainers: every word that is converted gives settings that a run accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.adapters.kinds.registry import trained_kind
from engine.config import RunConfig, load_config, optimizers
from engine.config.conversion import Rule
from engine.config.others import ai_toolkit_keys, onetrainer_keys, onetrainer_optimizers
from tests.engine.config.other_trainers import AI_TOOLKIT, GONE, ONETRAINER, changed, conversion, differs, written
from tui.setup.preflight import check_settings

PROCESS = "config.process.0."
_NEEDED: dict[str, Any] = {"momentum": 0.9}
"""What an optimizer cannot be used without."""
_EVERY: dict[str, Any] = {
    "beta1": 0.8, "beta2": 0.9, "beta3": 0.95, "eps": 1e-7, "eps2": 1e-9, "weight_decay": 0.1, "momentum": 0.8,
    "amsgrad": False, "min_8bit_size": 4096, "d0": 1e-5, "d_coef": 1.5, "growth_rate": 2.0, "alpha": 0.5,
    "max_unorm": 1.0, "decoupled_decay": True, "fixed_decay": False, "optim_bits": 32, "r": 0.5, "lr_decay": 0.0,
    "weight_lr_power": 1.0, "slice_p": 2, "prodigy_steps": 3, "decouple": True, "no_prox": True, "rectify": False,
    "initial_accumulator_value": 0.0, "clip_threshold": 0.9, "decay_rate": -0.7, "bias_correction": False,
    "use_bias_correction": True, "schedulefree_c": 1.0, "stochastic_rounding": False, "use_speed": True,
}  # fmt: skip
"""Settings of OneTrainer's, most with another value than the class's own."""
WORDS = sorted(word for word, value in onetrainer_keys.OPTIMIZERS.items() if not isinstance(value, Rule))
TOOLKIT_WORDS = sorted(word for word, value in ai_toolkit_keys.OPTIMIZERS.items() if not isinstance(value, Rule))


@pytest.fixture(autouse=True)
def _everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are checked by the table; whether a package is there is another check."""
    monkeypatch.setattr(optimizers, "is_installed", lambda source: True)


@pytest.mark.parametrize("values", [_NEEDED, _EVERY], ids=["defaults", "every setting"])
@pytest.mark.parametrize("word", WORDS)
def test_every_optimizer_of_onetrainer_has_settings_that_its_class_takes(
    tmp_path: Path, word: str, values: dict[str, Any]
) -> None:
    content = changed(ONETRAINER, {"optimizer": {"optimizer": word.upper(), **values}})
    path = written(tmp_path, "a.json", content)
    config = load_config(path)
    check_settings(config)
    rows = onetrainer_optimizers.SETTINGS[config.training.optimizer_type]
    passed = optimizers.optimizer_settings(config.training.optimizer_type, config.training.optimizer_args)
    for key, value in values.items():
        own = rows.get(key)
        if own not in (None, "betas"):
            assert passed[own] == value, key
    if "beta3" in values and rows.get("beta3") == "betas":
        assert passed["betas"] == (0.8, 0.9, 0.95)
    elif "beta1" in values and rows.get("beta1") == "betas":
        assert passed["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("word", TOOLKIT_WORDS)
def test_every_optimizer_of_ai_toolkit_has_settings_that_its_class_takes(tmp_path: Path, word: str) -> None:
    content = changed(AI_TOOLKIT, {"train.optimizer": word, "train.optimizer_params": {"weight_decay": 0.1}}, PROCESS)
    config = load_config(written(tmp_path, "a.yaml", content))
    check_settings(config)
    assert "weight_decay=0.1" in config.training.optimizer_args
    assert (config.training.learning_rate == 1.0) == word.startswith(("prodigy", "dadaptation"))


KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("a.json", {"peft_type": "LORA"}, "LoRA"),
    ("a.json", {"peft_type": "LOHA", "layer_filter_preset": GONE}, "LoHa"),
    ("a.json", {"peft_type": "LOKR", "lokr_decompose_factor": 4}, "LoKr"),
    ("a.json", {"peft_type": "LOKR", "lokr_full_matrix": True, "layer_filter_preset": "full"}, "LoKr"),
    ("a.yaml", {"network.type": "locon", "network.conv": 4}, "LoRA"),
    ("a.yaml", {"network.type": "lokr", "network.lokr_full_rank": True, "network.lokr_factor": 8}, "LoKr"),
    ("a.yaml", {"network.type": "lokr", "network.lokr_full_rank": False}, "LoKr"),
]


@pytest.mark.parametrize(("name", "changes", "kind"), KINDS)
def test_a_run_accepts_every_kind_that_is_converted(
    tmp_path: Path, name: str, changes: dict[str, Any], kind: str
) -> None:
    example, within = (ONETRAINER, "") if name.endswith("json") else (AI_TOOLKIT, PROCESS)
    config = load_config(written(tmp_path, name, changed(example, changes, within)))
    check_settings(config)
    assert trained_kind(config.network).name == kind


def test_tensorboard_that_is_not_installed_is_named_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.config.others.onetrainer.find_spec", lambda name: None)
    result = conversion(written(tmp_path, "a.json", changed(ONETRAINER, {"tensorboard": True})))
    assert not differs(result, {"logging.log_with": None}) and not result.problems
    (row,) = (entry for entry in result.entries if entry.key == "tensorboard")
    assert row.status == "no effect" and "lorasmith[tensorboard]" in row.text


def test_cames_settings_are_those_of_the_copy_that_onetrainer_has(tmp_path: Path) -> None:
    """Its signature's defaults are the same, so a file without settings needs none."""
    content = changed(ONETRAINER, {"optimizer": {"optimizer": "CAME"}})
    config: RunConfig = load_config(written(tmp_path, "a.json", content))
    assert config.training.optimizer_args == []


def test_settings_of_eight_bits_are_left_out_where_another_class_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    content = changed(ONETRAINER, {"optimizer": {"optimizer": "ADAMW_8BIT", "min_8bit_size": 4096, "eps": 1e-7}})
    result = conversion(written(tmp_path, "a.json", content))
    settings = {"training.optimizer_type": "AdamW", "training.optimizer_args": ["eps=1e-07"]}
    assert not result.problems and not differs(result, settings)
