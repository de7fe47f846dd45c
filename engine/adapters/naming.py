"""Finds the layer of a model that a LoRA file's module belongs to, in any naming, and diffusers' name of it. Loads no
torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.adapters.bases import UNKNOWN, versions
from engine.adapters.formats import Format, place_of
from engine.families.layer_names import DENOISER, Address, LayerNames, dotted
from engine.families.registry import family_of_lora, module_tables, specs
from engine.families.spec import FamilySpec, TextEncoder

_USUAL = {
    DENOISER: "denoiser",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lora_te_": "text_encoder",
}
"""Kohya's prefixes to components, for models without a table here."""
_NO_NUMBER = "lora_te_"
"""Kohya's prefix of the text encoder of a model with only one."""
_OLD_ATTENTION = re.compile(r"_self_attn_to_(q|k|v|out)$")
"""The end of a text encoder's layer in diffusers' names of before 0.18."""


def base_for(lora: Format, metadata: Mapping[str, str]) -> str:
    """The kind of model; for one of an unusual size (a small one) from the metadata or the names alone."""
    tables = module_tables()
    if lora.base in tables or lora.base != UNKNOWN:
        return lora.base
    version = metadata.get("ss_base_model_version", "")
    for base, begins in versions().items():
        if base in tables and version.startswith(begins):
            return base
    counts = {base: sum(place is not None for place in addresses(lora, base).values()) for base in tables}
    if any(name.startswith(_NO_NUMBER) for name in lora.modules):
        numbered = [spec for spec in specs() if all(encoder.prefix != _NO_NUMBER for encoder in spec.encoders)]
        counts |= {spec.lora_base: 0 for spec in numbered if spec.is_unet}
    best = max(counts, key=lambda base: counts[base])
    return best if counts[best] else UNKNOWN


def _spec(base: str) -> FamilySpec | None:
    family = family_of_lora(base)
    return None if family is None else family.spec


def _encoders(base: str) -> tuple[TextEncoder, ...]:
    spec = _spec(base)
    return () if spec is None else spec.encoders


def layer_names(base: str) -> LayerNames | None:
    """The names of the denoiser's layers; None for a kind of model without a table here."""
    spec = _spec(base)
    return None if spec is None else spec.layers


def addresses(lora: Format, base: str) -> dict[str, Address | None]:
    """Each module of a file to its layer; None where the family has no such layer, or no table here."""
    return {name: _address(name, base) for name in lora.modules}


def _address(name: str, base: str) -> Address | None:
    layers = layer_names(base)
    if layers is None:
        return None
    part, path = place_of(name)
    if part == "denoiser" and (text := re.fullmatch(r"(?:text_model_)?(encoder_layers_.+)", path)):
        part, path = "te1", f"text_model_{text[1]}"  # peft's files do not name the component
    if part == "denoiser":
        return layers.address(path)
    encoder = next((encoder for encoder in _encoders(base) if part in encoder.aliases), None)
    if encoder is None:
        return None
    path = f"text_model_{path}" if path.startswith("encoder_layers_") else path
    path = _OLD_ATTENTION.sub(r"_self_attn_\1_proj", path)
    place = layers.table.resolve(encoder.prefix + path)
    return None if place is None else Address(place)


def prefix_of(layer: str) -> str:
    """ "lora_unet_", "lora_te1_", …; empty for a name that is not Kohya's."""
    return next((prefix for prefix in _USUAL if layer.startswith(prefix)), "")


def component_of(layer: str, base: str) -> str:
    """diffusers' name of the component that a layer is in: "unet", "text_encoder_2"; "other" for other names."""
    spec, prefix = _spec(base), prefix_of(layer)
    if spec is None:
        return _USUAL.get(prefix, "other")
    if prefix == DENOISER:
        return spec.denoiser
    return next((encoder.component for encoder in spec.encoders if encoder.prefix == prefix), "other")


def comfy_name(layer: str, base: str) -> str | None:
    """ComfyUI's own name of Kohya's `layer`: "diffusion_model.input_blocks.4.1.proj_in",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1". None for no layer of this family."""
    layers, prefix = layer_names(base), prefix_of(layer)
    if layers is None or layers.table.resolve(layer) is None:
        return None
    if prefix == DENOISER:
        path = layers.original(layer)
        return None if path is None else f"diffusion_model.{path}"
    encoder = next((encoder for encoder in _encoders(base) if encoder.prefix == prefix), None)
    if encoder is None or not encoder.comfy:
        return None
    path = dotted(layer.removeprefix(prefix), encoder.words)
    return None if path is None else f"text_encoders.{encoder.comfy}.transformer.{path}"


def diffusers_paths(layer: str, base: str) -> tuple[str, ...] | None:
    """diffusers' modules of Kohya's `layer`, in the order of its rows, without the component's name.

    Returns:
        ("down_blocks.0.attentions.0.proj_in",), or several for a fused layer; None for no layer of this family.
    """
    layers, prefix = layer_names(base), prefix_of(layer)
    if layers is None or layers.table.resolve(layer) is None:
        return None
    if prefix == DENOISER:
        return layers.paths(layer)
    encoder = next((encoder for encoder in _encoders(base) if encoder.prefix == prefix), None)
    path = None if encoder is None else dotted(layer.removeprefix(prefix), encoder.words)
    return None if path is None else (path,)
