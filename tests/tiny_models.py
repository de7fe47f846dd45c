"""Tiny models of the real classes, with seeded random weights; made in well under a second, for every test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from engine.families.unet.load import file_names
from engine.families.unet.parts import TOKENIZER
from engine.models.loading import DTYPES

CHANNELS = (32, 64)
LDM_CHANNELS = (32, 64, 64, 64)


def tiny_sd15(
    directory: Path,
    *,
    prediction_type: str = "epsilon",
    zero_snr: bool = False,
    ldm: bool = False,
    dtype: str = "fp32",
    seed: int = 0,
    channels: tuple[int, ...] | None = None,
    ema: bool = False,
    position_ids: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A tiny Stable Diffusion 1.5: 64x64 px, 16x16x4 latents, CLIP 32 wide with the real vocabulary.

    Args:
        directory: made if missing; the model goes into `tiny` or `tiny.safetensors` inside it.
        ldm: one file in the original layout instead of a diffusers folder (U-Net with four levels then).
        channels: of the U-Net; the last level has no attention.
        ema: also write EMA weights (other values) into the single file.
        position_ids: also write the text encoder's position_ids into the single file.
        metadata: of the single file.

    Returns:
        The folder or file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = tiny_parts(channels or (LDM_CHANNELS if ldm else CHANNELS), seed)
    if ldm:
        return _write_file(directory / "tiny.safetensors", parts, DTYPES[dtype], ema, position_ids, metadata)
    return _write_folder(directory / "tiny", parts, DTYPES[dtype], prediction_type, zero_snr)


def tiny_parts(channels: tuple[int, ...] = CHANNELS, seed: int = 0) -> dict[str, Any]:
    """U-Net, VAE and text encoder as modules in fp32."""
    levels = len(channels)
    unet_class: Any = UNet2DConditionModel
    vae_class: Any = AutoencoderKL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = unet_class(
            sample_size=16,
            block_out_channels=channels,
            layers_per_block=1,
            cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            attention_head_dim=8,
        )
        vae = vae_class(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            sample_size=64,
            scaling_factor=0.18215,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=1,
                projection_dim=32,
                vocab_size=49408,
                max_position_embeddings=77,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
    return {"text_encoder": text_encoder, "unet": unet, "vae": vae}


def _write_folder(folder: Path, parts: dict[str, Any], dtype: torch.dtype, prediction: str, zero_snr: bool) -> Path:
    for name, module in parts.items():
        nn.Module.to(module, dtype).save_pretrained(folder / name)
    shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    assets = TOKENIZER.parent / "sd15"
    shutil.copy(assets / "model_index.json", folder / "model_index.json")
    schedule = json.loads((assets / "scheduler" / "scheduler_config.json").read_text())
    schedule |= {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


def ldm_tensors(parts: dict[str, Any]) -> dict[str, Tensor]:
    """The parts' tensors under their names in a single file."""
    tensors: dict[str, Tensor] = {}
    for part, module in parts.items():
        state = module.state_dict()
        for key, name in file_names(part, state, _configuration(module)).items():
            attention = ".attn_1." in name and state[key].ndim == 2
            tensors[name] = state[key][..., None, None] if attention else state[key]
    return tensors


def _configuration(module: nn.Module) -> dict[str, Any]:
    config: Any = module.config
    return dict(config.to_dict() if hasattr(config, "to_dict") else config)


def _write_file(
    path: Path,
    parts: dict[str, Any],
    dtype: torch.dtype,
    ema: bool,
    position_ids: bool,
    metadata: dict[str, str] | None,
) -> Path:
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in ldm_tensors(parts).items()}
    if position_ids:
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if ema:
        plain = [name for name in tensors if name.startswith("model.diffusion_model.")]
        tensors |= {"model_ema." + name.removeprefix("model.").replace(".", ""): tensors[name] * 2 for name in plain}
    save_file(tensors, path, metadata)
    return path
