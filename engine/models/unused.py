"""Settings that only one family of models knows; elsewhere they are put back to what they are when unset."""

from __future__ import annotations

from collections.abc import Mapping

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
