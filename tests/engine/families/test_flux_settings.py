"""What a run's settings come to with FLUX.1, and FLUX's settings elsewhere: each change and each idle key is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config, resolve
from engine.config.unused import without_effect
from engine.families.flux.settings import normalize_config
from engine.families.registry import family_named, foreign_settings
from engine.types import Recognition
from tests.refusals import refused


def normalized(variant: str = "dev", **tables: dict[str, Any]) -> tuple[RunConfig, list[str]]:
    details = {"variant": variant, "prefix": "", "inside": ()}
    recognition = Recognition("flux", Path("x"), "single_file", "flow", False, "bf16", 1, (), details)
    return normalize_config(RunConfig().changed(**tables), recognition)


@pytest.mark.parametrize(
    ("table", "keys", "sentence"),
    [
        ("training", {"min_snr_gamma": 5.0}, "training.min_snr_gamma has no effect: FLUX learns a flow"),
        ("training", {"debiased_estimation_loss": True}, "training.debiased_estimation_loss has no effect"),
        (
            "training",
            {"noise_offset": 0.05, "adaptive_noise_scale": 0.1},
            "training.noise_offset and training.adaptive_noise_scale have no effect: FLUX is trained with plain noise",
        ),
        ("training", {"multires_noise_iterations": 6}, "training.multires_noise_iterations has no effect"),
        ("model", {"clip_skip": 2}, "model.clip_skip has no effect"),
        ("model", {"max_token_length": 225}, "model.max_token_length has no effect"),
        ("model", {"v_parameterization": True}, "model.v_parameterization has no effect"),
        ("network", {"conv_dim": 8}, "network.conv_dim has no effect: FLUX has no convolutions"),
        ("sampling", {"sample_sampler": "euler_a"}, "sampling.sample_sampler has no effect"),
        ("flow", {"logit_mean": 1.0}, "flow.logit_mean has no effect: timestep_sampling is shift"),
        (
            "flow",
            {"timestep_sampling": "sigma", "mode_scale": 1.0},
            "flow.mode_scale has no effect: weighting_scheme is uniform",
        ),
        (
            "flow",
            {"timestep_sampling": "flux_shift", "discrete_flow_shift": 2.0},
            "flow.discrete_flow_shift has no effect: timestep_sampling is flux_shift",
        ),
        (
            "flow",
            {"timestep_sampling": "uniform", "sigmoid_scale": 2.0},
            "flow.sigmoid_scale has no effect: timestep_sampling is uniform",
        ),
    ],
)
def test_what_does_nothing_is_reported_once_and_put_back(table: str, keys: dict[str, Any], sentence: str) -> None:
    config, notes = normalized(**{table: keys})
    assert sum(note.startswith(sentence) for note in notes) == 1
    idle = [key for key in keys if f"{table}.{key}" in sentence]
    plain, _ = normalized()
    assert all(getattr(getattr(config, table), key) == getattr(getattr(plain, table), key) for key in idle)


def test_the_defaults() -> None:
    config, notes = normalized()
    assert [note.partition(":")[0] for note in notes] == [
        "The text encoders are not trained",
        "T5's outputs are cached and T5 is freed",
    ]
    assert config.network.network_train_unet_only
    assert config.network.network_module == "networks.lora_flux"
    assert config.memory.cache_text_encoder_outputs
    assert (config.sampling.sample_scale, config.sampling.sample_sampler) == (1.0, "euler")
    assert normalized(sampling={"sample_scale": 4.0})[0].sampling.sample_scale == 4.0


def test_guidance_does_nothing_for_schnell() -> None:
    _, notes = normalized("schnell", flux={"guidance_scale": 3.5, "sample_guidance": 2.0})
    assert notes[0] == (
        "flux.guidance_scale and flux.sample_guidance have no effect: FLUX.1 schnell has no guidance embedding."
    )
    assert normalized(flux={"guidance_scale": 3.5})[0].flux.guidance_scale == 3.5


def test_clip_is_trained_where_its_rate_is_set() -> None:
    config, notes = normalized(training={"text_encoder_lr": 1e-5})
    assert not config.network.network_train_unet_only
    assert notes[0] == "CLIP-L is trained (text_encoder_lr); T5 is not."
    resolved, more = resolve(config, partial_text_cache=True)
    assert (resolved.network.network_train_unet_only, more) == (False, [])
    assert resolve(config)[0].network.network_train_unet_only
    with refused("text-encoder-only-without-rate"):
        normalized(network={"network_train_text_encoder_only": True}, training={"text_encoder_lr": 0.0})


@pytest.mark.parametrize("schedule", ["snr", "constant", "exponential"])
def test_the_huber_schedule_that_needs_an_snr(schedule: str) -> None:
    config, notes = normalized(training={"loss_type": "huber", "huber_schedule": schedule})
    assert config.training.huber_schedule == ("constant" if schedule == "snr" else schedule)
    assert any(note.startswith("huber_schedule is constant") for note in notes) == (schedule == "snr")


def test_fluxs_settings_do_nothing_elsewhere() -> None:
    config_of_flux = RunConfig().changed(flux={"clip_l": "x", "ae": "y"}, flow={"timestep_sampling": "sigmoid"})
    config, notes = without_effect(config_of_flux, foreign_settings(family_named("sd15").spec))
    assert notes == ["flux.clip_l, flux.ae and flow.timestep_sampling have no effect: only FLUX has such a setting."]
    assert config == RunConfig()


@pytest.mark.parametrize("name", ["flux-dev", "flux-dev-anime", "flux-dev-12gb", "flux-dev-8gb"])
def test_the_presets_have_no_idle_setting(name: str) -> None:
    details = {"variant": "dev", "prefix": "", "inside": ()}
    recognition = Recognition("flux", Path("x"), "single_file", "flow", False, "bf16", 1, (), details)
    config, notes = normalize_config(load_config(name), recognition)
    assert [note for note in notes if "no effect" in note] == []
    assert config.training.max_train_steps <= 1800
    low, high = (1e-3, 2e-3) if name.endswith("anime") else (4e-4, 4e-4)
    assert low <= config.training.rates[0] <= high


def test_kohya_exact_takes_the_whole_range_of_timesteps() -> None:
    limits = {"min_timestep": 200, "max_timestep": 800}
    assert normalized(training=limits)[0].training.min_timestep == 200
    config, notes = normalized(training={**limits, "kohya_exact": True})
    assert (config.training.min_timestep, config.training.max_timestep) == (0, 1000)
    assert any(
        "min_timestep and training.max_timestep have no effect: Kohya's scripts sample" in note for note in notes
    )


def test_a_weighting_scheme_counts_with_sigma_scaled_predictions() -> None:
    scheme = {"weighting_scheme": "cosmap"}
    assert normalized(flow=scheme)[0].flow.weighting_scheme == "uniform"
    scaled = normalized(flow={**scheme, "model_prediction_type": "sigma_scaled"})[0]
    assert scaled.flow.weighting_scheme == "cosmap"
