"""Contradictions are resolved and said, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import RunConfig, digest, load_config, require_paths, resolve, schema_json
from engine.config.resolve import check_model
from tests.refusals import refused


def resolved(*overrides: str) -> tuple[RunConfig, str]:
    config, notes = resolve(load_config(None, overrides))
    return config, " ".join(notes)


def test_cached_text_outputs_leave_the_text_encoder_untrained_with_a_note() -> None:
    config, notes = resolved("memory.cache_text_encoder_outputs=true")
    assert config.network.network_train_unet_only
    assert "The text encoder is not trained" in notes


def test_new_pixels_in_every_step_switch_the_latent_cache_off() -> None:
    config, notes = resolved("dataset.color_aug=true", "memory.cache_latents_to_disk=true")
    assert not config.memory.cache_latents
    assert not config.memory.cache_latents_to_disk
    assert "color_aug" in notes


def test_caches_on_disk_imply_caches() -> None:
    config, notes = resolved("memory.cache_latents=false", "memory.cache_latents_to_disk=true")
    assert config.memory.cache_latents
    assert "cache_latents_to_disk" in notes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["training.optimizer_type=AdamWScheduleFree"], "needs no schedule"),
        (["training.optimizer_type=Adafactor"], "Adafactor sets its own rate"),
        (['training.lr_scheduler_args=["a=1"]', "training.lr_scheduler=constant"], "lr_scheduler_args has no effect"),
        (["training.max_train_epochs=3", "training.max_train_steps=9"], "max_train_steps is ignored"),
        (["memory.checkpointed_blocks=3"], "checkpointed_blocks has no effect"),
    ],
)
def test_what_has_no_effect_is_reported(overrides: list[str], sentence: str) -> None:
    assert sentence in resolved(*overrides)[1]


def test_a_rung_of_the_ladder_implies_those_below_it() -> None:
    config, notes = resolved("memory.blocks_to_swap=3")
    assert config.memory.split_mode and "Split mode is on" in notes
    config, notes = resolved("memory.cpu_offload_checkpointing=true", "memory.checkpointed_blocks=3")
    assert config.memory.gradient_checkpointing and "Gradient checkpointing is on" in notes
    assert "has no effect" not in notes


@pytest.mark.parametrize(
    ("overrides", "module", "algo", "sentence"),
    [
        (["network.algo=locon"], "networks.lora", "locon", ""),
        (["network.algo=lokr"], "lycoris.kohya", "lokr", "because algo is lokr"),
        (["network.use_tucker=true"], "lycoris.kohya", "lora", "because use_tucker is set"),
        (["network.train_norm=true"], "lycoris.kohya", "lora", "because train_norm is set"),
        (["network.network_module=lycoris.kohya"], "lycoris.kohya", "lora", ""),
        (["network.network_module=networks.lokr"], "networks.lokr", "lokr", ""),
        (["network.network_module=networks.loha", "network.algo=loha"], "networks.loha", "loha", ""),
        (["network.network_module=locon.locon_kohya", "network.algo=locon"], "locon.locon_kohya", "locon", ""),
        (["network.algo=boft", "memory.base_precision=nf4"], "lycoris.kohya", "boft", "rounded to nf4 here"),
    ],
)
def test_the_module_of_a_kind(overrides: list[str], module: str, algo: str, sentence: str) -> None:
    config, notes = resolved(*overrides)
    assert (config.network.network_module, config.network.algo) == (module, algo)
    assert sentence in notes and bool(notes) == bool(sentence)
    assert resolve(config)[0] == config


def test_no_notes_on_the_defaults() -> None:
    assert resolved() == (RunConfig(), "")


@pytest.mark.parametrize(
    ("overrides", "code", "key"),
    [
        (
            ["network.network_train_unet_only=true", "network.network_train_text_encoder_only=true"],
            "nothing-trained",
            "network.network_train_text_encoder_only",
        ),
        (["training.unet_lr=0", "training.text_encoder_lr=0"], "nothing-trained", "training.text_encoder_lr"),
        (["training.unet_lr=0", "network.network_train_unet_only=true"], "nothing-trained", "training.unet_lr"),
        (["network.dim_from_weights=true"], "dim-from-weights-without-file", "network.network_weights"),
        (
            ["memory.cache_text_encoder_outputs=true", "network.network_train_text_encoder_only=true"],
            "text-cache-needs-fixed-encoder",
            "network.network_train_text_encoder_only",
        ),
        (["network.network_module=networks.loha", "network.algo=lokr"], "module-of-other-kind", "network.algo = lokr"),
        (["network.init_lora_weights=eva", "network.algo=lokr"], "setting-of-plain-lora", "network.init_lora_weights"),
        (
            ["network.init_lora_weights=pissa", "network.use_tucker=true"],
            "setting-of-plain-lora",
            "network.algo = lora",
        ),
        (["network.tlora_min_rank=1", "network.algo=boft"], "setting-of-plain-lora", "network.tlora_min_rank"),
        (
            ["network.init_lora_weights=pissa", "memory.base_precision=nf4"],
            "first-values-need-exact-base",
            "memory.base_precision = nf4",
        ),
        (
            ["network.init_lora_weights=olora", "memory.base_precision=fp8"],
            "first-values-need-exact-base",
            "network.init_lora_weights = olora",
        ),
    ],
)
def test_what_only_the_person_can_resolve_is_refused(overrides: list[str], code: str, key: str) -> None:
    with refused(code, key):
        resolve(load_config(None, overrides))


@pytest.mark.parametrize(
    ("prediction", "override", "code"),
    [
        ("epsilon", "training.scale_v_pred_loss_like_noise_pred=true", "setting-of-other-prediction"),
        ("v_prediction", "training.v_pred_like_loss=0.5", "setting-of-other-prediction"),
        ("epsilon", "model.family=sdxl", "family-not-of-checkpoint"),
    ],
)
def test_settings_that_the_checkpoint_cannot_have_are_refused(prediction: str, override: str, code: str) -> None:
    recognition = SimpleNamespace(family="sd15", prediction_type=prediction)
    with refused(code, override.partition("=")[0]):
        check_model(load_config(None, [override]), recognition)  # type: ignore[arg-type]


def test_a_run_needs_model_images_and_name() -> None:
    with refused("settings-missing", "--model PATH --images DIR --name NAME"):
        require_paths(RunConfig())
    paths = {"model": {"pretrained_model_name_or_path": "m"}, "dataset": {"train_data_dir": "p"}}
    with refused("name-not-possible", "'a/b'"):
        require_paths(RunConfig().changed(**paths, saving={"output_name": "a/b"}))


def test_the_digest_follows_what_is_computed_and_not_where() -> None:
    base = RunConfig()
    assert digest(base) == digest(base.changed(saving={"output_dir": "elsewhere"}))
    assert digest(base) != digest(base.changed(training={"seed": 7}))


def test_the_committed_schema_is_fresh() -> None:
    committed = Path(__file__).parents[3] / "presets" / "schema.json"
    assert committed.read_text() == schema_json(), "run: lorasmith schema > presets/schema.json"
    assert "training" in json.loads(schema_json())["properties"]


def test_a_largest_batch_without_a_dataset_configuration_is_reported() -> None:
    assert "memory.max_batch_size has no effect" in resolved("memory.max_batch_size=2")[1]
    both = resolved("memory.max_batch_size=2", "dataset.dataset_config=d.toml")[1]
    assert "max_batch_size" not in both


@pytest.mark.parametrize(
    ("tables", "golden"),
    [
        ({}, "1f1a09e8e3794030"),
        ({"training": {"unet_lr": 1e-4, "max_train_steps": 77}, "saving": {"output_name": "zed"}}, "213c8b375f220dfe"),
    ],
)
def test_states_of_earlier_versions_match_their_settings(tables: dict[str, Any], golden: str) -> None:
    """As 76f72fe computed them, whose configurations had `validation_split = 0` written out."""
    config = RunConfig().changed(**{"dataset": {"validation_split": 0.0}, **tables})
    assert digest(config) == golden
    assert digest(config.changed(training={"max_check_share": 0.5})) == golden, "measuring decides no weight"
    assert digest(config.changed(training={"early_stop": True})) != golden
