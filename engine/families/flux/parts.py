"""FLUX's transformer, VAE and text encoders as sources for the loader, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from engine.families.flux.files import PartFiles
from engine.families.flux.lean import use_lean_attention
from engine.families.flux.names import bfl_place
from engine.families.flux.sizes import fitted
from engine.families.unet.names import vae_name
from engine.families.unet.parts import build_clip, build_vae, folder_places, plain
from engine.models.files import read_json
from engine.models.loading import KeyCandidates, PartSource, TensorSource
from engine.paths import ASSETS

CONFIGURATIONS = ASSETS / "flux"


class HeadNorm(nn.RMSNorm):
    """The norm of queries and keys, [..., width], in their dtype: it computes in fp32 internally.

    From torch 2.13 on autocast would make the output fp32, and so also the attention and its saved activations.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def build_transformer(config: Mapping[str, Any]) -> Any:
    """diffusers' FLUX transformer."""
    module_class: Any = FluxTransformer2DModel
    transformer = module_class.from_config(plain(config))
    for module in transformer.modules():
        if type(module) is nn.RMSNorm:
            module.__class__ = HeadNorm
    use_lean_attention(transformer)
    return transformer


def build_t5(config: Mapping[str, Any]) -> Any:
    """transformers' T5 without its decoder."""
    return T5EncoderModel(T5Config(**plain(config)))


BUILDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "transformer": build_transformer,
    "vae": build_vae,
    "text_encoder": build_clip,
    "text_encoder_2": build_t5,
}


def source_of(part: str, part_files: PartFiles) -> PartSource:
    """One part, with a folder's configuration, or the shipped one with the sizes from the file's shapes.

    Raises:
        ModelError: the shapes are not those of the part.
    """
    config = dict(part_files.config) if part_files.config is not None else _configuration(part, part_files)
    return PartSource(
        BUILDERS[part],
        config,
        part_files.files,
        lambda keys: _places(part, keys, part_files, config),
        (part_files.prefix,),
    )


def _configuration(part: str, part_files: PartFiles) -> dict[str, Any]:
    cut = len(part_files.prefix)
    shapes = {name: shape for header in part_files.headers for name, shape in header.shapes.items()}
    own = {name[cut:]: shape for name, shape in shapes.items() if name.startswith(part_files.prefix)}
    return fitted(part, read_json(CONFIGURATIONS / part / "config.json"), own)


def _places(part: str, keys: Sequence[str], part_files: PartFiles, config: Mapping[str, Any]) -> KeyCandidates:
    """The place of each tensor of the part, in the naming of its files."""
    prefix = part_files.prefix
    if part == "transformer" and part_files.any("double_blocks."):
        width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
        places = {key: bfl_place(key, width) for key in keys}
        return {
            key: [TensorSource(prefix + name, rows=rows, swapped=swapped)]
            for key, (name, rows, swapped) in places.items()
        }
    if part == "text_encoder_2":
        shared = [TensorSource(f"{prefix}shared.weight"), TensorSource(f"{prefix}encoder.embed_tokens.weight")]
        tied = ("shared.weight", "encoder.embed_tokens.weight")
        return {key: shared if key in tied else [TensorSource(prefix + key)] for key in keys}
    if part == "vae" and not part_files.any("encoder.down_blocks."):
        return {key: [TensorSource(prefix + vae_name(key, config))] for key in keys}
    return {
        key: [TensorSource(prefix + place.name) for place in places]
        for key, places in folder_places(part, keys).items()
    }
