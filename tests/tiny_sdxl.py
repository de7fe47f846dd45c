"""A tiny SDXL of the real classes, with seeded random weights, in both layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from engine.families.unet.clip import open_clip_place
from engine.families.unet.names import TEXT_SDXL, TEXT_SDXL_2, UNET, VAE, unet_name, vae_name
from engine.families.unet.parts import TOKENIZER
from engine.models.loading import DTYPES
from engine.paths import ASSETS

WIDTHS, PROJECTED = (32, 64), 48


def tiny_sdxl(
    directory: Path,
    *,
    file: bool = False,
    dtype: str = "fp32",
    prediction_type: str = "epsilon",
    markers: tuple[str, ...] = (),
    seed: int = 0,
) -> Path:
    """64 px images, 16x16x4 latents, three levels of the U-Net, text encoders 32 and 64 wide.

    Args:
        directory: made if missing; the model goes into `tiny_xl` or `tiny_xl.safetensors` inside it.
        file: one file in the original layout instead of a diffusers folder.
        markers: names of marker tensors in the file: v_pred, ztsnr.
    """
    directory.mkdir(parents=True, exist_ok=True)
    parts = sdxl_parts(seed)
    if file:
        tensors = {name: tensor.to(DTYPES[dtype]).contiguous() for name, tensor in file_tensors(parts).items()}
        save_file({**tensors, **{name: torch.empty(0) for name in markers}}, directory / "tiny_xl.safetensors")
        return directory / "tiny_xl.safetensors"
    folder = directory / "tiny_xl"
    for name, module in parts.items():
        nn.Module.to(module, DTYPES[dtype]).save_pretrained(folder / name)
    for name, pad in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        shutil.copytree(TOKENIZER, folder / name, dirs_exist_ok=True)
        settings = json.loads((folder / name / "tokenizer_config.json").read_text()) | {"pad_token": pad}
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(ASSETS / "sdxl" / "model_index.json", folder / "model_index.json")
    schedule = json.loads((ASSETS / "sdxl" / "scheduler" / "scheduler_config.json").read_text())
    (folder / "scheduler").mkdir(exist_ok=True)
    schedule |= {"prediction_type": prediction_type}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


def sdxl_parts(seed: int = 0) -> dict[str, Any]:
    """Text encoders, U-Net and VAE as modules in fp32."""
    unet_class: Any = UNet2DConditionModel
    vae_class: Any = AutoencoderKL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = unet_class(
            sample_size=16,
            block_out_channels=(32, 64, 64),
            layers_per_block=2,
            cross_attention_dim=sum(WIDTHS),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            attention_head_dim=(1, 1, 1),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=PROJECTED + 6 * 8,
        )
        vae = vae_class(
            block_out_channels=(32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            sample_size=64,
            scaling_factor=0.13025,
        )
        first = CLIPTextModel(_text_config(WIDTHS[0], WIDTHS[0], "quick_gelu", 49407))
        second = CLIPTextModelWithProjection(_text_config(WIDTHS[1], PROJECTED, "gelu", 0))
    return {"text_encoder": first, "text_encoder_2": second, "unet": unet, "vae": vae}


def _text_config(width: int, projected: int, activation: str, pad: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=1,
        projection_dim=projected,
        hidden_act=activation,
        vocab_size=49408,
        max_position_embeddings=77,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=pad,
    )


def file_tensors(parts: dict[str, Any]) -> dict[str, Tensor]:
    """The parts' tensors under their names in a single file; OpenCLIP's fused where it fuses."""
    tensors: dict[str, Tensor] = {}
    unet, vae = parts["unet"], parts["vae"]
    for key, tensor in unet.state_dict().items():
        tensors[UNET + unet_name(key, unet.config)] = tensor
    for key, tensor in vae.state_dict().items():
        name = VAE + vae_name(key, vae.config)
        tensors[name] = tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
    for key, tensor in parts["text_encoder"].state_dict().items():
        tensors[TEXT_SDXL + key.removeprefix("text_model.")] = tensor
    pieces: dict[str, dict[int, Tensor]] = {}
    for key, tensor in parts["text_encoder_2"].state_dict().items():
        name, (number, count), turned = open_clip_place(key)
        if count == 1:
            tensors[TEXT_SDXL_2 + name] = tensor.T if turned else tensor
        else:
            pieces.setdefault(name, {})[number] = tensor
    for name, parts_of_name in pieces.items():
        tensors[TEXT_SDXL_2 + name] = torch.cat([parts_of_name[number] for number in sorted(parts_of_name)])
    tensors[TEXT_SDXL_2 + "logit_scale"] = torch.tensor(4.6)
    return tensors
