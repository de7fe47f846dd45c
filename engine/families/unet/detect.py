"""Is it Stable Diffusion 1.x or SDXL, and which kind: read from headers and configuration files, without torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelError
from engine.families.unet.configs import CONFIGS
from engine.families.unet.configs import UNET as UNET_CONFIG
from engine.families.unet.names import TEXT, TEXT_SDXL, TEXT_SDXL_2, UNET, VAE, levels_of_file, multiples
from engine.families.unet.noise import Noise, noise_of_file, noise_of_folder
from engine.models.configs import read_config
from engine.models.files import format_of, read_json
from engine.models.header import Header, read_header
from engine.models.kinds import is_lora
from engine.models.tokenizer_files import check_tokenizer
from engine.models.weights import check_weights, part_headers, side
from engine.text import printable
from engine.types import Recognition

OTHER_CLASSES = ("StableDiffusionXL", "StableDiffusion3", "Flux", "Chroma")
"""Pipelines that are no Stable Diffusion 1.x."""
_USE_FULL_CHECKPOINT = "Use the full checkpoint; files that hold only the U-Net cannot be trained."
_USE_BASE_CHECKPOINT = "Train on the checkpoint that it was made from; the LoRA also works with the inpainting model."
_CONTEXT = "attn2.to_k.weight"
_FULL_SDXL = "Train on a full SDXL checkpoint: base, Pony, Illustrious, NoobAI or another made from it."


def recognise_sd15(path: Path) -> Recognition | None:
    """Stable Diffusion 1.x as a folder in diffusers' layout, or as a single file in the original one; None: another.

    Raises:
        ModelError: unreadable, or a near relative (SD2, inpainting, parts missing).
    """
    return _sd15_folder(path) if path.is_dir() else _sd15_file(path)


def recognise_sdxl(path: Path) -> Recognition | None:
    """SDXL, in the same layouts; None: another.

    Raises:
        ModelError: unreadable, or a near relative (refiner, inpainting, EDM, parts missing).
    """
    return _sdxl_folder(path) if path.is_dir() else _sdxl_file(path)


def _sd15_file(path: Path) -> Recognition | None:
    header = read_header(path)
    if is_lora(header) or not header.any(UNET + "input_blocks.") or header.any("conditioner.embedders."):
        return None
    if header.any("control_model."):
        return None
    where = printable(path)
    context = side(path, header, f"{UNET}input_blocks.1.1.transformer_blocks.0.{_CONTEXT}", -1)
    if header.any("cond_stage_model.model.") or context == 1024:
        raise _sd2(where)
    if context == 2048:
        return None
    _check_channels(where, side(path, header, UNET + "input_blocks.0.0.weight", 1, 4))
    parts = {"text encoder (cond_stage_model)": TEXT, "VAE (first_stage_model)": (VAE,)}
    if missing := _missing(header, parts):
        raise ModelError(
            f"{where} has a Stable Diffusion 1.x U-Net but no {missing}.",
            _USE_FULL_CHECKPOINT,
            code="checkpoint-without-parts",
        )
    check_weights(path, header)
    noise = noise_of_file(header, "Stable Diffusion 1.x", path.name)
    return _of_file("sd15", path, header, noise, f"U-Net with a context of {context} and one CLIP text encoder")


def _sdxl_file(path: Path) -> Recognition | None:
    header = read_header(path)
    if is_lora(header) or not header.any(UNET + "input_blocks."):
        return None
    context = side(path, header, f"{UNET}input_blocks.4.1.transformer_blocks.0.{_CONTEXT}", -1)
    if not header.any("conditioner.embedders.") and context != 2048:
        return None
    where = printable(path)
    if header.any("conditioner.embedders.0.model.") and not header.any(TEXT_SDXL):
        raise _refiner(where)
    parts = {"first text encoder": (TEXT_SDXL,), "second text encoder": (TEXT_SDXL_2,)}
    if missing := _missing(header, {**parts, "VAE (first_stage_model)": (VAE,)}):
        raise ModelError(
            f"{where} has an SDXL U-Net but no {missing}.", _USE_FULL_CHECKPOINT, code="checkpoint-without-parts"
        )
    _check_channels(where, side(path, header, UNET + "input_blocks.0.0.weight", 1, 4))
    check_weights(path, header)
    noise = noise_of_file(header, "SDXL", path.name)
    return _of_file("sdxl", path, header, noise, f"U-Net with a context of {context} and two text encoders")


def _missing(header: Header, parts: dict[str, tuple[str, ...]]) -> str:
    """The parts that a file lacks: "VAE (first_stage_model)"; empty if it has all."""
    return " and no ".join(
        name for name, prefixes in parts.items() if not any(header.any(prefix) for prefix in prefixes)
    )


def _of_file(family: str, path: Path, header: Header, noise: Noise, parts_text: str) -> Recognition:
    reasons = [f"family {family}: {parts_text}", *noise.reasons]
    if header.any("model_ema."):
        reasons.append("EMA weights: in the file, but not used; the run trains on the plain weights")
    return Recognition(
        family,
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


def _sd15_folder(folder: Path) -> Recognition | None:
    where, pipeline = printable(folder), _pipeline(folder)
    if pipeline is not None and pipeline.startswith(OTHER_CLASSES):
        return None
    if not (folder / "unet" / "config.json").exists():
        if pipeline is None:
            return None
        raise ModelError(
            f"{where} has a model_index.json ({pipeline}) but no unet/config.json.",
            "Fetch the whole folder.",
            code="model-config-missing",
        )
    unet = read_json(folder / "unet" / "config.json")
    if (folder / "text_encoder_2").exists() or unet.get("addition_embed_type") == "text_time":
        return None
    if unet.get("cross_attention_dim") == 1024 or unet.get("use_linear_projection"):
        raise _sd2(where)
    read_config(folder / "unet" / "config.json", UNET_CONFIG)
    _check_channels(where, unet.get("in_channels", 4))
    noise = noise_of_folder(folder)
    return _of_folder("sd15", folder, noise, ("text_encoder",), pipeline or "unet, text_encoder and vae")


def _sdxl_folder(folder: Path) -> Recognition | None:
    where, pipeline = printable(folder), _pipeline(folder) or ""
    configuration = folder / "unet" / "config.json"
    unet = read_json(configuration) if configuration.exists() else {}
    if not pipeline.startswith("StableDiffusionXL") and unet.get("addition_embed_type") != "text_time":
        return None
    if not unet:
        raise ModelError(
            f"{where} is an SDXL folder without unet/config.json.",
            "Fetch the whole folder.",
            code="model-config-missing",
        )
    if unet.get("cross_attention_dim") == 1280 and not (folder / "text_encoder").exists():
        raise _refiner(where)
    read_config(configuration, UNET_CONFIG)
    _check_channels(where, unet.get("in_channels", 4))
    encoders = ("text_encoder", "text_encoder_2")
    _check_values(folder, encoders)
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    if str(schedule.get("_class_name", "")).startswith("EDM"):
        raise ModelError(
            f"{where} is trained with EDM's noise, as Playground v2.5 is: not SDXL's.", _FULL_SDXL, code="model-is-edm"
        )
    return _of_folder("sdxl", folder, noise_of_folder(folder), encoders, pipeline or "unet, vae and two text encoders")


def _pipeline(folder: Path) -> str | None:
    """diffusers' class as model_index.json has it, perhaps empty; None if the folder has no such file."""
    index = folder / "model_index.json"
    table = read_json(index) if index.exists() else {}
    return str(table.get("_class_name", "")) if table else None


def _check_values(folder: Path, encoders: tuple[str, ...]) -> None:
    """A bad value in a configuration is reported before missing weights."""
    for part in (*encoders, "unet", "vae"):
        read_config(folder / part / "config.json", CONFIGS[part])


def _of_folder(family: str, folder: Path, noise: Noise, encoders: tuple[str, ...], parts_text: str) -> Recognition:
    _check_values(folder, encoders)
    headers = {part: part_headers(folder, part) for part in (*encoders, "unet", "vae")}
    configs = {
        part: read_config(folder / part / "config.json", CONFIGS[part], files) for part, files in headers.items()
    }
    for part in encoders:
        tokenizer = folder / part.replace("text_encoder", "tokenizer")
        check_tokenizer(tokenizer, configs[part].get("vocab_size"))
    return Recognition(
        family,
        folder,
        "diffusers",
        noise.prediction_type,
        noise.zero_terminal_snr,
        format_of(headers["unet"]),
        sum(header.size for files in headers.values() for header in files),
        (f"family {family}: {parts_text} in diffusers' layout", *noise.reasons),
        {"prediction_type_stated": noise.stated},
        *multiples(*(len(configs[part].get("block_out_channels", ())) for part in ("vae", "unet"))),
    )


def _check_channels(where: str, channels: int) -> None:
    if channels == 9:
        raise ModelError(
            f"{where} is an inpainting model: its U-Net has 9 input channels instead of 4.",
            _USE_BASE_CHECKPOINT,
            code="model-is-inpainting",
        )
    if channels != 4:
        raise ModelError(
            f"{where} has a U-Net with {channels} input channels instead of 4: made for another task than "
            "text to image.",
            "Use a text-to-image checkpoint.",
            code="not-text-to-image",
        )


def _sd2(where: str) -> ModelError:
    return ModelError(
        f"{where} is a Stable Diffusion 2 model: its text encoder is OpenCLIP (1024 wide), not CLIP.",
        "Use a Stable Diffusion 1.5 checkpoint.",
        code="model-is-sd2",
    )


def _refiner(where: str) -> ModelError:
    return ModelError(
        f"{where} is the SDXL refiner: it has the second text encoder only.", _FULL_SDXL, code="model-is-sdxl-refiner"
    )
