"""The parts of a model that a run trains: a learning rate of 0 leaves a part untrained, as in Kohya."""

from __future__ import annotations

from engine.config.schema import RunConfig


def why_untrained(config: RunConfig, *, denoiser: bool, component: str = "") -> str | None:
    """Why the denoiser, or else the text encoders, are not trained; None where they are.

    Args:
        config: after `resolve`.
        component: one of the text encoders, which may have rates of their own.
    """
    network = config.network
    if network.network_train_unet_only and not denoiser:
        return "network_train_unet_only is set"
    if network.network_train_text_encoder_only and denoiser:
        return "network_train_text_encoder_only is set"
    rate = config.training.rates[0 if denoiser else 1]
    if component and not denoiser:
        rate = config.training.rate_of(component)
    return None if rate else "its learning rate is 0"


def is_trained(config: RunConfig, *, denoiser: bool) -> bool:
    """Whether the denoiser, or else the text encoders, are trained."""
    return why_untrained(config, denoiser=denoiser) is None
