"""Settings that mean nothing for a family of models: said once, and put back to what they are when unset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import RunConfig

FLOW_ONLY: Mapping[str, str] = dict.fromkeys(
    (
        "network.network_module",
        "model.clip_l",
        "model.t5xxl",
        "model.ae",
        "model.t5_tokenizer",
        "model.t5xxl_max_token_length",
        "model.apply_t5_attn_mask",
        "training.timestep_sampling",
        "training.sigmoid_scale",
        "training.discrete_flow_shift",
        "training.guidance_scale",
        "training.model_prediction_type",
        "training.weighting_scheme",
        "training.logit_mean",
        "training.logit_std",
        "training.mode_scale",
        "sampling.sample_guidance",
    ),
    "only FLUX has such a setting",
)
"""Keys that only FLUX knows, and why they do nothing elsewhere."""


def without_effect(config: RunConfig, keys: Mapping[str, str]) -> tuple[RunConfig, list[str]]:
    """`config` with these dotted keys at their defaults, and a sentence for each reason with the keys it is true of."""
    from engine.config import RunConfig

    plain = RunConfig()
    changed: dict[str, dict[str, Any]] = {}
    reasons: dict[str, list[str]] = {}
    for dotted, reason in keys.items():
        table, _, key = dotted.partition(".")
        default = getattr(getattr(plain, table), key)
        if getattr(getattr(config, table), key) != default:
            changed.setdefault(table, {})[key] = default
            reasons.setdefault(reason, []).append(dotted)
    notes = [f"{_and(names)} {_has(names)} no effect: {reason}." for reason, names in reasons.items()]
    return (config.changed(**changed) if changed else config), notes


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"
