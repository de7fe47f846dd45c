"""Small LoRA files of each family, made from numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.adapters.tools.lora_file import read_lora

Tensors = dict[str, Tensor]

SD15 = {
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (32, 64),
    "lora_unet_down_blocks_0_attentions_0_proj_in": (32, 32, 1, 1),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0": (32, 32),
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": (768, 32),
    "lora_unet_mid_block_resnets_1_conv2": (64, 64, 3, 3),
}
SDXL = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
    "lora_te2_text_model_encoder_layers_31_mlp_fc2": (64, 32),
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (2048, 64),
    "lora_unet_output_blocks_2_2_conv": (64, 64, 3, 3),
    "lora_unet_middle_block_0_emb_layers_1": (64, 32),
}
FLUX = {
    "lora_te1_text_model_encoder_layers_1_self_attn_v_proj": (32, 32),
    "lora_unet_double_blocks_0_img_attn_qkv": (64, 192),
    "lora_unet_double_blocks_0_txt_mlp_0": (64, 256),
    "lora_unet_single_blocks_0_linear1": (64, 448),
    "lora_unet_final_layer_adaLN_modulation_1": (64, 128),
    "lora_unet_img_in": (64, 64),
}
FAMILIES = {"SD 1.5": SD15, "SDXL": SDXL, "FLUX": FLUX}
"""Kohya's names to (inputs, outputs) or (inputs, outputs, k, k)."""


def lora_tensors(
    layers: Mapping[str, tuple[int, ...]],
    *,
    rank: int = 4,
    alpha: float = 2.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensors:
    """Kohya's file, of random numbers."""
    generator = torch.Generator().manual_seed(seed)
    tensors: Tensors = {}
    for name, (inputs, outputs, *kernel) in layers.items():
        tail = (1,) * len(kernel)
        down = torch.randn(rank, inputs, *kernel, generator=generator) / 4
        up = torch.randn(outputs, rank, *tail, generator=generator) / 4
        tensors[f"{name}.lora_down.weight"] = down.to(dtype)
        tensors[f"{name}.lora_up.weight"] = up.to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(alpha).to(dtype)
    return tensors


def deltas(path: Path) -> dict[str, Tensor]:
    """Each layer's ΔW as a matrix [out, in · k · k], of any file."""
    return {name: layer.delta().flatten(1) for name, layer in read_lora(path).layers.items()}


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Write tensors under a name, with metadata."""

    def write(tensors: Tensors, name: str = "a", metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata)
        return path

    return write
