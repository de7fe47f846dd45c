"""Settings that moved into a table of their own: their former names are accepted wherever a key is read. Settings that
were a flag and have more values. And settings that earlier versions lacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config.flux import LAYER_SETTINGS
from engine.config.layers import LayersTable

MOVED: Mapping[str, str] = {
    **{f"model.{key}": f"flux.{key}" for key in (
        "clip_l", "t5xxl", "ae", "t5_tokenizer", "t5xxl_max_token_length", "apply_t5_attn_mask",
    )},
    **{f"training.{key}": f"flow.{key}" for key in (
        "timestep_sampling", "sigmoid_scale", "discrete_flow_shift", "model_prediction_type", "weighting_scheme",
        "logit_mean", "logit_std", "mode_scale",
    )},
    "training.guidance_scale": "flux.guidance_scale",
    "sampling.sample_guidance": "flux.sample_guidance",
}  # fmt: skip
"""Former dotted key to the present one."""
ADDED: Mapping[str, tuple[str, ...]] = {
    "training": ("early_stop",),
    "dataset": ("in_json", "face_crop_aug_range"),
    "model": ("weighted_captions", "base_weights", "base_weights_multiplier"),
    "network": (
        *("algo", "factor", "full_matrix", "decompose_both", "unbalanced_factorization", "use_tucker", "use_scalar"),
        *("constraint", "rescaled", "train_norm", "rank_dropout_scale", "dora_wd", "wd_on_output", "rs_lora"),
        *("init_lora_weights", "tlora_min_rank", "tlora_alpha"),
        *LayersTable.model_fields,
    ),
    "flux": LAYER_SETTINGS,
    "saving": ("key_format",),
    "memory": ("cuda_graphs",),
}
"""Table to settings that earlier versions lacked: at their default they are not part of a digest, so that states of
older runs still match."""
WERE_FLAGS = ("memory.torch_compile",)
"""Present keys of settings that were true or false and are "on", "off" or another text."""
_FLAGS = {"on": True, "off": False}
_FORMER = {now: before for before, now in MOVED.items()}


def present_key(dotted: str) -> str:
    """The present name of a setting; any other text as it is."""
    return MOVED.get(dotted, dotted)


def former_key(dotted: str) -> str:
    """The name by which digests, caches and records know a setting: the former one, if it moved."""
    return _FORMER.get(dotted, dotted)


def present_value(dotted: str, value: Any) -> Any:
    """The value of a setting, with the text for a former flag."""
    if dotted not in WERE_FLAGS:
        return value
    flag = value.strip().lower() if isinstance(value, str) else value
    if flag in ("true", "false"):
        flag = flag == "true"
    return {1: "on", 0: "off"}[flag] if isinstance(flag, int) and flag in (0, 1) else value


def former_value(dotted: str, value: Any) -> Any:
    """The value by which digests and caches know a setting: a flag, if it was one."""
    return _FLAGS.get(value, value) if dotted in WERE_FLAGS else value


def split(dotted: str) -> tuple[str, str]:
    """(table, key) of the present name."""
    table, _, key = present_key(dotted).partition(".")
    return table, key


def present_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with moved settings in their present places; `values` stays as it is.

    Raises:
        ValueError: a setting is there under both names.
    """
    tables = dict(values)
    for table, members in values.items():
        old = [key for key in members if f"{table}.{key}" in MOVED] if isinstance(members, Mapping) else []
        if old:
            tables[table] = {key: value for key, value in tables[table].items() if key not in old}
        for key in old:
            home, name = split(f"{table}.{key}")
            present = tables.get(home, {})
            if not isinstance(present, Mapping) or name in present:
                raise ValueError(both_names(f"{table}.{key}"))
            tables[home] = {**present, name: members[key]}
    return tables


def former_tables(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same settings in their former places and with their former values, for digests that must not change; without
    tables that are empty then.

    `values` has every table, or those with settings other than their defaults.
    """
    tables: dict[str, dict[str, Any]] = {table: {} for table in values if not _is_new(table)}
    for table, members in values.items():
        for key, value in members.items():
            home, _, name = former_key(f"{table}.{key}").partition(".")
            tables.setdefault(home, {})[name] = former_value(f"{table}.{key}", value)
    return tables


def both_names(former: str) -> str:
    """The problem of a setting that is there under both names."""
    return f"{former} and {MOVED[former]} are the same setting, and both are set"


def _is_new(table: str) -> bool:
    return any(now.startswith(f"{table}.") for now in _FORMER)
