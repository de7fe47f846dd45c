"""Layers wrapped with an adapter of any kind, computed from the kind's formulas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.added import added
from engine.adapters.dropout import Skip
from engine.adapters.kinds.base import AdapterKind, Parts
from engine.adapters.kinds.formula import SCALAR, Formula, Size
from engine.adapters.modules import AdapterModule, checked_tensors
from engine.adapters.weights import apply_factors, apply_norm, joined_weight, shape_of
from engine.config.network import NetworkTable
from engine.types import LoraTarget


class AdaptedLayer(nn.Module):
    """base(x) + x · ΔWᵀ. Outside of autocast the second term is computed in the dtype of x.

    Args:
        adapter: the trained tensors by role, of all layers of the module together.
        group: those layers; their rows, stacked, are those of ΔW.
        rows: those of `base_layer`.
    """

    def __init__(self, base_layer: nn.Module, adapter: nn.ParameterDict, group: _Group, rows: slice) -> None:
        super().__init__()
        self.base_layer, self.adapter = base_layer, adapter
        self.group, self.rows = group, rows
        self.rounding: torch.dtype | None = None
        """Set: the adapter counts as it is in a file of this number format."""
        self.cast_input_dtype_enabled = True
        """Of peft's layers (`AdapterNetwork.rely_on_autocast`); not used here."""

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
        if self.training and self.group.skip.now():
            return result
        more = self.added(x)
        if self.training and self.group.rank_dropout:
            more = more * self.along_outputs(self.group.kept_outputs(self.rows, more), more)
        return result + more.to(result.dtype)

    def added(self, x: Tensor) -> Tensor:
        """The adapter's part of the output."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        more = added(_LayerChange(self), x.to(dtype), list(self.adapter.values()))
        if "diff_b" in self.adapter:
            bias = self.group.parts(self.adapter.items(), self.rounding)["diff_b"]
            more = more + self.along_outputs(bias[self.rows], more).to(dtype)
        return more

    def along_outputs(self, values: Tensor, output: Tensor) -> Tensor:
        """One value for each output, to be combined with the layer's output."""
        if isinstance(self.base_layer, nn.Conv2d | nn.GroupNorm):
            return values.reshape(1, -1, *(1 for _ in output.shape[2:]))
        return values


class AdaptedNorm(AdaptedLayer):
    """A norm layer whose weight and bias are changed: base(x) + norm(x) · Δw + Δb, the second term in float32."""

    def added(self, x: Tensor) -> Tensor:
        """See `AdaptedLayer.added`."""
        parts = self.group.parts(self.adapter.items(), self.rounding)
        with torch.autocast(x.device.type, enabled=False):
            return apply_norm(self.base_layer, x.float(), parts["w_norm"], parts["b_norm"])


class _LayerChange:
    """`engine.adapters.added.Change` of an `AdaptedLayer`."""

    def __init__(self, layer: AdaptedLayer) -> None:
        self.base_layer, self._group, self._rows = layer.base_layer, layer.group, layer.rows
        self._rounding, self._roles = layer.rounding, list(layer.adapter)
        kind = layer.group.kind
        is_product = _overrides(kind, "low_rank") or (
            _overrides(kind, "kronecker") and isinstance(self.base_layer, nn.Linear)
        )
        self.is_factored = is_product
        if is_product and len(self._group.layers) > 1:
            with torch.no_grad():
                self.is_factored = self._own(layer.adapter.values()) is not None

    def _all(self, trained: Any) -> Parts:
        return self._group.parts(zip(self._roles, trained, strict=True), self._rounding)

    def _own(self, trained: Any) -> Parts | None:
        """The tensors for this layer's rows alone; None where they cannot be separated."""
        parts = self._all(trained)
        return parts if len(self._group.layers) == 1 else self._group.kind.rows(parts, self._rows)

    def delta(self, trained: Sequence[Tensor]) -> Tensor:
        """See `Change.delta`."""
        kind, own = self._group.kind, self._own(trained)
        if own is None:
            return self._group.delta(self._all(trained))[self._rows]
        return kind.delta(own, lambda: joined_weight([self.base_layer])).reshape(shape_of(self.base_layer))

    def product(self, trained: Sequence[Tensor], x: Tensor) -> Tensor:
        """See `Change.product`."""
        kind, own = self._group.kind, self._own(trained)
        assert own is not None
        return apply_factors(self.base_layer, x, kind.low_rank(own), kind.kronecker(own), kind.scale(own))


def _overrides(kind: AdapterKind, method: str) -> bool:
    """Whether a kind has a method of its own."""
    return getattr(type(kind), method) is not getattr(AdapterKind, method)


class _Group:
    """The layers of one module, hidden from torch's tree of modules, which already contains them."""

    def __init__(self, kind: Formula, layers: Sequence[nn.Module], size: Size, network: NetworkTable) -> None:
        self.kind, self.layers, self._size = kind, list(layers), size
        self.shape = (sum(shape_of(layer)[0] for layer in layers), *shape_of(layers[0])[1:])
        """Of the joined weight of all layers."""
        self.constants = kind.constants(self.shape, size)
        self.skip = Skip(network.module_dropout, len(layers))
        self.rank_dropout = 0.0 if "rank_dropout" in network.idle_settings else network.rank_dropout
        self._rank_dropout_scale = network.rank_dropout_scale
        self.offsets: dict[str, Tensor] = {}
        """See `Formula.offsets`; computed with the initial values."""

    def parts(self, trained: Any, rounding: torch.dtype | None = None) -> Parts:
        """The tensors of a file: (role, tensor) of what is trained, with the constants."""
        constants = {role: torch.tensor(value) for role, value in self.constants.items()}
        values = {role: tensor + self.offsets[role] if role in self.offsets else tensor for role, tensor in trained}
        parts = {**constants, **self.kind.file_parts(values, self._size)}
        if rounding is None:
            return parts
        return {
            role: part if role in self.kind.kept_exact else part.to(rounding).float() for role, part in parts.items()
        }

    def delta(self, parts: Parts) -> Tensor:
        """ΔW of all layers, with its gradient."""
        return self.kind.delta(parts, self.weight).reshape(self.shape)

    def weight(self) -> Tensor:
        """The stacked rows of the layers' own weights, float32."""
        return joined_weight(self.layers)

    def kept_outputs(self, rows: slice, like: Tensor) -> Tensor:
        """Which outputs of a layer the adapter changes in this step: 1 and 0, scaled up by LyCORIS' rule if set."""
        kept = (torch.rand(rows.stop - rows.start, device=like.device) > self.rank_dropout).to(like.dtype)
        return kept / kept.mean().clamp(min=1 / len(kept)) if self._rank_dropout_scale else kept


class LayeredModule(AdapterModule):
    """The adapter of one or several `AdaptedLayer`."""

    def __init__(self, target: LoraTarget, layers: tuple[AdaptedLayer, ...], size: Size) -> None:
        self.target, self.layers = target, layers
        self._kind, self._size = self._group.kind, size

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
        return [*self._linear, *(self._adapter[role] for role in self._group.offsets)]

    @property
    def _linear(self) -> list[nn.Parameter]:
        """The parameters that the norm is linear in."""
        if SCALAR in self._adapter:
            return [self._adapter[SCALAR]]
        return [parameter for role, parameter in self._adapter.items() if role in self._kind.outer]

    @property
    def plus(self) -> list[nn.Parameter]:
        roles = self._kind.outer if self._kind.plus is None else self._kind.plus
        return [parameter for role, parameter in self._adapter.items() if role in roles]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self._kind.written_shapes(self._group.shape, self._size)
        return {self._kind.written[role]: sides for role, sides in shapes.items()}

    @property
    def alpha(self) -> float:
        return self._group.constants.get("alpha", 1.0)

    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        offsets = self._kind.offsets(self._group.weight, self._size)
        self._group.offsets = {role: offset.to(device) for role, offset in offsets.items()}
        if self._size.file_shapes:
            values = {role: torch.zeros(sides) for role, sides in self._size.file_shapes}
            values |= {role: torch.zeros(offset.shape) for role, offset in offsets.items()}
        else:
            values = self._kind.initial(self._group.shape, self._size, generator)
        adapter = nn.ParameterDict({role: nn.Parameter(value.to(device)) for role, value in values.items()})
        for layer in self.layers:
            layer.adapter = adapter

    def state(self) -> dict[str, Tensor]:
        parts = self._group.parts(self._adapter.items())
        return {end: parts[role].detach() for role, end in self._kind.written.items() if role in parts}

    @torch.no_grad()
    def load(self, parts: Mapping[str, Tensor]) -> None:
        """See `AdapterModule.load`. A scalar becomes 1."""
        written, constants = self._kind.written, self._group.constants
        needed = {end: sides for end, sides in self.shapes.items() if end not in (written[role] for role in constants)}
        values = checked_tensors(self.target.kohya_name, parts, needed)
        roles = {role: values[end] for role, end in written.items() if end in values}
        trained = self._kind.trained_parts({role: tensor.float() for role, tensor in roles.items()})
        for role, parameter in self._adapter.items():
            parameter.copy_(trained[role] if role in trained else torch.ones_like(parameter))
            if role in self._group.offsets:
                parameter.sub_(self._group.offsets[role])
        for role, value in constants.items():
            stored = parts.get(written[role])
            if stored is None:
                constants[role] = float(self._size.rank) if self._kind.scaled else value
            elif stored != torch.tensor(value, dtype=stored.dtype):  # else they differ only by the file's rounding
                constants[role] = float(stored)

    def squared_norm(self) -> Tensor:
        parts = self._group.parts(self._adapter.items())
        return self._kind.squared_norm(self._adapter, parts, self._group.weight)

    def shrink(self, factor: float) -> None:
        for parameter in self._linear:
            parameter.mul_(factor)


def inject(
    kind: Formula,
    component: nn.Module,
    targets: Sequence[LoraTarget],
    sizes: Mapping[str, Size],
    network: NetworkTable,
) -> Iterator[LayeredModule]:
    """Wrap the targets' layers in `AdaptedLayer`, in place; see `TrainableKind.inject`."""
    component.requires_grad_(False)
    for target in targets:
        bases = [component.get_submodule(path) for path in target.paths]
        size = replace(sizes[target.kohya_name], bias=any(getattr(base, "bias", None) is not None for base in bases))
        group, start, layers = _Group(kind, bases, size, network), 0, []
        for path, base in zip(target.paths, bases, strict=True):
            rows = slice(start, start + shape_of(base)[0])
            start = rows.stop
            wrapper = AdaptedLayer if isinstance(base, nn.Linear | nn.Conv2d) else AdaptedNorm
            layer = wrapper(base, nn.ParameterDict(), group, rows)
            layer.train(base.training)
            component.set_submodule(path, layer)
            layers.append(layer)
        yield LayeredModule(target, tuple(layers), size)
