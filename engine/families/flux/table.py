"""Kohya's module names for FLUX.1: the blocks as Black Forest Labs names them (facts §5.5)."""

from __future__ import annotations

from engine.families.module_table import ModuleTable, clip_names

_PARTS = ("mod_lin", "attn_qkv", "attn_proj", "mlp_0", "mlp_2")
_DOUBLE = [f"{side}_{part}" for side in ("img", "txt") for part in _PARTS]
_SINGLE = ("linear1", "linear2", "modulation_lin")
_IN_DIMS = (
    *("img_in", "time_in_in_layer", "time_in_out_layer", "vector_in_in_layer", "vector_in_out_layer"),
    *("guidance_in_in_layer", "guidance_in_out_layer", "txt_in"),
)


def block_names() -> list[str]:
    """The 304 modules of the transformer's blocks."""
    names = [f"lora_unet_double_blocks_{block}_{part}" for block in range(19) for part in _DOUBLE]
    return names + [f"lora_unet_single_blocks_{block}_{part}" for block in range(38) for part in _SINGLE]


def t5_names() -> list[str]:
    """The 168 modules of T5-XXL, which Kohya can train and we do not."""
    inside = [f"layer_0_SelfAttention_{part}" for part in ("q", "k", "v", "o")]
    inside += [f"layer_1_DenseReluDense_{part}" for part in ("wi_0", "wi_1", "wo")]
    return [f"lora_te3_encoder_block_{block}_{part}" for block in range(24) for part in inside]


FLUX_TABLE = ModuleTable(
    {
        "transformer": tuple(block_names()),
        "text encoder 1": tuple(clip_names("lora_te1_", 12)),
        "text encoder 3": tuple(t5_names()),
    },
    tuple(f"lora_unet_{name}" for name in _IN_DIMS),
    outside=("lora_unet_final_layer_linear", "lora_unet_final_layer_adaLN_modulation_1"),
)
