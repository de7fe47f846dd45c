"""Load a recognised SDXL checkpoint, offline: its parts, tokenizers, noise schedule, and what the run sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.config.schema import ModelTable
from engine.models.base import Recognition, Say
from engine.models.files import read_json
from engine.models.ldm.names import UNET, Shapes, transformer_depths, unet_sizes
from engine.models.ldm.noise import choose_prediction_type, choose_zero_terminal_snr
from engine.models.ldm.parts import (
    build_clip,
    build_clip_with_projection,
    build_unet,
    build_vae,
    clip_source,
    folder_source,
    load_tokenizer,
    load_vae,
    open_clip_source,
    unet_source,
    vae_source,
)
from engine.models.ldm.schedule import alphas_cumprod, scheduler_config
from engine.models.loading import DTYPES, Source, load_part, without_files
from engine.models.sdxl.detect import TEXT, TEXT_2
from engine.models.sdxl.model import SDXLModel
from engine.models.sdxl.reader import SDXLReader
from engine.paths import ASSETS
from engine.runs.layout import expanded

CONFIGURATIONS = ASSETS / "sdxl"
BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "text_encoder": build_clip, "text_encoder_2": build_clip_with_projection, "unet": build_unet, "vae": build_vae,
}  # fmt: skip


def sdxl_unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Sizes of the UNet in a single file; heads are 64 wide, as in SDXL."""
    sizes = unet_sizes(shapes)
    added = shapes[UNET + "label_emb.0.0.weight"][1]
    pooled = shapes.get(TEXT_2 + "text_projection", (0, 1280))[1]
    return {
        **sizes,
        "attention_head_dim": [max(1, channels // 64) for channels in sizes["block_out_channels"]],
        "transformer_layers_per_block": transformer_depths(shapes),
        "projection_class_embeddings_input_dim": added,
        "addition_time_embed_dim": (added - pooled) // 6,
    }


def sources(recognition: Recognition) -> dict[str, Source]:
    """Where text_encoder, text_encoder_2, unet and vae come from."""
    path = recognition.path
    if recognition.layout == "diffusers":
        return {part: folder_source(path, part, build) for part, build in BUILDERS.items()}
    base = {part: read_json(CONFIGURATIONS / part / "config.json") for part in BUILDERS}
    if recognition.layout == "configurations":
        return {part: without_files(build, base[part]) for part, build in BUILDERS.items()}
    return {
        "text_encoder": clip_source(path, base["text_encoder"], (TEXT,)),
        "text_encoder_2": open_clip_source(path, base["text_encoder_2"], TEXT_2),
        "unet": unet_source(path, base["unet"], sdxl_unet_sizes),
        "vae": vae_source(path, base["vae"]),
    }


def load_model(
    config: RunConfig, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
) -> SDXLModel:
    """See `Family.load`."""
    table = config.model
    prediction_type = choose_prediction_type(table, recognition, say)
    zero_snr = choose_zero_terminal_snr(table, recognition, prediction_type, say)
    if table.clip_skip is not None:
        say("model.clip_skip has no effect: SDXL is always trained on the last layer but one of both text encoders.")
    found, compute = sources(recognition), DTYPES[dtype]
    precision = config.memory.base_precision
    unet = load_part("unet", found["unet"], compute, say, empty=empty, precision=precision, device=device)
    encoders = {
        part: load_part(part, found[part], compute, say, empty=empty) for part in ("text_encoder", "text_encoder_2")
    }
    vae_dtype = choose_vae_dtype(table, found["vae"].config, torch.device(device), compute, say)
    schedule = scheduler_config(recognition, CONFIGURATIONS)
    schedule |= {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    return SDXLModel(
        replace(recognition, prediction_type=prediction_type, zero_terminal_snr=zero_snr),
        torch.device(device),
        text_encoders=encoders,
        unet=unet,
        vae=load_vae(table, found["vae"], vae_dtype, say, latents=unet.config.in_channels, empty=empty),
        tokenizers=(load_tokenizer(recognition), load_tokenizer(recognition, "tokenizer_2", pad_token="!")),
        scheduler_config=schedule,
        training_alphas_cumprod=alphas_cumprod(schedule),
        max_token_length=table.max_token_length,
        reader=SDXLReader(),
    )


def choose_vae_dtype(
    table: ModelTable, own: Mapping[str, Any], device: torch.device, compute: torch.dtype, say: Say
) -> torch.dtype:
    """The VAE's number format: SDXL's own overflows in fp16 and turns pictures black, the fp16-fix one does not."""
    if device.type == "cpu" or table.no_half_vae or compute is torch.float32:
        return torch.float32
    if compute is torch.bfloat16:
        say("VAE in bf16: its range is that of fp32. model.no_half_vae = true is slower, larger and finer.")
        return torch.bfloat16
    fixed = _fits_fp16(table, own)
    if fixed:
        say(f"VAE in fp16: {fixed}.")
        return torch.float16
    say("VAE in fp32: SDXL's own overflows in fp16. With the fp16-fix VAE (model.vae) fp16 is enough.")
    return torch.float32


def _fits_fp16(table: ModelTable, own: Mapping[str, Any]) -> str:
    """Why the VAE may compute in fp16; empty where it may not. Only configurations and names tell."""
    if table.vae is None:
        return "" if own.get("force_upcast", True) else "force_upcast is off in its configuration"
    path = expanded(table.vae)
    if "fp16-fix" in path.name.lower().replace("_", "-").replace("fp16fix", "fp16-fix"):
        return "its name says fp16-fix"
    places: list[Path] = [path / "config.json", path / "vae" / "config.json"] if path.is_dir() else []
    for place in places:
        if place.exists() and not read_json(place).get("force_upcast", True):
            return "force_upcast is off in its configuration"
    return ""
