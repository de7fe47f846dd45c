"""Is it Stable Diffusion 1.x, and which kind: read from headers and configuration files, without torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.models.base import PredictionType, Recognition
from engine.models.header import BITS, Header, read_header, refuse_pickle
from engine.models.kinds import is_lora
from engine.text import printable

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")
"""The second form is that of files which an early tool wrote without `text_model`."""
WEIGHT_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
OTHER_CLASSES = {
    "StableDiffusionXL": "an SDXL model",
    "Flux": "a FLUX model",
    "StableDiffusion3": "a Stable Diffusion 3 model",
}
_FORMATS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64"}
_PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vpred": "v_prediction",
}
INPAINTING = "Train on the checkpoint that it was made from; the LoRA also works with the inpainting model."


@dataclass
class _Noise:
    prediction_type: PredictionType
    stated: bool
    zero_terminal_snr: bool
    reasons: list[str]


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
    context = header.shapes.get(UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", (0, 0))[-1]
    if header.any("cond_stage_model.model.") or context == 1024:
        raise _sd2(where)
    if context == 2048:
        return None
    _check_channels(where, header.shapes.get(UNET + "input_blocks.0.0.weight", (0, 4))[1])
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
    noise = _noise_of_file(header)
    reasons = [f"family sd15: UNet with a context of {context} and one CLIP text encoder", *noise.reasons]
    if header.any("model_ema."):
        reasons.append("EMA weights: in the file, left alone; the plain weights are trained on")
    inputs = [name for name in header.tensors if name.startswith(UNET + "input_blocks.")]
    unet_levels = 1 + sum(name.endswith(".0.op.weight") for name in inputs)
    vae_levels = len({name.split(".")[3] for name in header.tensors if name.startswith(VAE + "encoder.down.")})
    return Recognition(
        "sd15",
        path,
        "single_file",
        noise.prediction_type,
        noise.zero_terminal_snr,
        _format([header], UNET),
        header.size,
        tuple(reasons),
        {"prediction_type_stated": noise.stated},
        *_multiples(vae_levels, unet_levels),
    )


def recognise_folder(folder: Path) -> Recognition | None:
    """A folder in diffusers' layout; None when its classes are another family's.

    Raises:
        ModelError: a part is missing or broken, or it is a near relative (SD2, inpainting).
    """
    where = printable(folder)
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").exists() else {}
    pipeline = str(index.get("_class_name", ""))
    if any(pipeline.startswith(name) for name in OTHER_CLASSES):
        kind = next(kind for name, kind in OTHER_CLASSES.items() if pipeline.startswith(name))
        raise ModelError(f"{where} is {kind}.", "Stable Diffusion 1.5 models can be trained.")
    if not (folder / "unet" / "config.json").exists():
        if not index:
            return None
        raise ModelError(
            f"{where} has a model_index.json ({pipeline}) but no unet/config.json.", "Fetch the whole folder."
        )
    unet = read_json(folder / "unet" / "config.json")
    if (folder / "text_encoder_2").exists() or unet.get("addition_embed_type") == "text_time":
        raise ModelError(f"{where} is an SDXL model.", "Stable Diffusion 1.5 models can be trained.")
    if unet.get("cross_attention_dim") == 1024 or unet.get("use_linear_projection"):
        raise _sd2(where)
    _check_channels(where, unet.get("in_channels", 4))
    vae = read_json(folder / "vae" / "config.json")
    read_json(folder / "text_encoder" / "config.json")
    noise = _noise_of_folder(folder)
    headers = [read_header(file) for part in WEIGHT_STEMS for file in weight_files(folder, part)]
    unet_headers = [read_header(file) for file in weight_files(folder, "unet")]
    reasons = (f"family sd15: {pipeline or 'unet, text_encoder and vae'} in diffusers' layout", *noise.reasons)
    return Recognition(
        "sd15",
        folder,
        "diffusers",
        noise.prediction_type,
        noise.zero_terminal_snr,
        _format(unet_headers),
        sum(header.size for header in headers),
        reasons,
        {"prediction_type_stated": noise.stated},
        *_multiples(len(vae.get("block_out_channels", ())), len(unet.get("block_out_channels", ()))),
    )


def _multiples(vae_levels: int, unet_levels: int) -> tuple[int, int]:
    """(`Recognition.downscale`, `Recognition.multiple`): every level but the last halves the size; 0 is unknown."""
    halvings = (vae_levels or 4) - 1
    return 2**halvings, 2 ** (halvings + (unet_levels or 4) - 1)


def weight_variant(folder: Path, part: str) -> str | None:
    """diffusers' `variant` of a part's weights: None for the plain file, "fp16" for `...fp16.safetensors`.

    Raises:
        ModelError: the part has no safetensors weights.
    """
    stem = WEIGHT_STEMS[part]
    names = sorted(file.name for file in (folder / part).glob("*.safetensors*"))
    if any(name == f"{stem}.safetensors" or name == f"{stem}.safetensors.index.json" for name in names):
        return None
    variants = [name.split(".")[1] for name in names if name.startswith(f"{stem}.") and name.count(".") == 2]
    if variants:
        return "fp16" if "fp16" in variants else variants[0]
    pickles = sorted((folder / part).glob("*.bin"))
    if pickles:
        raise refuse_pickle(pickles[0])
    raise ModelError(
        f"{printable(folder)} has no weights of its {part}: {part}/{stem}.safetensors is missing.",
        "Fetch the whole folder.",
    )


def weight_files(folder: Path, part: str) -> list[Path]:
    """The safetensors files of one part, shards included."""
    variant = weight_variant(folder, part)
    middle = f".{variant}" if variant else ""
    plain = folder / part / f"{WEIGHT_STEMS[part]}{middle}.safetensors"
    if plain.exists():
        return [plain]
    index = read_json(folder / part / f"{WEIGHT_STEMS[part]}.safetensors.index.json")
    return [folder / part / name for name in sorted(set(index.get("weight_map", {}).values()))]


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a model folder.

    Raises:
        ModelError: missing or not a JSON table.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{printable(path)} is missing.", "Fetch the whole folder.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{printable(path)} cannot be read as JSON: {error}.", "Fetch the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{printable(path)} holds no table.", "Fetch the file again.")
    return value


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


def _noise_of_file(header: Header) -> _Noise:
    """Prediction type and zero-terminal SNR of a single file: its metadata, then marker tensors, then the usual."""
    said = header.metadata.get("modelspec.prediction_type", "")
    named = _PREDICTIONS.get(said.lower())
    marked = "v_pred" in header.tensors
    zero = "ztsnr" in header.tensors
    if named is not None:
        prediction, reason = named, f"modelspec.prediction_type in the file's metadata is {said}"
    elif marked:
        prediction, reason = "v_prediction", "the file has the marker tensor v_pred"
    else:
        prediction, reason = "epsilon", "the file does not say; nearly all Stable Diffusion 1.x models are"
    reasons = [f"prediction type {prediction}: {reason}"]
    has = "on: the file has" if zero else "off: the file has not"
    reasons.append(f"zero terminal SNR {has} the marker tensor ztsnr")
    return _Noise(prediction, named is not None or marked, zero, reasons)


def _noise_of_folder(folder: Path) -> _Noise:
    """Prediction type and zero-terminal SNR as scheduler/scheduler_config.json has them."""
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    said = scheduler.get("prediction_type")
    named = _PREDICTIONS.get(str(said or "epsilon").lower())
    if named is None:
        raise ModelError(
            f"{printable(folder)}/scheduler/scheduler_config.json asks for prediction_type {said!r}.",
            "epsilon and v_prediction can be trained.",
        )
    reason = "scheduler_config.json" if said else "scheduler_config.json does not say, and epsilon is the default"
    zero = bool(scheduler.get("rescale_betas_zero_snr", False))
    reasons = [
        f"prediction type {named}: {reason}",
        f"zero terminal SNR {'on' if zero else 'off'}: scheduler_config.json",
    ]
    return _Noise(named, said is not None, zero, reasons)


def _format(headers: list[Header], prefix: str = "") -> str:
    """The number format that holds most of the bytes under `prefix`."""
    held: Counter[str] = Counter()
    for header in headers:
        _count_bytes(header.tensors, prefix, held)
    kind = held.most_common(1)[0][0] if held else "F32"
    return _FORMATS.get(kind, kind.lower())


def _count_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], prefix: str, held: Counter[str]) -> None:
    for name, (kind, shape) in tensors.items():
        if name.startswith(prefix):
            count = BITS.get(kind, 8)
            for side in shape:
                count *= side
            held[kind] += count
