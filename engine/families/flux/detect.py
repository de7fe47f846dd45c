"""Is it FLUX.1, dev or schnell: read from headers and configuration files, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.families.flux.configs import CONFIGS
from engine.models.configs import SCHEDULER, read_config
from engine.models.files import format_of, read_json
from engine.models.header import Header, read_header
from engine.models.kinds import is_lora
from engine.models.tokenizer_files import check_tokenizer
from engine.models.weights import check_weights, part_headers, side
from engine.text import printable
from engine.types import Recognition

PARTS = tuple(CONFIGS)
COMFY = "model.diffusion_model."
"""ComfyUI's prefix of a denoiser."""
INSIDE = {"text_encoder": "text_encoders.clip_l.transformer.", "text_encoder_2": "text_encoders.t5xxl.transformer."}
INSIDE |= {"vae": "vae."}
"""Prefixes of the other parts in a file that holds everything."""
CHANNELS = 64
"""Of a 2 × 2 patch of 16 latent channels."""
LENGTHS = {"dev": 512, "schnell": 256}
"""Number of T5 tokens of the two models."""
_T5_WIDTH = 4096
_RELATIVES = {
    128: "FLUX Depth, Canny or another model that is conditioned on an image",
    384: "FLUX Fill (inpainting)",
}
_PIPELINES = {
    "FluxKontext": "FLUX.1 Kontext: it edits images",
    "FluxFill": "FLUX Fill: it inpaints images",
    "FluxControl": "FLUX Depth or Canny: it is conditioned on an image",
}
_HINT = "FLUX.1 dev and schnell can be trained."


def recognise_file(path: Path) -> Recognition | None:
    """A transformer in BFL's or diffusers' names, with or without the other parts; None for another family.

    Raises:
        ModelError: unreadable, or a near relative (FLUX.2, Chroma, Fill, Depth, Canny), or packed weights.
    """
    header = read_header(path)
    if is_lora(header):
        return None
    prefix = COMFY if header.any(COMFY + "double_blocks.") or header.any(COMFY + "single_blocks.") else ""
    bfl = header.any(prefix + "double_blocks.")
    if not bfl and not header.any("single_transformer_blocks."):
        return None
    where = printable(path)
    if header.any(prefix + "distilled_guidance_layer."):
        raise _is_chroma(where)
    if header.any(prefix + "double_stream_modulation_"):
        raise _is_flux2(where)
    stem = prefix + ("img_in.weight" if bfl else "x_embedder.weight")
    needed = (stem, prefix + ("vector_in.in_layer.weight" if bfl else "time_text_embed.text_embedder.linear_1.weight"))
    if missing := [name for name in needed if name not in header.tensors]:
        raise ModelError(
            f"{where} has FLUX's blocks, but not its {missing[0]}: it is another model, or a part.",
            _HINT,
            code="checkpoint-without-parts",
        )
    _check_channels(where, side(path, header, stem, 1))
    check_weights(path, header, prefix)
    guided = header.any(prefix + ("guidance_in." if bfl else "time_text_embed.guidance_embedder."))
    inside = tuple(part for part, start in INSIDE.items() if header.any(start))
    variant, reason = _variant(guided, "guidance_in" if bfl else "guidance_embedder")
    return _recognition(path, "single_file", variant, [header], prefix, header.size, reason, {"inside": inside})


def recognise_folder(folder: Path) -> Recognition | None:
    """A FluxPipeline in diffusers' layout; None for another family.

    Raises:
        ModelError: a part is missing or broken, or it is a near relative.
    """
    index = read_json(folder / "model_index.json") if (folder / "model_index.json").exists() else {}
    pipeline, where = str(index.get("_class_name", "")), printable(folder)
    if pipeline.startswith("Chroma"):
        raise _is_chroma(where)
    if pipeline.startswith("Flux2"):
        raise _is_flux2(where)
    for name, kind in _PIPELINES.items():
        if pipeline.startswith(name):
            raise ModelError(f"{where} is {kind}.", _HINT, code="not-text-to-image")
    if not (folder / "transformer" / "config.json").exists():
        if pipeline.startswith("Flux"):
            raise ModelError(
                f"{where} has a model_index.json but no transformer/config.json.",
                "Fetch the whole folder.",
                code="model-config-missing",
            )
        return None
    config = read_json(folder / "transformer" / "config.json")
    if config.get("_class_name", "FluxTransformer2DModel") != "FluxTransformer2DModel":
        return None
    for part in PARTS:
        read_config(folder / part / "config.json", CONFIGS[part])  # a bad value is reported before missing weights
    _check_channels(where, config.get("in_channels", CHANNELS))
    schedule = folder / "scheduler" / "scheduler_config.json"
    if schedule.is_file():
        read_config(schedule, SCHEDULER)
    headers = {part: part_headers(folder, part) for part in PARTS}
    configs = {part: read_config(folder / part / "config.json", CONFIGS[part], headers[part]) for part in PARTS}
    for number in ("", "_2"):
        check_tokenizer(folder / f"tokenizer{number}", configs[f"text_encoder{number}"].get("vocab_size"))
    variant, reason = _variant(bool(config.get("guidance_embeds")), "guidance_embeds in transformer/config.json")
    size = sum(header.size for files in headers.values() for header in files)
    return _recognition(folder, "diffusers", variant, headers["transformer"], "", size, reason, {"inside": ()})


def _is_chroma(where: str) -> ModelError:
    return ModelError(
        f"{where} is Chroma: another architecture made from FLUX.1 schnell.", _HINT, code="model-is-chroma"
    )


def _is_flux2(where: str) -> ModelError:
    return ModelError(f"{where} is FLUX.2: another architecture.", _HINT, code="model-is-flux2")


def _variant(guided: bool, mark: str) -> tuple[str, str]:
    if guided:
        return "dev", f"FLUX.1 dev: it has a guidance embedding ({mark})"
    return "schnell", f"FLUX.1 schnell: it has no guidance embedding (no {mark})"


def _check_channels(where: str, channels: int) -> None:
    if channels != CHANNELS:
        kind = _RELATIVES.get(channels, "a relative of FLUX made for another task than text to image")
        raise ModelError(
            f"{where} is {kind}: its transformer takes {channels} channels instead of {CHANNELS}.",
            _HINT,
            code="not-text-to-image",
        )


def _recognition(
    path: Path,
    layout: Any,
    variant: str,
    headers: list[Header],
    prefix: str,
    size: int,
    reason: str,
    details: dict[str, Any],
) -> Recognition:
    reasons = (reason, "prediction type flow: FLUX.1 has no other")
    details |= {"variant": variant, "prefix": prefix}
    return Recognition(
        "flux",
        path,
        layout,
        "flow",
        zero_terminal_snr=False,
        dtype=format_of(headers, prefix),
        size=size,
        reasons=reasons,
        details=details,
        downscale=16,
        multiple=16,
        latent_channels=CHANNELS,
        caption_bytes=LENGTHS[variant] * _T5_WIDTH * 2,
    )
