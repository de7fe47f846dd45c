"""Load a recognised FLUX.1, offline: its parts, its tokenizers, and what the run sets."""

from __future__ import annotations

from typing import Any

import torch

from engine.config import RunConfig
from engine.config.values import STORED_AS
from engine.errors import ModelError
from engine.families.flux.detect import LENGTHS
from engine.families.flux.files import PartFiles, find_parts
from engine.families.flux.model import FluxModel
from engine.families.flux.parts import CONFIGURATIONS, source_of
from engine.families.flux.spec import FLUX_SPEC
from engine.families.flux.tokenizers import load_tokenizers
from engine.models.configs import SCHEDULER, read_config
from engine.models.files import read_json
from engine.models.loading import DTYPES, load_part
from engine.text import printable
from engine.types import Log, Recognition


def load_model(
    config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log, *, empty: bool = False
) -> FluxModel:
    """Load FLUX.1 for `Family.load`; the VAE is in fp32 on the CPU and with no_half_vae, T5 never in fp16."""
    table, variant, compute = config.flux, recognition.details["variant"], DTYPES[dtype]
    sources = find_parts(config, recognition)
    tokenizers = load_tokenizers(table, recognition)
    if recognition.layout == "diffusers":
        for key in ("flux.clip_l", "flux.t5xxl", "flux.ae", "model.vae"):
            if value := config.value(key):
                log(f"{key}: {printable(value)} instead of the folder's own.")
    vae_in_fp32 = config.model.no_half_vae or torch.device(device).type == "cpu"
    t5_dtype = torch.bfloat16 if compute == torch.float16 else compute
    if compute == torch.float16:
        log("T5 is computed in bf16: it overflows in fp16.")
    dtypes = {"transformer": compute, "text_encoder": compute, "text_encoder_2": t5_dtype}
    dtypes["vae"] = torch.float32 if vae_in_fp32 else compute
    chosen = config.memory.base_precision
    # T5 runs once for each caption, and its activations have outliers that 8 bits round away.
    base_precision = {"transformer": chosen, "text_encoder_2": STORED_AS.get(chosen, chosen)}
    parts: dict[str, Any] = {}
    for part, files in sources.items():
        precision = base_precision.get(part, "auto")
        source = source_of(part, files)
        blocks = FLUX_SPEC.blocks.get(part, ())
        parts[part] = load_part(
            part, source, dtypes[part], log, empty=empty, precision=precision, blocks=blocks, device=device
        )
    t5 = parts["text_encoder_2"]
    t5.encoder.embed_tokens.weight = t5.shared.weight  # one tensor under two names
    _check_widths(parts, sources)
    longest = LENGTHS[variant]
    return FluxModel(
        recognition,
        torch.device(device),
        **parts,
        tokenizers=tokenizers,
        scheduler_config=scheduler_config(recognition),
        max_length=table.t5xxl_max_token_length or longest,
        masked=table.apply_t5_attn_mask,
        guidance=table.guidance_scale,
    )


def scheduler_config(recognition: Recognition) -> dict[str, Any]:
    """The schedule for sampling: the folder's, or that of the variant; schnell's does not depend on the size."""
    shipped = read_json(CONFIGURATIONS / "scheduler" / "scheduler_config.json")
    if recognition.details["variant"] == "schnell":
        shipped |= {"shift": 1.0, "use_dynamic_shifting": False}
    own = recognition.path / "scheduler" / "scheduler_config.json"
    if recognition.layout == "diffusers" and own.is_file():
        shipped |= read_config(own, SCHEDULER)
    return shipped


def _check_widths(parts: dict[str, Any], sources: dict[str, PartFiles]) -> None:
    """Refuse parts that do not belong together.

    Raises:
        ModelError: a part does not fit the transformer.
    """
    transformer = parts["transformer"].config
    for part, gives, takes, what in (
        ("text_encoder", parts["text_encoder"].config.hidden_size, transformer.pooled_projection_dim, "values"),
        ("text_encoder_2", parts["text_encoder_2"].config.d_model, transformer.joint_attention_dim, "values"),
        ("vae", 4 * parts["vae"].config.latent_channels, transformer.in_channels, "values a 2 × 2 patch"),
    ):
        if gives != takes:
            raise ModelError(
                f"{printable(sources[part].files[0])} gives {gives} {what}, and the transformer takes {takes}.",
                "Use the text encoders and the autoencoder that belong to FLUX.1: clip_l, t5xxl, ae.",
                code="model-parts-do-not-fit",
            )
