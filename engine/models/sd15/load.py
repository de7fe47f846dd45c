"""Load a recognised checkpoint, offline: its parts, its tokenizer, its noise schedule, and what the run sets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from transformers import CLIPTokenizer

from engine.config.schema import ModelTable
from engine.errors import ModelError
from engine.models.base import PredictionType, Recognition, Say
from engine.models.sd15.detect import read_json
from engine.models.sd15.model import SD15Model
from engine.models.sd15.settings import check_vae, choose_prediction_type
from engine.models.sd15.weights import CONFIGURATIONS, load_part, source_of, vae_source
from engine.paths import ASSETS
from engine.runs.layout import expanded
from engine.text import printable

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOKENIZER = ASSETS / "clip_tokenizer"


def load_model(
    table: ModelTable, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
) -> SD15Model:
    """See `Family.load`; the VAE is in fp32 on the CPU and with no_half_vae."""
    prediction_type = choose_prediction_type(table, recognition, say)
    zero_snr = _zero_terminal_snr(table, recognition, prediction_type, say)
    compute = DTYPES[dtype]
    unet = load_part("unet", source_of(recognition, "unet"), compute, say, empty=empty)
    text_encoder = load_part("text_encoder", source_of(recognition, "text_encoder"), compute, say, empty=empty)
    whole = table.no_half_vae or torch.device(device).type == "cpu"
    vae = _load_vae(table, recognition, torch.float32 if whole else compute, say, empty=empty)
    latents = unet.config.in_channels
    if vae.config.latent_channels != latents:
        raise ModelError(
            f"The VAE makes latents of {vae.config.latent_channels} channels, the UNet takes {latents}.",
            "Use the VAE of this model's family.",
        )
    schedule = scheduler_config(recognition)
    schedule |= {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_snr}
    return SD15Model(
        replace(recognition, prediction_type=prediction_type, zero_terminal_snr=zero_snr),
        torch.device(device),
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        tokenizer=load_tokenizer(recognition),
        scheduler_config=schedule,
        alphas_cumprod=alphas_cumprod(schedule),
        clip_skip=table.clip_skip,
        max_token_length=table.max_token_length,
    )


def _load_vae(table: ModelTable, recognition: Recognition, dtype: torch.dtype, say: Say, *, empty: bool) -> Any:
    own = source_of(recognition, "vae")
    if table.vae is None:
        return load_part("vae", own, dtype, say, empty=empty)
    path = expanded(table.vae)
    check_vae(path)
    say(f"VAE: {printable(path)} in place of the checkpoint's own (model.vae).")
    return load_part("vae", vae_source(path, own.config), dtype, say, empty=empty)


def load_tokenizer(recognition: Recognition) -> Any:
    """The folder's own tokenizer; CLIP's, which comes with the program, where there is none."""
    own = recognition.path / "tokenizer"
    folder = own if recognition.layout == "diffusers" and own.is_dir() else TOKENIZER
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise ModelError(f"The tokenizer in {printable(folder)} cannot be read: {error}.", "Fetch it again.") from error


def scheduler_config(recognition: Recognition) -> dict[str, Any]:
    """The noise schedule: the folder's, or that of Stable Diffusion 1.5."""
    folder = recognition.path if recognition.layout == "diffusers" else CONFIGURATIONS
    return read_json(folder / "scheduler" / "scheduler_config.json")


def alphas_cumprod(schedule: dict[str, Any]) -> torch.Tensor:
    """The cumulative products of 1 - beta, [T] float32; the last is 0 with zero terminal SNR (Lin et al. 2023)."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    scheduler_class: Any = DDPMScheduler
    scheduler = scheduler_class(**{key: schedule[key] for key in keys if key in schedule})
    products: torch.Tensor = scheduler.alphas_cumprod.float()
    return products


def _zero_terminal_snr(table: ModelTable, recognition: Recognition, prediction: PredictionType, say: Say) -> bool:
    zero = recognition.zero_terminal_snr
    if table.zero_terminal_snr is not None and table.zero_terminal_snr != zero:
        zero = table.zero_terminal_snr
        say(f"Zero terminal SNR {'on' if zero else 'off'}: model.zero_terminal_snr; the checkpoint says otherwise.")
    if zero and prediction == "epsilon":
        say("Zero terminal SNR with epsilon prediction: the last timestep teaches nothing; it is meant for v models.")
    return zero
