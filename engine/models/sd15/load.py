"""Load a recognised checkpoint, offline: its parts, its tokenizer, its noise schedule, and what the run sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from engine.config import RunConfig
from engine.models.base import Recognition, Say
from engine.models.files import read_json
from engine.models.ldm.names import UNET, VAE, unet_name, unet_sizes, vae_name
from engine.models.ldm.noise import choose_prediction_type, choose_zero_terminal_snr
from engine.models.ldm.parts import (
    build_clip,
    build_unet,
    build_vae,
    clip_source,
    folder_source,
    load_tokenizer,
    load_vae,
    unet_source,
    vae_source,
)
from engine.models.ldm.schedule import alphas_cumprod, scheduler_config
from engine.models.loading import DTYPES, Source, load_part, without_files
from engine.models.sd15.detect import TEXT
from engine.models.sd15.model import SD15Model
from engine.models.sd15.reader import SD15Reader
from engine.paths import ASSETS

CONFIGURATIONS = ASSETS / "sd15"
BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "text_encoder": build_clip, "unet": build_unet, "vae": build_vae,
}  # fmt: skip


def sources(recognition: Recognition) -> dict[str, Source]:
    """Where text_encoder, unet and vae come from."""
    path = recognition.path
    if recognition.layout == "diffusers":
        return {part: folder_source(path, part, build) for part, build in BUILDERS.items()}
    base = {part: read_json(CONFIGURATIONS / part / "config.json") for part in BUILDERS}
    if recognition.layout == "configurations":
        return {part: without_files(build, base[part]) for part, build in BUILDERS.items()}
    return {
        "text_encoder": clip_source(path, base["text_encoder"], TEXT),
        "unet": unet_source(path, base["unet"], unet_sizes),
        "vae": vae_source(path, base["vae"]),
    }


def file_names(part: str, keys: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """A part's tensor names to their names in a single file."""
    if part == "text_encoder":
        return {key: TEXT[0] + key.removeprefix("text_model.") for key in keys}
    if part == "unet":
        return {key: UNET + unet_name(key, config) for key in keys}
    return {key: VAE + vae_name(key, config) for key in keys}


def load_model(
    config: RunConfig, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
) -> SD15Model:
    """See `Family.load`; the VAE is in fp32 on the CPU and with no_half_vae."""
    table = config.model
    prediction_type = choose_prediction_type(table, recognition, say)
    zero_snr = choose_zero_terminal_snr(table, recognition, prediction_type, say)
    found, compute = sources(recognition), DTYPES[dtype]
    precision = config.memory.base_precision
    unet = load_part("unet", found["unet"], compute, say, empty=empty, precision=precision, device=device)
    text_encoder = load_part("text_encoder", found["text_encoder"], compute, say, empty=empty)
    whole = table.no_half_vae or torch.device(device).type == "cpu"
    vae_dtype = torch.float32 if whole else compute
    schedule = scheduler_config(recognition, CONFIGURATIONS)
    schedule |= {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    return SD15Model(
        replace(recognition, prediction_type=prediction_type, zero_terminal_snr=zero_snr),
        torch.device(device),
        text_encoders={"text_encoder": text_encoder},
        unet=unet,
        vae=load_vae(table, found["vae"], vae_dtype, say, latents=unet.config.in_channels, empty=empty),
        tokenizer=load_tokenizer(recognition),
        scheduler_config=schedule,
        training_alphas_cumprod=alphas_cumprod(schedule),
        clip_skip=table.clip_skip,
        max_token_length=table.max_token_length,
        reader=SD15Reader(),
    )
