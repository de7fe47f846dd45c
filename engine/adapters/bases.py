"""Recognises the kind of model that an adapter is for, from the names and shapes of its modules. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.adapters.keys import Module, Shapes
from engine.families.registry import family_of_lora, specs

_FOREIGN_UNETS = ("SD 2", "SDXL refiner")
"""Kinds of model whose denoiser is a U-Net and which cannot be trained here."""
UNKNOWN = "unknown"

_CONTEXTS = {768: "SD 1.5", 1024: "SD 2", 1280: "SDXL refiner", 2048: "SDXL"}
"""Width of a U-Net's text embedding."""
_MARKS = (
    (r"double_stream_modulation|attn_to_qkv_mlp_proj|ff_linear_in", "FLUX.2"),
    (r"distilled_guidance_layer", "Chroma"),
    (r"individual_token_refiner|(?:img|txt)_mlp_fc[12]|_mod(?:ulation)?_linear$", "HunyuanVideo"),
)
"""Pattern of a denoiser's module path, with underscores for dots, and its model; tried before our own families'."""
_JOINT = re.compile(r"(?<!\w)transformer_blocks_(\d+)_(?:attn_add_|ff_context)")
"""Blocks of image and text, which SD 3, FLUX and Qwen-Image name alike in diffusers."""
_WIDE, _DOUBLE_BLOCKS = 3072, 19
"""Width of FLUX and of Qwen-Image, and FLUX's number of such blocks; Qwen-Image has 60."""
_MARKS_AFTER = (
    (r"joint_blocks_\d", "SD 3"),
    (r"(?<!\w)transformer_blocks_\d+_(?:img|txt)_(?:mlp|mod)", "Qwen-Image"),
    (_JOINT.pattern, "SD 3"),
    (r"noise_refiner|(?<!\w)layers_\d+_(?:attention_|feed_forward_|adaLN)", "Z-Image"),
    (r"txtfusion|(?<!\w)blocks_\d+_(?:attn_w[qkvo]|mlp_gate)", "Krea 2"),
    (r"llm_adapter|(?<!\w)blocks_\d+_(?:self|cross)_attn_[qkv]_proj|adaln_modulation_self_attn", "Anima"),
    (r"(?<!\w)blocks_\d+_(?:self|cross)_attn_[qkvo]$", "Wan"),
)
"""The same, tried after them."""
_FLUX2_OUTPUTS = ((r"(?:img|txt)_mlp_0$", 6), (r"linear1$", 9))
"""FLUX.2's layers that differ from FLUX.1's only in their sizes: outputs for each input (FLUX.1: 4 and 7)."""
_CONTEXT = re.compile(r"attn2_to_[kv]$")
_FIRST_LEVEL = re.compile(
    r"(?:input_blocks_[12]|output_blocks_(?:9|10|11))_1_|(?:down_blocks_0|up_blocks_3)_attentions_"
)
"""Attention at the first level, which SDXL does not have."""
_LAYER = re.compile(r"te_text_model_encoder_layers_(\d+)_")
_FOREIGN_VERSIONS = {"SD 2": "sd_v2", "SD 3": "sd3"}


def is_unet(base: str) -> bool:
    """Whether the denoiser of a kind of model is a U-Net."""
    family = family_of_lora(base)
    return base in _FOREIGN_UNETS if family is None else family.spec.is_unet


def versions() -> dict[str, str]:
    """Prefix of Kohya's `ss_base_model_version` for each kind of model."""
    own = {spec.lora_base: spec.version_begins for spec in specs() if spec.version_begins}
    return {**own, **_FOREIGN_VERSIONS}


def _marks() -> list[tuple[str, str]]:
    """The patterns in the order in which they are tried."""
    return [*_MARKS, *((mark, spec.lora_base) for spec in specs() for mark in spec.lora_key_patterns), *_MARKS_AFTER]


def base_of(paths: Mapping[str, Module], texts: Mapping[str, Module], shapes: Shapes, version: str = "") -> str:
    """ "SD 1.5", "SDXL", "FLUX", ..., or "unknown".

    Args:
        paths: the denoiser's modules by their path in the model, with underscores for dots.
        texts: the text encoders' modules by prefix ("te", "te1", "te2", "te3", "t5") and path.
        shapes: of the file's tensors.
        version: `ss_base_model_version` of the metadata, which decides where names and shapes are ambiguous: for
            kinds of adapter whose shapes do not give the layers' widths.
    """
    base = next((base for mark, base in _marks() if any(re.search(mark, path) for path in paths)), None)
    if base == "FLUX" and _is_flux2(paths, shapes):
        return "FLUX.2"
    if base == "SD 3" and _WIDE in _widths(paths, _JOINT.pattern, shapes):
        blocks = [int(match[1]) for match in map(_JOINT.search, paths) if match]
        return "FLUX" if max(blocks) < _DOUBLE_BLOCKS else "Qwen-Image"
    if base == "Z-Image" and _widths(paths, r"attention_(?:to_q|qkv)$|feed_forward_w1$", shapes) == {2304}:
        return "Lumina 2"
    if base is not None:
        return base
    return _unet(paths, texts, shapes, version) if paths else _by_text(texts, shapes)


def _is_flux2(paths: Mapping[str, Module], shapes: Shapes) -> bool:
    for path, module in paths.items():
        inputs, outputs = module.inputs(shapes), module.outputs(shapes)
        for end, factor in _FLUX2_OUTPUTS:
            if inputs and re.search(end, path) and outputs == factor * inputs:
                return True
    return False


def _unet(paths: Mapping[str, Module], texts: Mapping[str, Module], shapes: Shapes, version: str) -> str:
    widths = _widths(paths, _CONTEXT.pattern, shapes)
    if len(widths) == 1 and (base := _CONTEXTS.get(next(iter(widths)))):
        return base
    if widths:  # an unknown width; two text encoders still identify SDXL
        return "SDXL" if any(name.startswith("te2_text_model_") for name in texts) else UNKNOWN
    if any(re.search(r"transformer_blocks_[1-9]", path) for path in paths):
        return "SDXL"
    first = any(_FIRST_LEVEL.match(path) for path in paths)
    original = any(path.startswith(("input_blocks_", "output_blocks_")) for path in paths)
    if not first and (original or any(name.startswith("te2_") for name in texts)):
        return "SDXL"  # Kohya uses the original files' block names only for SDXL
    if first and (layers := [int(match[1]) for match in map(_LAYER.match, texts) if match]):
        return "SD 2" if max(layers) > 11 else "SD 1.5"
    return next((base for base, begin in versions().items() if version.startswith(begin) and is_unet(base)), UNKNOWN)


def _by_text(texts: Mapping[str, Module], shapes: Shapes) -> str:
    if any(name.startswith(("te2_encoder_block_", "te3_")) for name in texts):
        return UNKNOWN  # T5 belongs to FLUX and to SD 3
    if any(name.startswith("te2_") for name in texts):
        return "SDXL"
    if not all(name.startswith("te_") for name in texts):
        return UNKNOWN
    widths = _widths(texts, r"self_attn_[kqv]_proj$", shapes)
    return {frozenset({768}): "SD 1.5", frozenset({1024}): "SD 2"}.get(frozenset(widths), UNKNOWN)


def _widths(modules: Mapping[str, Module], end: str, shapes: Shapes) -> set[int]:
    """Input widths of the modules whose path matches `end`."""
    widths = (module.inputs(shapes) for path, module in modules.items() if re.search(end, path))
    return {width for width in widths if width is not None}
