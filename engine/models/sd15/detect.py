"""Is it Stable Diffusion 1.x, and which kind: read from headers and configuration files, without torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelError
from engine.models.base import Recognition
from engine.models.configs import read_config
from engine.models.files import format_of, read_json
from engine.models.header import read_header
from engine.models.kinds import is_lora
from engine.models.ldm.names import UNET, VAE, levels_of_file, multiples
from engine.models.ldm.noise import noise_of_file, noise_of_folder
from engine.models.tokenizer_files import check_tokenizer
from engine.models.weights import check_weights, part_headers, side
from engine.text import printable

PARTS = ("text_encoder", "unet", "vae")
TEXT = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
"""The second form is that of files which an early tool wrote without `text_model`."""
OTHER_CLASSES = ("StableDiffusionXL", "StableDiffusion3", "Flux", "Chroma")
"""Pipelines of other families."""
INPAINTING = "Train on the checkpoint that it was made from; the LoRA also works with the inpainting model."


def recognise_file(path: Path) -> Recognition | None:
    """A single file in the original LDM layout; None when its keys are another family's.

    Raises:
        ModelError: unreadable, or a near relative (SD2, inpainting, parts missing).
    """
    header = read_header(path)
    if is_lora(header) or not header.any(UNET + "input_blocks.") or header.any("conditioner.embedders."):
        return None
    if header.any("control_model."):
        return None
    where = printable(path)
    context = side(path, header, UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", -1)
    if header.any("cond_stage_model.model.") or context == 1024:
        raise _sd2(where)
    if context == 2048:
        return None
    _check_channels(where, side(path, header, UNET + "input_blocks.0.0.weight", 1, 4))
    missing = [
        name
        for name, found in (
            ("text encoder (cond_stage_model)", any(header.any(prefix) for prefix in TEXT)),
            ("VAE (first_stage_model)", header.any(VAE)),
        )
        if not found
    ]
    if missing:
        raise ModelError(
            f"{where} has a Stable Diffusion 1.x UNet but no {' and no '.join(missing)}.",
            "Use the full checkpoint; files that hold only the UNet cannot be trained.",
        )
    check_weights(path, header)
    noise = noise_of_file(header, "Stable Diffusion 1.x", path.name)
    reasons = [f"family sd15: UNet with a context of {context} and one CLIP text encoder", *noise.reasons]
    if header.any("model_ema."):
        reasons.append("EMA weights: in the file, left alone; the plain weights are trained on")
    return Recognition(
        "sd15",
        path,
        "single_file",
        noise.prediction_type,
        noise.zero_terminal_snr,
        format_of([header], UNET),
        header.size,
        tuple(reasons),
        {"prediction_type_stated": noise.stated},
        *multiples(*levels_of_file(header.shapes)),
    )


def recognise_folder(folder: Path) -> Recognition | None:
    """A folder in diffusers' layout; None when its classes are another family's.

    Raises:
        ModelError: a part is missing or broken, or it is a near relative (SD2, inpainting).
    """
    where = printable(folder)
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").exists() else {}
    pipeline = str(index.get("_class_name", ""))
    if pipeline.startswith(OTHER_CLASSES):
        return None
    if not (folder / "unet" / "config.json").exists():
        if not index:
            return None
        raise ModelError(
            f"{where} has a model_index.json ({pipeline}) but no unet/config.json.", "Fetch the whole folder."
        )
    unet = read_json(folder / "unet" / "config.json")
    if (folder / "text_encoder_2").exists() or unet.get("addition_embed_type") == "text_time":
        return None
    if unet.get("cross_attention_dim") == 1024 or unet.get("use_linear_projection"):
        raise _sd2(where)
    read_config(folder / "unet" / "config.json", "unet")
    _check_channels(where, unet.get("in_channels", 4))
    noise = noise_of_folder(folder)
    for part in PARTS:
        read_config(folder / part / "config.json", part)  # a bad value is reported before missing weights
    headers = {part: part_headers(folder, part) for part in PARTS}
    configs = {part: read_config(folder / part / "config.json", part, headers[part]) for part in PARTS}
    check_tokenizer(folder / "tokenizer", configs["text_encoder"].get("vocab_size"))
    reasons = (f"family sd15: {pipeline or 'unet, text_encoder and vae'} in diffusers' layout", *noise.reasons)
    return Recognition(
        "sd15",
        folder,
        "diffusers",
        noise.prediction_type,
        noise.zero_terminal_snr,
        format_of(headers["unet"]),
        sum(header.size for found in headers.values() for header in found),
        reasons,
        {"prediction_type_stated": noise.stated},
        *multiples(*(len(configs[part].get("block_out_channels", ())) for part in ("vae", "unet"))),
    )


def _check_channels(where: str, channels: int) -> None:
    if channels == 9:
        raise ModelError(f"{where} is an inpainting model: its UNet has 9 input channels in place of 4.", INPAINTING)
    if channels != 4:
        raise ModelError(
            f"{where} has a UNet with {channels} input channels in place of 4: made for another task than drawing "
            "from text.",
            "Use a text-to-image checkpoint.",
        )


def _sd2(where: str) -> ModelError:
    return ModelError(
        f"{where} is a Stable Diffusion 2 model: its text encoder is OpenCLIP (1024 wide), not CLIP.",
        "Use a Stable Diffusion 1.5 checkpoint.",
    )
