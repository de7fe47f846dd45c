"""Generation data in a PNG file, in the formats that A1111 and ComfyUI read. Loads no torch.

A1111 (and Forge, and most viewers) read the text chunk `parameters`: the prompt, `Negative prompt: …`, and a last line
of `Key: value` pairs with commas between them (`modules/infotext_utils.py`). ComfyUI reads the chunk `prompt`: a
workflow in its API format, a JSON table of nodes in which ["4", 0] is the first output of node "4".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from engine import __version__
from engine.adapters.metadata import model_hashes
from engine.config import RunConfig
from engine.errors import ModelError
from engine.families.registry import family_named
from engine.models.header import read_header
from engine.types import Recognition, SampleRequest

A1111_SAMPLERS = {
    "ddim": "DDIM",
    "pndm": "PLMS",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm_2": "DPM2",
    "dpm_2_a": "DPM2 a",
    "dpmsolver": "DPM++ 2M",
    "dpmsolver++": "DPM++ 2M",
    "dpmsingle": "DPM++ 2M",
}
"""Kohya's sampler names to A1111's; it has neither dpmsolver nor dpmsingle, and DPM++ 2M is closest to both."""
COMFYUI_SAMPLERS = {
    "ddim": ("ddim", "ddim_uniform"),
    "pndm": ("ipndm", "normal"),
    "lms": ("lms", "normal"),
    "euler": ("euler", "normal"),
    "euler_a": ("euler_ancestral", "normal"),
    "heun": ("heun", "normal"),
    "dpm_2": ("dpm_2", "normal"),
    "dpm_2_a": ("dpm_2_ancestral", "normal"),
    "dpmsolver": ("dpmpp_2m", "normal"),
    "dpmsolver++": ("dpmpp_2m", "normal"),
    "dpmsingle": ("dpmpp_2m", "normal"),
}
"""Kohya's sampler names to ComfyUI's sampler and scheduler."""
_LORA_HASH, _MODEL_HASH = 12, 10
"""Hexadecimal digits that A1111 shows of a hash."""


@dataclass(frozen=True)
class LoraUse:
    """A LoRA file that an image was generated with."""

    file: str
    """Its name with the ending."""
    strength: float
    digest: str = ""
    """`sshs_model_hash`: SHA-256 of the tensors in hexadecimal digits; empty where the file has none."""

    @property
    def name(self) -> str:
        """Its name in a prompt."""
        return self.file.removesuffix(".safetensors")

    @classmethod
    def of(cls, path: Path, strength: float) -> LoraUse:
        """From a file on disk.

        Raises:
            ModelError: it is not a safetensors file.
        """
        digest = read_header(path).metadata.get("sshs_model_hash", "").strip().lower()
        return cls(path.name, strength, digest.removeprefix("0x"))


@dataclass(frozen=True)
class BaseModel:
    """The base model, as far as other programs need to know it."""

    family: str
    """`Family.name`."""
    file: str
    """Name of the checkpoint's file or folder."""
    digest: str = ""
    """SHA-256 of the file; a folder has none."""
    clip_skip: int = 1
    v_prediction: bool = False
    zero_snr: bool = False
    companions: Mapping[str, str] = field(default_factory=dict)
    """Dotted key -> name of the file (`FamilySpec.companions`)."""
    merged: Sequence[LoraUse] = ()
    """The LoRA files that were merged into it (`model.base_weights`)."""

    @classmethod
    def of(cls, recognition: Recognition, digest: str | None, config: RunConfig) -> BaseModel:
        """From a recognised checkpoint, its `digest` (`hash_of`), and the settings."""
        spec = family_named(recognition.family).spec
        return cls(
            recognition.family,
            recognition.path.name,
            digest or "",
            config.model.clip_skip or 1,
            recognition.prediction_type == "v_prediction",
            recognition.zero_terminal_snr,
            {key: Path(path).name for key in spec.companions if (path := config.value(key))},
            [_use(Path(name), strength) for name, strength in config.model.merged],
        )


def _use(path: Path, strength: float) -> LoraUse:
    """A file that was read before; without its hash if it is gone."""
    try:
        return LoraUse.of(path, strength)
    except ModelError:
        return LoraUse(path.name, strength)


def hash_of(model: Path) -> str | None:
    """SHA-256 of a checkpoint's file, which takes seconds; None for a folder or an unreadable file."""
    try:
        return model_hashes(model)[1]
    except OSError:
        return None


def png_info(request: SampleRequest, size: tuple[int, int], base: BaseModel, loras: Sequence[LoraUse]) -> PngInfo:
    """The text chunks of an image of `size` (width, height) px; see `parameters` and `workflow`."""
    info = PngInfo()
    text = parameters(request, size, base, loras)
    if text.isascii():
        info.add_text("parameters", text)
    else:
        info.add_itxt("parameters", text)
    info.add_text("prompt", json.dumps(workflow(request, size, base, loras)))
    return info


def parameters(request: SampleRequest, size: tuple[int, int], base: BaseModel, loras: Sequence[LoraUse]) -> str:
    """A1111's text: the prompt with `<lora:NAME:STRENGTH>`, the negative prompt, and the settings on the last line."""
    loras = [*base.merged, *loras]
    tags = "".join(f" <lora:{lora.name}:{lora.strength:g}>" for lora in loras)
    drawing = family_named(base.family).spec.inference
    sampler, schedule = drawing.a1111_sampler or (A1111_SAMPLERS.get(_plain(request.sampler), request.sampler), None)
    hashes = ", ".join(f"{lora.name}: {lora.digest[:_LORA_HASH]}" for lora in loras if lora.digest)
    values = {
        "Steps": request.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": f"{request.scale:g}",
        "Distilled CFG Scale": f"{request.guidance:g}" if drawing.comfyui_guidance else None,
        "Seed": request.seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model hash": base.digest[:_MODEL_HASH] or None,
        "Model": base.file.removesuffix(".safetensors"),
        "Clip skip": base.clip_skip if base.clip_skip > 1 else None,
        "Lora hashes": hashes or None,
        "Version": f"LoRA Smith {__version__}",
    }
    last = ", ".join(f"{key}: {_quoted(value)}" for key, value in values.items() if value is not None)
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{tags}".lstrip() + f"{negative}\n{last}"


def _plain(sampler: str) -> str:
    return sampler.removeprefix("k_")


def _quoted(value: object) -> str:
    """In JSON's quotes if the value contains a separator, as A1111 writes it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


class _Workflow:
    """ComfyUI's nodes in the order in which they are added."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}

    def add(self, kind: str, **inputs: Any) -> str:
        """Add a node and return its number, for the inputs of other nodes."""
        number = str(len(self.nodes) + 1)
        self.nodes[number] = {"class_type": kind, "inputs": inputs}
        return number


def workflow(
    request: SampleRequest, size: tuple[int, int], base: BaseModel, loras: Sequence[LoraUse]
) -> dict[str, dict[str, Any]]:
    """ComfyUI's nodes in API format, as close to the image as possible: ComfyUI's noise comes from another generator,
    so the same seed gives another image there."""
    graph = _Workflow()
    model, clip, vae = _loaded(graph, base)
    for lora in (*base.merged, *loras):
        number = graph.add("LoraLoader", lora_name=lora.file, strength_model=lora.strength,
                           strength_clip=lora.strength, model=model, clip=clip)  # fmt: skip
        model, clip = [number, 0], [number, 1]
    if base.v_prediction:
        model = [graph.add("ModelSamplingDiscrete", sampling="v_prediction", zsnr=base.zero_snr, model=model), 0]
    if base.clip_skip > 1:
        clip = [graph.add("CLIPSetLastLayer", stop_at_clip_layer=-base.clip_skip, clip=clip), 0]
    positive = [graph.add("CLIPTextEncode", text=request.prompt, clip=clip), 0]
    negative = [graph.add("CLIPTextEncode", text=request.negative_prompt, clip=clip), 0]
    drawing = family_named(base.family).spec.inference
    if drawing.comfyui_guidance:
        positive = [graph.add(drawing.comfyui_guidance, guidance=request.guidance, conditioning=positive), 0]
    latent = [graph.add(drawing.comfyui_latent, width=size[0], height=size[1], batch_size=1), 0]
    sampler, scheduler = drawing.comfyui_sampler or COMFYUI_SAMPLERS[_plain(request.sampler)]
    sampled = graph.add("KSampler", seed=request.seed, steps=request.steps, cfg=request.scale, sampler_name=sampler,
                      scheduler=scheduler, denoise=1.0, model=model, positive=positive, negative=negative,
                      latent_image=latent)  # fmt: skip
    image = graph.add("VAEDecode", samples=[sampled, 0], vae=vae)
    graph.add("SaveImage", filename_prefix="LoRA_Smith", images=[image, 0])
    return graph.nodes


_Output = list[Any]
"""[number of a node, number of its output]."""


def _loaded(graph: _Workflow, base: BaseModel) -> tuple[_Output, _Output, _Output]:
    """The model, the text encoders and the VAE."""
    files = family_named(base.family).spec.inference.comfyui_files
    if files is None:
        number = graph.add("CheckpointLoaderSimple", ckpt_name=base.file)
        return [number, 0], [number, 1], [number, 2]
    model = graph.add("UNETLoader", unet_name=base.file, weight_dtype="default")
    texts = [base.companions.get(key) or default for key, default in files.text.items()]
    inputs = {f"clip_name{number}" if len(texts) > 1 else "clip_name": text for number, text in enumerate(texts, 1)}
    clip = graph.add(files.text_node, **inputs, type=files.kind)
    key, default = files.vae
    return [model, 0], [clip, 0], [graph.add("VAELoader", vae_name=base.companions.get(key) or default), 0]
