"""Layers wrapped with an adapter of any kind, computed from the kind's ΔW."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.kinds.base import Parts
from engine.adapters.kinds.formula import Formula, Size
from engine.adapters.modules import AdapterModule, checked_tensors
from engine.adapters.weights import apply_weight, joined_weight, shape_of
from engine.types import LoraTarget


class AdaptedLayer(nn.Module):
    """base(x) + x · ΔWᵀ, the second term in float32; ΔW is recomputed in each pass.

    Args:
        adapter: the trained tensors by role, of all layers of the module together.
        layers: those layers; their rows, stacked, are those of ΔW.
        rows: those of `base_layer`.
    """

    def __init__(
        self, kind: Formula, base_layer: nn.Module, adapter: nn.ParameterDict, layers: _Group, rows: slice
    ) -> None:
        super().__init__()
        self.base_layer, self.adapter = base_layer, adapter
        self.kind, self.group, self.rows = kind, layers, rows
        self.cast_input_dtype_enabled = True
        """For passes without autocast; see `AdapterNetwork.rely_on_autocast`. The adapter's part is always float32."""

    @property
    def weight(self) -> Tensor:
        """The layer's own weight: models read its dtype."""
        return self.base_layer.weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The layer's own bias."""
        return self.base_layer.bias  # type: ignore[return-value]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output with the adapter."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        with torch.autocast(x.device.type, enabled=False):
            change = self.group.delta(self.kind, dict(self.adapter.items()))[self.rows]
            added = apply_weight(self.base_layer, x.float(), change)
        return result + added.to(result.dtype)


class _Group:
    """The layers of one module, hidden from torch's tree of modules, which already contains them."""

    def __init__(self, layers: Sequence[nn.Module], alpha: float) -> None:
        self.layers, self.alpha = list(layers), alpha

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the joined weight of all layers."""
        return sum(shape_of(layer)[0] for layer in self.layers), *shape_of(self.layers[0])[1:]

    def delta(self, kind: Formula, adapter: Parts) -> Tensor:
        """ΔW of all layers, with its gradient."""
        parts = {**adapter, "alpha": torch.tensor(self.alpha)}
        return kind.delta(parts, lambda: joined_weight(self.layers)).reshape(self.shape)


class LayeredModule(AdapterModule):
    """The adapter of one or several `AdaptedLayer`."""

    def __init__(self, kind: Formula, target: LoraTarget, layers: tuple[AdaptedLayer, ...], size: Size) -> None:
        self.target, self.layers = target, layers
        self._kind, self._size = kind, size

    @property
    def _group(self) -> _Group:
        group: _Group = self.layers[0].group
        return group

    @property
    def _adapter(self) -> dict[str, nn.Parameter]:
        return dict(self.layers[0].adapter.items())

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._adapter.values())

    @property
    def outer(self) -> list[nn.Parameter]:
        return [parameter for role, parameter in self._adapter.items() if role in self._kind.outer]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {**self._kind.shapes(self._group.shape, self._size), "alpha": ()}
        return {end: shapes[role] for role, end in self._kind.written.items()}

    @property
    def alpha(self) -> float:
        return self._group.alpha

    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        values = self._kind.initial(self._group.shape, self._size, generator)
        adapter = nn.ParameterDict({role: nn.Parameter(value.to(device)) for role, value in values.items()})
        for layer in self.layers:
            layer.adapter = adapter

    def state(self) -> dict[str, Tensor]:
        tensors = {**self._adapter, "alpha": torch.tensor(self.alpha)}
        return {end: tensors[role].detach() for role, end in self._kind.written.items()}

    @torch.no_grad()
    def load(self, parts: Mapping[str, Tensor]) -> None:
        needed = {end: shape for end, shape in self.shapes.items() if self._kind.written.get("alpha") != end}
        values = checked_tensors(self.target.kohya_name, parts, needed)
        for role, parameter in self._adapter.items():
            parameter.copy_(values[self._kind.written[role]])
        end = self._kind.written.get("alpha")
        if end is not None:
            self._group.alpha = float(parts[end]) if end in parts else float(self._size.rank)

    def squared_norm(self) -> Tensor:
        return self._group.delta(self._kind, self._adapter).square().sum()

    def shrink(self, factor: float) -> None:
        for parameter in self.outer:
            parameter.mul_(factor)


def inject(
    kind: Formula, component: nn.Module, targets: Sequence[LoraTarget], sizes: Mapping[str, Size]
) -> Iterator[LayeredModule]:
    """Wrap the targets' layers in `AdaptedLayer`, in place; see `TrainableKind.inject`."""
    component.requires_grad_(False)
    for target in targets:
        size = sizes[target.kohya_name]
        bases = [component.get_submodule(path) for path in target.paths]
        group, start, layers = _Group(bases, size.alpha), 0, []
        for path, base in zip(target.paths, bases, strict=True):
            rows = slice(start, start + shape_of(base)[0])
            start = rows.stop
            layer = AdaptedLayer(kind, base, nn.ParameterDict(), group, rows)
            layer.train(base.training)
            component.set_submodule(path, layer)
            layers.append(layer)
        yield LayeredModule(kind, target, tuple(layers), size)
