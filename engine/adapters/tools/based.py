"""Layers of a file beside a checkpoint: weights for the kinds whose ΔW depends on them, norm layers, biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.adapters.kinds.norm import Norm
from engine.adapters.tools.checkpoint import Checkpoint, WeightLayer, layer_weight
from engine.adapters.tools.combine import Weighted
from engine.adapters.tools.layers import FULL, Layer, StackedLayer
from engine.adapters.tools.lora_file import BIAS, LoraFile
from engine.errors import ModelError
from engine.text import listing, printable

Handles = Mapping[str, Mapping[str, Any]]
"""As `checkpoint.opened` gives them."""
_OF_NORM = {"w_norm": "weight", "b_norm": "bias"}
_DIFF = "diff"


@dataclass(frozen=True)
class BasedFile:
    """The changes of a file, each of a weight or a vector of a checkpoint."""

    weights: dict[str, Layer] = field(default_factory=dict)
    """By Kohya's name; those that need a weight have it."""
    vectors: dict[str, Layer] = field(default_factory=dict)
    """Full differences [n] of norm layers and biases, by the names of `Checkpoint.vectors`."""
    missing: list[str] = field(default_factory=list)
    """Layers that need a weight and are not in the checkpoint."""


def based(source: LoraFile, checkpoint: Checkpoint, handles: Handles) -> BasedFile:
    """The layers of a file that was read with `any_kind`.

    Raises:
        ModelError: a layer does not fit the weight that it needs.
    """
    result = BasedFile()
    for name, layer in source.layers.items():
        if layer.kind == Norm.name:
            result.vectors.update({
                f"{name}.{end}": _vector(f"{name}.{end}", layer.factors[role])
                for role, end in _OF_NORM.items()
                if role in layer.factors
            })  # fmt: skip
            continue
        if BIAS in layer.factors:
            result.vectors[f"{name}.bias"] = _vector(f"{name}.bias", layer.factors[BIAS])
            layer = _without_bias(layer)
            if not layer.factors:
                continue
        if not layer.adapter.needs_weight:
            result.weights[name] = layer
        elif name in checkpoint.layers:
            result.weights[name] = _with_weight(layer, checkpoint.layers[name], handles)
        else:
            result.missing.append(name)
    return result


def _vector(name: str, change: Tensor) -> Layer:
    return Layer(name, FULL, {_DIFF: change.flatten()})


def _without_bias(layer: Layer) -> Layer:
    return replace(layer, factors={role: tensor for role, tensor in layer.factors.items() if role != BIAS})


def _with_weight(layer: Layer, target: WeightLayer, handles: Handles) -> Layer:
    read: Callable[[], Tensor] = partial(layer_weight, target, handles)
    if not isinstance(layer, StackedLayer):
        return replace(layer, weight=read)
    members, start = list[Layer | None](), 0
    for member, width in zip(layer.members, layer.widths, strict=True):
        rows = slice(start, start + width)
        members.append(None if member is None else replace(member, weight=partial(_rows, read, rows)))
        start = rows.stop
    return replace(layer, members=tuple(members))


def _rows(read: Callable[[], Tensor], rows: slice) -> Tensor:
    return read()[rows]


def fitting_layers(
    layers: Mapping[str, WeightLayer],
    parts: Mapping[str, Sequence[Weighted]],
    only: str | None,
    target: Path,
    missing: Sequence[str],
) -> tuple[dict[str, Sequence[Weighted]], list[str]]:
    """The layers that the target has, and the names of the others.

    Args:
        missing: layers that are not in the checkpoint, and have no part therefore.

    Raises:
        ModelError: it has none, or one in another shape.
    """
    fitting = {
        name: layer_parts
        for name, layer_parts in parts.items()
        if name in layers and only in (None, layers[name].component)
    }
    if not fitting:
        raise ModelError(
            f"No layer of the files is in {printable(target)}; they have {listing([*parts, *missing], 2)}.",
            "Merge into the kind of model that the files were trained on.",
            code="lora-without-modules",
        )
    for name, layer_parts in fitting.items():
        out, *rest = layers[name].shape
        flat = 1
        for side in rest:
            flat *= side
        if layer_parts[0][0].matrix_shape != (out, flat):
            raise ModelError(
                f"{name} changes a weight of {list(layer_parts[0][0].shape)}, and in {printable(target)} it is "
                f"{list(layers[name].shape)}.",
                "The files are for a model of another size.",
                code="lora-of-other-size",
            )
    return fitting, [printable(name) for name in (*parts, *missing) if name not in fitting]
