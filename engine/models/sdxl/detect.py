"""Is it SDXL, and which kind: read from headers and configuration files, without torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelError
from engine.models.base import Recognition
from engine.models.configs import read_config
from engine.models.files import format_of, read_json
from engine.models.header import Header, read_header
from engine.models.kinds import is_lora
from engine.models.ldm.names import UNET, VAE, levels_of_file, multiples
from engine.models.ldm.noise import noise_of_file, noise_of_folder
from engine.models.tokenizer_files import check_tokenizer
from engine.models.weights import check_weights, part_headers, side
from engine.text import printable

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae")
TEXT = "conditioner.embedders.0.transformer.text_model."
TEXT_2 = "conditioner.embedders.1.model."
_CONTEXT = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_BASE = "Train on a full SDXL checkpoint: base, Pony, Illustrious, NoobAI or another made from it."


def recognise_file(path: Path) -> Recognition | None:
    """A single file in the original layout; None when its keys are another family's.

    Raises:
        ModelError: unreadable, or a near relative (refiner, inpainting, parts missing).
    """
    header = read_header(path)
    if is_lora(header) or not header.any(UNET + "input_blocks."):
        return None
    context = side(path, header, UNET + _CONTEXT, -1)
    if not header.any("conditioner.embedders.") and context != 2048:
        return None
    where = printable(path)
    if header.any("conditioner.embedders.0.model.") and not header.any(TEXT):
        raise ModelError(f"{where} is the SDXL refiner: it has the second text encoder only.", _BASE)
    missing = _missing(header)
    if missing:
        raise ModelError(
            f"{where} has an SDXL UNet but no {' and no '.join(missing)}.",
            "Use the full checkpoint; files that hold only the UNet cannot be trained.",
        )
    _check_channels(where, side(path, header, UNET + "input_blocks.0.0.weight", 1, 4))
    check_weights(path, header)
    noise = noise_of_file(header, "SDXL", path.name)
    reasons = [f"family sdxl: UNet with a context of {context} and two text encoders", *noise.reasons]
    if header.any("model_ema."):
        reasons.append("EMA weights: in the file, left alone; the plain weights are trained on")
    return Recognition(
        "sdxl",
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


def _missing(header: Header) -> list[str]:
    parts = (("first text encoder", TEXT), ("second text encoder", TEXT_2), ("VAE (first_stage_model)", VAE))
    return [name for name, prefix in parts if not header.any(prefix)]


def recognise_folder(folder: Path) -> Recognition | None:
    """A folder in diffusers' layout; None when its classes are another family's.

    Raises:
        ModelError: a part is missing or broken, or it is a near relative (refiner, inpainting, EDM).
    """
    where = printable(folder)
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").exists() else {}
    pipeline = str(index.get("_class_name", ""))
    configuration = folder / "unet" / "config.json"
    unet = read_json(configuration) if configuration.exists() else {}
    if not pipeline.startswith("StableDiffusionXL") and unet.get("addition_embed_type") != "text_time":
        return None
    if not unet:
        raise ModelError(f"{where} is an SDXL folder without unet/config.json.", "Fetch the whole folder.")
    if unet.get("cross_attention_dim") == 1280 and not (folder / "text_encoder").exists():
        raise ModelError(f"{where} is the SDXL refiner: it has the second text encoder only.", _BASE)
    read_config(configuration, "unet")
    _check_channels(where, unet.get("in_channels", 4))
    for part in PARTS:
        read_config(folder / part / "config.json", part)  # a bad value is reported before missing weights
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    if str(schedule.get("_class_name", "")).startswith("EDM"):
        raise ModelError(f"{where} is trained with EDM's noise, as Playground v2.5 is: not SDXL's.", _BASE)
    noise = noise_of_folder(folder)
    headers = {part: part_headers(folder, part) for part in PARTS}
    configs = {part: read_config(folder / part / "config.json", part, headers[part]) for part in PARTS}
    for number in ("", "_2"):
        check_tokenizer(folder / f"tokenizer{number}", configs[f"text_encoder{number}"].get("vocab_size"))
    return Recognition(
        "sdxl",
        folder,
        "diffusers",
        noise.prediction_type,
        noise.zero_terminal_snr,
        format_of(headers["unet"]),
        sum(header.size for found in headers.values() for header in found),
        (f"family sdxl: {pipeline or 'unet, vae and two text encoders'} in diffusers' layout", *noise.reasons),
        {"prediction_type_stated": noise.stated},
        *multiples(*(len(configs[part].get("block_out_channels", ())) for part in ("vae", "unet"))),
    )


def _check_channels(where: str, channels: int) -> None:
    if channels == 9:
        raise ModelError(
            f"{where} is an inpainting model: its UNet has 9 input channels in place of 4.",
            "Train on the checkpoint that it was made from; the LoRA also works with the inpainting model.",
        )
    if channels != 4:
        raise ModelError(
            f"{where} has a UNet with {channels} input channels in place of 4: made for another task than drawing "
            "from text.",
            "Use a text-to-image checkpoint.",
        )
