"""LyCORIS' presets of layers, in terms of `FamilySpec.parts` (facts: LyCORIS 4.1 `config.py`). Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ENDS = ("convolution", "time")
_BOTH = ("attention", "mlp")


@dataclass(frozen=True)
class LayerPreset:
    """A choice of layers."""

    denoiser: tuple[str, ...]
    """Keys of `FamilySpec.parts`."""
    text: tuple[str, ...] = ()
    """Keys of `engine.families.spec.TEXT_PARTS`."""
    wide: bool = False
    """With convolutions wider than 1x1."""


PRESETS: Mapping[str, LayerPreset] = {
    "full": LayerPreset(("transformer", "resnet", "sampler", *_ENDS), _BOTH, wide=True),
    "full-lin": LayerPreset(("transformer", "resnet", "time"), _BOTH),
    "attn-mlp": LayerPreset(("transformer",), _BOTH),
    "attn-only": LayerPreset(("attention",), ("attention",)),
    "unet-only": LayerPreset(("transformer", "resnet", "sampler", *_ENDS), wide=True),
    "unet-transformer-only": LayerPreset(("transformer",)),
    "unet-convblock-only": LayerPreset(("resnet", "sampler", "convolution"), wide=True),
    "ia3": LayerPreset(("values",), ("values",)),
}
"""By the name of `network.preset`."""
CONVOLUTIONAL = frozenset({"resnet", "sampler"})
"""Parts whose layers a run without convolutions does not train."""
