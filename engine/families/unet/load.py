"""Load a recognised checkpoint, offline: its parts, tokenizers and noise schedule, with the run's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.config import RunConfig
from engine.config.schema import ModelTable
from engine.families.spec import FamilySpec
from engine.families.unet.model import SD15Model, SDXLModel, UNetModel
from engine.families.unet.names import (
    TEXT,
    TEXT_SDXL,
    TEXT_SDXL_2,
    UNET,
    VAE,
    Shapes,
    transformer_depths,
    unet_name,
    unet_sizes,
    vae_name,
)
from engine.families.unet.noise import choose_prediction_type, choose_zero_terminal_snr
from engine.families.unet.parts import (
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
from engine.families.unet.schedule import alphas_cumprod, scheduler_config
from engine.families.unet.spec import SDXL_SPEC
from engine.models.files import read_json
from engine.models.loading import DTYPES, PartSource, load_part, without_files
from engine.paths import ASSETS, expanded
from engine.types import Log, Recognition

CONFIGURATIONS = ASSETS
"""Folder of the families' configurations that ship with the program."""
BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "text_encoder": build_clip, "text_encoder_2": build_clip_with_projection, "unet": build_unet, "vae": build_vae,
}  # fmt: skip


def builders_of(spec: FamilySpec) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Part to what builds it: text encoders, U-Net, VAE."""
    return {part: BUILDERS[part] for part in (*_encoders(spec), "unet", "vae")}


def _encoders(spec: FamilySpec) -> tuple[str, ...]:
    return tuple(encoder.component for encoder in spec.encoders)


def sources(spec: FamilySpec, recognition: Recognition) -> dict[str, PartSource]:
    """Where the text encoders, unet and vae come from."""
    path, shipped, builders = recognition.path, CONFIGURATIONS / spec.name, builders_of(spec)
    if recognition.layout == "diffusers":
        return {part: folder_source(path, part, build) for part, build in builders.items()}
    base = {part: read_json(shipped / part / "config.json") for part in builders}
    if recognition.layout == "configurations":
        return {part: without_files(build, base[part]) for part, build in builders.items()}
    if spec is SDXL_SPEC:
        return {
            "text_encoder": clip_source(path, base["text_encoder"], (TEXT_SDXL,)),
            "text_encoder_2": open_clip_source(path, base["text_encoder_2"], TEXT_SDXL_2),
            "unet": unet_source(path, base["unet"], sdxl_unet_sizes),
            "vae": vae_source(path, base["vae"]),
        }
    return {
        "text_encoder": clip_source(path, base["text_encoder"], TEXT),
        "unet": unet_source(path, base["unet"], unet_sizes),
        "vae": vae_source(path, base["vae"]),
    }


def sdxl_unet_sizes(shapes: Shapes) -> dict[str, Any]:
    """Sizes of SDXL's U-Net in a single file; heads are 64 wide."""
    sizes = unet_sizes(shapes)
    added = shapes[UNET + "label_emb.0.0.weight"][1]
    pooled = shapes.get(TEXT_SDXL_2 + "text_projection", (0, 1280))[1]
    return {
        **sizes,
        "attention_head_dim": [max(1, channels // 64) for channels in sizes["block_out_channels"]],
        "transformer_layers_per_block": transformer_depths(shapes),
        "projection_class_embeddings_input_dim": added,
        "addition_time_embed_dim": (added - pooled) // 6,
    }


def file_names(part: str, keys: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """A part's tensor names to their names in a single file of Stable Diffusion 1.x."""
    if part == "text_encoder":
        return {key: TEXT[0] + key.removeprefix("text_model.") for key in keys}
    if part == "unet":
        return {key: UNET + unet_name(key, config) for key in keys}
    return {key: VAE + vae_name(key, config) for key in keys}


def load_model(
    spec: FamilySpec,
    config: RunConfig,
    recognition: Recognition,
    device: str,
    dtype: str,
    log: Log,
    *,
    empty: bool = False,
) -> UNetModel:
    """Load SD 1.x or SDXL for `Family.load`; the VAE is in fp32 on the CPU and with no_half_vae."""
    table, is_sdxl = config.model, spec is SDXL_SPEC
    prediction_type = choose_prediction_type(table, recognition, log)
    zero_snr = choose_zero_terminal_snr(table, recognition, prediction_type, log)
    if is_sdxl and table.clip_skip is not None:
        log("model.clip_skip has no effect: SDXL is always trained on the last layer but one of both text encoders.")
    part_sources, compute = sources(spec, recognition), DTYPES[dtype]
    unet = load_part(
        "unet",
        part_sources["unet"],
        compute,
        log,
        empty=empty,
        precision=config.memory.base_precision,
        blocks=spec.blocks["unet"],
        device=device,
    )
    encoders = {part: load_part(part, part_sources[part], compute, log, empty=empty) for part in _encoders(spec)}
    vae_in_fp32 = table.no_half_vae or torch.device(device).type == "cpu"
    vae_dtype = torch.float32 if vae_in_fp32 else compute
    if is_sdxl:
        vae_dtype = choose_vae_dtype(table, part_sources["vae"].config, torch.device(device), compute, log)
    schedule = scheduler_config(recognition, CONFIGURATIONS / spec.name)
    schedule |= {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    model_class = SDXLModel if is_sdxl else SD15Model
    return model_class(
        replace(recognition, prediction_type=prediction_type, zero_terminal_snr=zero_snr),
        torch.device(device),
        text_encoders=encoders,
        unet=unet,
        vae=load_vae(table, part_sources["vae"], vae_dtype, log, latents=unet.config.in_channels, empty=empty),
        tokenizers=_tokenizers(recognition, two=is_sdxl),
        scheduler_config=schedule,
        training_alphas_cumprod=alphas_cumprod(schedule),
        clip_skip=table.clip_skip,
        max_token_length=table.max_token_length,
        weighted_captions=table.weighted_captions,
    )


def _tokenizers(recognition: Recognition, *, two: bool) -> list[Any]:
    """CLIP's, and the second text encoder's, which pads differently."""
    first = load_tokenizer(recognition)
    return [first, load_tokenizer(recognition, "tokenizer_2", pad_token="!")] if two else [first]


def choose_vae_dtype(
    table: ModelTable, own: Mapping[str, Any], device: torch.device, compute: torch.dtype, log: Log
) -> torch.dtype:
    """The VAE's number format: SDXL's own overflows in fp16 and turns images black, the fp16-fix one does not."""
    if device.type == "cpu" or table.no_half_vae or compute is torch.float32:
        return torch.float32
    if compute is torch.bfloat16:
        log("VAE in bf16: its range is that of fp32. model.no_half_vae = true is slower, larger and finer.")
        return torch.bfloat16
    fixed = _fits_fp16(table, own)
    if fixed:
        log(f"VAE in fp16: {fixed}.")
        return torch.float16
    log("VAE in fp32: SDXL's own overflows in fp16. With the fp16-fix VAE (model.vae) fp16 is enough.")
    return torch.float32


def _fits_fp16(table: ModelTable, own: Mapping[str, Any]) -> str:
    """Why the VAE may compute in fp16; empty if it may not. Decided by configurations and names."""
    if table.vae is None:
        return "" if own.get("force_upcast", True) else "force_upcast is off in its configuration"
    path = expanded(table.vae)
    if "fp16-fix" in path.name.lower().replace("_", "-").replace("fp16fix", "fp16-fix"):
        return "its name has fp16-fix"
    places: list[Path] = [path / "config.json", path / "vae" / "config.json"] if path.is_dir() else []
    for place in places:
        if place.exists() and not read_json(place).get("force_upcast", True):
            return "force_upcast is off in its configuration"
    return ""
