"""Applies a module of a file to a loaded layer, by hooks that add to its output; the layer's weight is not changed.

A plain LoRA is added in the order of peft's own forward, in float32; any other kind by its ΔW.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.adapters.kinds.base import AdapterKind, Parts
from engine.adapters.weights import NORMS, apply_norm, apply_weight, joined_weight, shape_of


def apply_module(kind: AdapterKind, parts: Parts, layers: Sequence[nn.Module]) -> None:
    """Apply a module of a file to layers at strength 1, permanently.

    Args:
        parts: the tensors by role, in float32.

    Raises:
        RuntimeError: the shapes do not fit.
    """
    changes = changes_of(kind, parts, layers)
    if changes is None:
        raise RuntimeError(f"the shapes of a {kind.name} are not those of its layer")
    for layer, change in zip(layers, changes, strict=True):
        hooked = HookedLayer(layer, [1.0])
        hooked.changes.append((0, change))
        layer.register_forward_hook(hooked.hook)


@dataclass(eq=False)
class HookedLayer:
    """One layer and the changes of the files."""

    module: nn.Module
    strengths: Sequence[float]
    """Of each file; shared with `AppliedLoras`, which changes them."""

    def __post_init__(self) -> None:
        self.changes: list[tuple[int, Change]] = []
        """(number of the file, what it changes)."""

    def hook(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """What the layer gives with all files at their strengths."""
        result = output
        for number, change in self.changes:
            if strength := self.strengths[number]:
                result = result + change.of(module, inputs[0], strength)
        return result.to(output.dtype)


class Change(ABC):
    """The contribution of one module of a file to the output of one layer."""

    @abstractmethod
    def of(self, layer: nn.Module, x: Tensor, strength: float) -> Tensor:
        """The term to add to the layer's output for the input `x`."""


class _LowRank(Change):
    """A plain LoRA: up(down(x)) · scale, in float32 as peft's layers compute it.

    The matrices are parameters, as in peft: where a matrix requires no gradient, torch.matmul folds the axes of its
    input by another rule, and so rounds differently.

    Args:
        down: [r, in] or [r, in, k, k].
        up: the layer's rows, [out, r] or [out, r, 1, 1].
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        self._down, self._up, self._scale = nn.Parameter(down), nn.Parameter(up), scale

    def of(self, layer: nn.Module, x: Tensor, strength: float) -> Tensor:
        """See `Change.of`."""
        if self._down.device != x.device:
            self._down, self._up = (nn.Parameter(half.to(x.device)) for half in (self._down, self._up))
        hidden = apply_weight(layer, x.to(self._down.dtype), self._down)
        linear = self._up.ndim == 2
        added = functional.linear(hidden, self._up) if linear else functional.conv2d(hidden, self._up)
        return added * (self._scale * strength)


class _Matrix(Change):
    """Any kind, by its ΔW, which is recomputed each time: together they are as large as the model.

    Args:
        layers: all layers of the module; their rows, stacked, are those of ΔW.
        rows: those of the layer.
    """

    def __init__(self, kind: AdapterKind, parts: Parts, layers: Sequence[nn.Module], rows: slice) -> None:
        self._kind, self._parts, self._layers, self._rows = kind, parts, layers, rows

    def of(self, layer: nn.Module, x: Tensor, strength: float) -> Tensor:
        """See `Change.of`."""
        self._parts = {role: tensor.to(x.device) for role, tensor in self._parts.items()}
        added = apply_weight(layer, x, (self._delta(x.device)[self._rows] * strength).to(x.dtype))
        bias = self._parts.get("diff_b")
        if bias is None:
            return added
        bias_rows = (bias.flatten()[self._rows] * strength).to(x.dtype)
        return added + (bias_rows if isinstance(layer, nn.Linear) else bias_rows.reshape(1, -1, 1, 1))

    def _delta(self, device: torch.device) -> Tensor:
        """[out, in] or [out, in, k, k] float32."""
        first = shape_of(self._layers[0])
        shape = (sum(shape_of(layer)[0] for layer in self._layers), *first[1:])
        if "diff_b" in self._parts and "diff" not in self._parts:
            return torch.zeros(shape, device=device)
        return self._kind.delta(self._parts, lambda: self._weight(device)).reshape(shape)

    def _weight(self, device: torch.device) -> Tensor:
        """The joined weight of all layers."""
        return joined_weight(self._layers).to(device)

    def fits(self) -> bool:
        """Whether the tensors fit these layers; computes ΔW once, on meta tensors."""
        outputs = sum(shape_of(layer)[0] for layer in self._layers)
        bias = self._parts.get("diff_b")
        if bias is not None and bias.numel() != outputs:
            return False
        parts = self._parts
        try:
            self._parts = {role: _to_meta(role, tensor) for role, tensor in parts.items()}
            shape = (outputs, *shape_of(self._layers[0])[1:])
            if "diff" in parts or "diff_b" not in parts:
                self._kind.delta(self._parts, lambda: torch.empty(shape, device="meta")).reshape(shape)
        except (RuntimeError, IndexError):
            return False
        finally:
            self._parts = parts
        return True


class _OfNorm(Change):
    """Differences of the weight and the bias of a norm layer, in float32.

    Args:
        bias: None: it is not changed.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, torch.zeros_like(weight) if bias is None else bias

    def of(self, layer: nn.Module, x: Tensor, strength: float) -> Tensor:
        """See `Change.of`."""
        self._weight, self._bias = self._weight.to(x.device), self._bias.to(x.device)
        return apply_norm(layer, x.float(), self._weight * strength, self._bias * strength)


def _norm_change(parts: Parts, layer: nn.Module) -> list[Change] | None:
    weight, bias = parts.get("w_norm"), parts.get("b_norm")
    shape = shape_of(layer)
    if weight is None or any(part is not None and tuple(part.shape) != shape for part in (weight, bias)):
        return None
    return [_OfNorm(weight, bias)]


def _to_meta(role: str, tensor: Tensor) -> Tensor:
    """The tensor on the meta device; single numbers, whose values the formulas read, are kept."""
    return tensor if role in ("alpha", "scale", "on_input") else tensor.to("meta")


def changes_of(kind: AdapterKind, parts: Parts, layers: Sequence[nn.Module]) -> list[Change] | None:
    """A module's change of each of its layers; None where the shapes do not fit."""
    if isinstance(layers[0], NORMS):
        return _norm_change(parts, layers[0])
    heights = [shape_of(layer)[0] for layer in layers]
    starts = [0, *accumulate(heights)]
    try:
        pair = kind.low_rank(parts)
    except RuntimeError:  # factors that do not fit each other
        return None
    if pair is None:
        matrices = [_Matrix(kind, parts, layers, slice(*ends)) for ends in pairwise(starts)]
        return list(matrices) if matrices[0].fits() else None
    (down, up), shape = pair, shape_of(layers[0])
    rank = down.shape[0]
    shapes = ((rank, *shape[1:]), (sum(heights), rank, *(1 for _ in shape[2:])))
    if down.numel() != _count(shapes[0]) or up.numel() != _count(shapes[1]):
        return None
    # Copies: a file's tensors are not aligned in memory, and libraries compute with those in another order.
    down, up = down.reshape(shapes[0]).clone(), up.reshape(shapes[1])
    return [_LowRank(down, rows.clone(), kind.scale(parts)) for rows in torch.split(up, heights)]


def _count(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
