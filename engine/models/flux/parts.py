"""FLUX's transformer, VAE and text encoders as sources for the loader, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from engine.models.files import read_json
from engine.models.flux.files import PartFiles
from engine.models.flux.names import bfl_place
from engine.models.flux.sizes import fitted
from engine.models.ldm.names import vae_name
from engine.models.ldm.parts import build_clip, build_vae, folder_places, plain
from engine.models.loading import Candidates, Source, Where
from engine.paths import ASSETS

CONFIGURATIONS = ASSETS / "flux"


class HeadNorm(nn.RMSNorm):
    """The norm of queries and keys, [..., width] in the dtype that they have: it computes in fp32 by itself.

    From torch 2.13 on autocast would give fp32, and the attention's result, with all that is kept of it, would follow.
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


def source_of(part: str, found: PartFiles) -> Source:
    """One part, with a folder's configuration, or the shipped one with the sizes that the file's shapes tell.

    Raises:
        ModelError: the shapes are not those of the part.
    """
    config = dict(found.config) if found.config is not None else _configuration(part, found)
    return Source(BUILDERS[part], config, found.files, lambda keys: _places(part, keys, found, config), (found.prefix,))


def _configuration(part: str, found: PartFiles) -> dict[str, Any]:
    cut = len(found.prefix)
    shapes = {name: shape for header in found.headers for name, shape in header.shapes.items()}
    own = {name[cut:]: shape for name, shape in shapes.items() if name.startswith(found.prefix)}
    return fitted(part, read_json(CONFIGURATIONS / part / "config.json"), own)


def _places(part: str, keys: Sequence[str], found: PartFiles, config: Mapping[str, Any]) -> Candidates:
    """Where each tensor of the part stands, in the naming that the files have."""
    prefix = found.prefix
    if part == "transformer" and found.any("double_blocks."):
        width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
        places = {key: bfl_place(key, width) for key in keys}
        return {
            key: [Where(prefix + name, rows=rows, swapped=swapped)] for key, (name, rows, swapped) in places.items()
        }
    if part == "text_encoder_2":
        shared = [Where(f"{prefix}shared.weight"), Where(f"{prefix}encoder.embed_tokens.weight")]
        tied = ("shared.weight", "encoder.embed_tokens.weight")
        return {key: shared if key in tied else [Where(prefix + key)] for key in keys}
    if part == "vae" and not found.any("encoder.down_blocks."):
        return {key: [Where(prefix + vae_name(key, config))] for key in keys}
    return {key: [Where(prefix + place.name) for place in places] for key, places in folder_places(part, keys).items()}
