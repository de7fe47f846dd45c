"""Combines several changes of one layer: exactly, or by TIES or DARE."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.adapters.tools.layers import LORA, Layer
from engine.adapters.tools.lora_file import LoraFile
from engine.errors import ModelError
from engine.text import printable

Weighted = tuple[Layer, float]
"""A layer of a file, and the file's weight."""


def concatenate(parts: Sequence[Weighted]) -> Layer:
    """Σ weight · ΔW as one LoRA, exactly: downs stacked, ups side by side with weight · alpha / rank multiplied into
    them, and alpha = Σ r, so that the factor is 1.

    Args:
        parts: all with two factors (`can_concatenate`), of one shape.

    Returns:
        In float32, rank Σ r.
    """
    first = parts[0][0]
    pairs = [(*pair, weight * layer.scale) for layer, weight in parts if (pair := layer.pair()) is not None]
    down = torch.cat([pair[0].reshape(len(pair[0]), *first.shape[1:]) for pair in pairs])
    tail = (1,) * (len(first.shape) - 2)
    up = torch.cat([pair[1].flatten(1) * pair[2] for pair in pairs], dim=1)
    return Layer(first.name, LORA, {"down": down, "up": up.reshape(*up.shape, *tail)}, float(len(down)), first.style)


def can_concatenate(parts: Sequence[Weighted]) -> bool:
    """Whether each part has two factors."""
    return all(layer.pair() is not None for layer, _ in parts)


def weighted_sum(parts: Sequence[Weighted]) -> Tensor:
    """Σ weight · ΔW, float32, in the shape of the first."""
    shape = parts[0][0].shape
    total = torch.zeros(shape)
    for layer, weight in parts:
        total += weight * layer.delta().reshape(shape)
    return total


def ties(parts: Sequence[Weighted], density: float) -> Tensor:
    """TIES (Yadav et al. 2023) on ΔW: of each, the `density` share of largest magnitude is kept; for each number the
    sign of the weighted sum is elected; the result is the weighted mean of the values with that sign.

    Returns:
        Float32, in the shape of the first.
    """
    shape = parts[0][0].shape
    changes = torch.stack([weight * _trimmed(layer.delta().reshape(shape), density) for layer, weight in parts])
    elected = changes.sum(0).sign()
    agreeing = (changes.sign() == elected) & (changes != 0)
    count = agreeing.sum(0).clamp(min=1)
    return (changes * agreeing).sum(0) / count


def _trimmed(change: Tensor, density: float) -> Tensor:
    keep = int(density * change.numel())
    flat = change.flatten()
    chosen = flat.abs().topk(keep).indices
    kept = torch.zeros_like(flat)
    kept[chosen] = flat[chosen]
    return kept.reshape(change.shape)


def dare(parts: Sequence[Weighted], density: float, seed: int) -> Tensor:
    """DARE (Yu et al. 2023) on ΔW: each number is dropped with the probability 1 − density, the others are divided by
    density, then summed with weights. Random only by the seed, the layer's name and the file's position.

    Returns:
        Float32, in the shape of the first.
    """
    shape = parts[0][0].shape
    total = torch.zeros(shape)
    for number, (layer, weight) in enumerate(parts):
        digest = hashlib.sha256(f"{seed} {number} {layer.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        kept = torch.rand(shape, generator=generator) < density
        total += weight * layer.delta().reshape(shape) * kept / density
    return total


def parts_by_layer(
    layers: Sequence[Mapping[str, Layer]], sources: Sequence[LoraFile], weights: Sequence[float]
) -> dict[str, list[Weighted]]:
    """Each layer to its parts, in the order of the files; files of weight 0 have none.

    Args:
        layers: of each file.

    Raises:
        ModelError: a layer has another shape in another file, or there are no parts.
    """
    parts: dict[str, list[Weighted]] = {}
    for own, source, weight in zip(layers, sources, weights, strict=True):
        for name, layer in own.items() if weight else ():
            layer_parts = parts.setdefault(name, [])
            if layer_parts and layer_parts[0][0].matrix_shape != layer.matrix_shape:
                raise ModelError(
                    f"{printable(name)} changes a weight of {list(layer_parts[0][0].shape)}, and in {source.title} "
                    f"one of {list(layer.shape)}.",
                    "The files are for models of different sizes: merge files for one model.",
                    code="loras-of-different-sizes",
                )
            layer_parts.append((layer, weight))
    if not any(weights):
        raise ModelError(
            "All weights are 0, so there is nothing to merge.", "Give other weights: FILE=0.8.", code="all-weights-zero"
        )
    return parts
