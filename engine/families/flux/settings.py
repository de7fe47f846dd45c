"""The effective settings of a run with FLUX.1: what has no effect and what is changed, with reasons. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.config.unused import without_effect
from engine.errors import UsageError
from engine.types import Recognition

if TYPE_CHECKING:
    from engine.config import RunConfig

_NO_SNR = "FLUX learns a flow, which has no signal-to-noise table"
_PLAIN_NOISE = "FLUX is trained with plain noise, as in Kohya"
_NO_EFFECT: Mapping[str, str] = {
    "training.min_snr_gamma": _NO_SNR,
    "training.debiased_estimation_loss": _NO_SNR,
    "training.v_pred_like_loss": _NO_SNR,
    "training.scale_v_pred_loss_like_noise_pred": _NO_SNR,
    "training.noise_offset": _PLAIN_NOISE,
    "training.noise_offset_random_strength": _PLAIN_NOISE,
    "training.adaptive_noise_scale": _PLAIN_NOISE,
    "training.multires_noise_iterations": _PLAIN_NOISE,
    "model.v_parameterization": "FLUX's prediction type is flow",
    "model.zero_terminal_snr": "FLUX's prediction type is flow",
    "model.clip_skip": "FLUX takes CLIP-L's pooled output only",
    "model.max_token_length": "the length of FLUX's captions is t5xxl_max_token_length",
    "network.conv_dim": "FLUX has no convolutions",
    "network.conv_alpha": "FLUX has no convolutions",
    "network.use_tucker": "FLUX has no convolutions",
    "network.train_norm": "FLUX's norm layers have no weights that a program reads from a file",
    "sampling.sample_sampler": "FLUX is sampled with Euler's method on its own schedule",
}
_SHIFTED = ("shift", "sigma")
_SIGMOID = ("sigmoid", "shift", "flux_shift")


def normalize_config(config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
    """The configuration that FLUX really uses, and a sentence for each change.

    Raises:
        UsageError: nothing would be trained, or query, key and value cannot be separate.
    """
    if config.flux.split_qkv and not config.network.is_lora:
        raise UsageError(
            "flux.split_qkv is for plain LoRAs, and this run trains another kind of adapter.",
            "Switch flux.split_qkv off, or set network.algo = lora without use_tucker, use_scalar and dora_wd.",
            code="split-needs-lora",
        )
    config, notes = without_effect(config, {**_NO_EFFECT, **_unused_timesteps(config, recognition)})
    changes: dict[str, dict[str, Any]] = {
        "sampling": {"sample_sampler": "euler"},
        "memory": {"cache_text_encoder_outputs": True},
    }
    if config.sampling.sample_scale is None:
        changes["sampling"]["sample_scale"] = 1.0
    changes["network"] = _text_encoders(config, notes)
    if config.network.is_lora and config.network.is_kohyas:
        changes["network"]["network_module"] = "networks.lora_flux"
    training = config.training
    if training.loss_type in ("huber", "smooth_l1") and training.huber_schedule == "snr":
        changes["training"] = {"huber_schedule": "constant"}
        notes.append(f"huber_schedule is constant instead of snr: {_NO_SNR}.")
    notes.append("T5's outputs are cached and T5 is freed: it never is on the device together with the transformer.")
    return config.changed(**changes), notes


def _unused_timesteps(config: RunConfig, recognition: Recognition) -> dict[str, str]:
    """Settings of the timesteps that the chosen kind does not use."""
    kind, unused = config.flow.timestep_sampling, {}
    reason = f"timestep_sampling is {kind}"
    if kind not in _SHIFTED:
        unused["flow.discrete_flow_shift"] = reason
    if kind not in _SIGMOID:
        unused["flow.sigmoid_scale"] = reason
    scheme = config.flow.weighting_scheme
    if kind != "sigma" and config.flow.model_prediction_type != "sigma_scaled":
        unused["flow.weighting_scheme"] = reason
    for key, owner in (("logit_mean", "logit_normal"), ("logit_std", "logit_normal"), ("mode_scale", "mode")):
        if kind != "sigma" or scheme != owner:
            unused[f"flow.{key}"] = reason if kind != "sigma" else f"weighting_scheme is {scheme}"
    if config.training.kohya_exact:
        exact = "Kohya's scripts sample FLUX's timesteps from the full range (kohya_exact)"
        unused |= {"training.min_timestep": exact, "training.max_timestep": exact}
    if recognition.details["variant"] == "schnell":
        for key in ("flux.guidance_scale", "flux.sample_guidance"):
            unused[key] = "FLUX.1 schnell has no guidance embedding"
    return unused


def _text_encoders(config: RunConfig, notes: list[str]) -> dict[str, Any]:
    """Changes of `[network]`: CLIP-L is trained only where its learning rate is set."""
    network, rate = config.network, config.training.text_encoder_lr and config.training.text_rates[0]
    if network.network_train_unet_only:
        return {}
    if network.network_train_text_encoder_only or rate:
        notes.append("CLIP-L is trained (text_encoder_lr); T5 is not.")
        if network.network_train_text_encoder_only and rate == 0:
            raise UsageError(
                "network.network_train_text_encoder_only is set, and training.text_encoder_lr is 0.",
                "Set training.text_encoder_lr.",
                code="text-encoder-only-without-rate",
            )
        return {}
    notes.append("The text encoders are not trained: for FLUX only CLIP-L can be, where text_encoder_lr is set.")
    return {"network_train_unet_only": True}
