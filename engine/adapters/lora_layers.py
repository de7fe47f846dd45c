"""LoRAs in a model: peft's layers, fused, with Kohya's dropouts. Several layers may be one in Kohya's files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from engine.adapters.doubled_layers import DoubledHalf
from engine.adapters.dropout import add_dropouts
from engine.adapters.flat import FlatParameters
from engine.adapters.fused import fuse, use_flat
from engine.adapters.kinds.formula import Form, Formula, Size
from engine.adapters.modules import AdapterModule, checked_tensors
from engine.adapters.rank_mask import RankMask
from engine.config.network import NetworkTable
from engine.errors import ModelError
from engine.models.lora_names import ALPHA, DOWN, UP
from engine.types import LoraTarget

ADAPTER = "default"
"""The adapter's name inside peft."""
_HOLDER = "component"
"""What a component is called in the module that peft gets."""


@dataclass(frozen=True, eq=False)
class LoraModule(AdapterModule):
    """One LoRA: of a layer, or of several that are one layer in Kohya's files.

    Layers of a group share the down projection, one parameter, and each has its own rows of the up projection:
    together they are the LoRA of the fused layer.
    """

    kind: Formula
    target: LoraTarget
    layers: tuple[Any, ...]
    """peft's layers in the order of `target.paths`; the base layers are inside."""
    form: Form = field(default_factory=Form)
    rank_mask: RankMask | None = None

    @staticmethod
    def convert(layer: Any) -> None:
        """Convert a layer of peft's to the form that is trained, in place."""
        fuse(layer)

    @property
    def down(self) -> nn.Parameter:
        """[r, in] or [r, in, k, k] float32."""
        return self.layers[0].lora_A[ADAPTER].weight  # type: ignore[no-any-return]

    @property
    def ups(self) -> list[nn.Parameter]:
        """Each layer's [out, r] or [out, r, 1, 1] float32."""
        return [layer.lora_B[ADAPTER].weight for layer in self.layers]

    @property
    def up(self) -> torch.Tensor:
        """All rows: [sum of out, r] or [out, r, 1, 1] float32."""
        ups = self.ups
        return ups[0] if len(ups) == 1 else torch.cat(tuple(ups))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters: down, then each layer's up."""
        return [self.down, *self.ups]

    @property
    def outer(self) -> list[nn.Parameter]:
        """Each layer's up."""
        return self.ups

    def use_flat(self, flat: FlatParameters) -> list[nn.Parameter]:
        with_slot = [use_flat(layer, flat) for layer in self.layers]
        return self.parameters if all(with_slot) else []

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        ups = self.ups
        up = (sum(len(up) for up in ups), *ups[0].shape[1:])
        return {DOWN: tuple(self.down.shape), UP: up, ALPHA: ()}

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def alpha(self) -> float:
        return float(self.layers[0].lora_alpha[ADAPTER])

    @property
    def scale(self) -> float:
        """alpha / rank: the factor on up · down."""
        return float(self.layers[0].scaling[ADAPTER])

    def set_alpha(self, alpha: float) -> None:
        for layer in self.layers:
            layer.lora_alpha[ADAPTER] = alpha
            layer.scaling[ADAPTER] = alpha / self.rank

    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        down, ups = self.down, self.ups
        shape = (sum(len(up) for up in ups), *down.shape[1:])
        values = self.kind.initial(shape, Size(self.rank, self.alpha, self.form), generator)
        shared = nn.Parameter(values["down"].to(device))
        rows = torch.split(values["up"], [len(up) for up in ups])
        for layer, up in zip(self.layers, rows, strict=True):
            layer.lora_A[ADAPTER].weight = shared
            layer.lora_B[ADAPTER].weight = nn.Parameter(up.to(device, copy=True))

    def state(self) -> dict[str, torch.Tensor]:
        """Down, up and alpha, which is 0-dimensional."""
        return {DOWN: self.down.detach(), UP: self.up.detach(), ALPHA: torch.tensor(self.alpha, dtype=torch.float32)}

    def by_layer(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """Each layer's down, up and alpha, in the order of `target.paths`: copies on the CPU, float32."""
        for layer in self.layers:
            halves = (half[ADAPTER].weight.detach() for half in (layer.lora_A, layer.lora_B))
            down, up = (half.to("cpu", torch.float32, copy=True).contiguous() for half in halves)
            yield down, up, float(layer.lora_alpha[ADAPTER])

    @torch.no_grad()
    def load(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Load from a file's module; without an alpha it is the rank."""
        shapes = self.shapes
        values = checked_tensors(self.target.kohya_name, parts, {end: shapes[end] for end in (DOWN, UP)})
        self.down.copy_(values[DOWN])
        for parameter, rows in zip(self.ups, torch.split(values[UP], [len(up) for up in self.ups]), strict=True):
            parameter.copy_(rows)
        alpha = parts.get(ALPHA)
        if alpha is None:
            self.set_alpha(float(self.rank))
        elif alpha != torch.tensor(self.alpha, dtype=alpha.dtype):  # else they differ only by the file's rounding
            self.set_alpha(float(alpha))

    def squared_norm(self) -> torch.Tensor:
        """‖U·D‖² is the trace of (UᵀU)(DDᵀ): only rank × rank matrices are made."""
        down, ups = self.down.flatten(1), [up.flatten(1) for up in self.ups]
        products = sum((up.T @ up for up in ups[1:]), ups[0].T @ ups[0])
        return (products * (down @ down.T)).sum() * self.scale**2

    def shrink(self, factor: float) -> None:
        """Each of the two matrices gets the square root of the factor."""
        root = math.sqrt(factor)
        for parameter in self.parameters:
            parameter.mul_(root)


class SplitLoraModule(LoraModule):
    """Layers that are one in Kohya's files, each with a LoRA of its own (`split_qkv` of Kohya's scripts).

    In a file they are one LoRA of n times the rank: the downs are stacked, up is block-diagonal. Its alpha is n times
    that of a layer, so that alpha / rank, and with it the strength in every reader, is that of the training. Kohya's
    scripts write the alpha of one layer, and their files are n times too weak.
    """

    @property
    def downs(self) -> list[nn.Parameter]:
        """Each layer's [r, in] float32."""
        return [layer.lora_A[ADAPTER].weight for layer in self.layers]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All downs, then all ups."""
        return [*self.downs, *self.ups]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        rank = len(self.layers) * self.rank
        return {DOWN: (rank, *self.down.shape[1:]), UP: (sum(len(up) for up in self.ups), rank), ALPHA: ()}

    @property
    def alpha(self) -> float:
        return len(self.layers) * super().alpha

    def set_alpha(self, alpha: float) -> None:
        super().set_alpha(alpha / len(self.layers))

    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        for layer in self.layers:
            down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
            shape = (len(up.weight), *down.weight.shape[1:])
            size = Size(self.rank, layer.lora_alpha[ADAPTER], self.form)
            values = self.kind.initial(shape, size, generator)
            down.weight, up.weight = (nn.Parameter(values[role].to(device)) for role in ("down", "up"))

    def state(self) -> dict[str, torch.Tensor]:
        down = torch.cat([down.detach() for down in self.downs])
        up = torch.block_diag(*(up.detach() for up in self.ups))  # type: ignore[no-untyped-call]
        return {DOWN: down, UP: up, ALPHA: torch.tensor(self.alpha, dtype=torch.float32)}

    @torch.no_grad()
    def load(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Load a file of separate layers, or one of the layers' own rank: then each starts with the whole down."""
        count, rank, shapes = len(self.layers), self.rank, self.shapes
        is_shared = DOWN in parts and len(parts[DOWN]) == rank
        if is_shared:
            shapes = {DOWN: tuple(self.down.shape), UP: (shapes[UP][0], rank)}
        values = checked_tensors(self.target.kohya_name, parts, {end: shapes[end] for end in (DOWN, UP)})
        rows = torch.split(values[UP], [len(up) for up in self.ups])
        for number, (down, up) in enumerate(zip(self.downs, self.ups, strict=True)):
            block = slice(None) if is_shared else slice(number * rank, (number + 1) * rank)
            if rows[number].count_nonzero() != rows[number][:, block].count_nonzero():
                raise ModelError(
                    f"{self.target.kohya_name} of the LoRA to start from is one LoRA for all of its {count} layers.",
                    f"Switch split_qkv off, or set network_dim to its rank, {count * rank}.",
                    code="lora-not-split",
                )
            down.copy_(values[DOWN][block])
            up.copy_(rows[number][:, block])
        alpha = parts.get(ALPHA)
        stated = len(parts[DOWN]) if alpha is None else float(alpha)
        self.set_alpha(count * stated if is_shared else float(stated))

    def squared_norm(self) -> torch.Tensor:
        """The sum of the layers' own: their rows do not overlap."""
        norms = [((up.T @ up) * (down @ down.T)).sum() for down, up in zip(self.downs, self.ups, strict=True)]
        return sum(norms[1:], norms[0]) * self.scale**2


def inject(
    kind: Formula,
    component: nn.Module,
    targets: Sequence[LoraTarget],
    sizes: Mapping[str, Size],
    network: NetworkTable,
    of_base: type[LoraModule] | None = None,
) -> Iterator[LoraModule]:
    """Let peft wrap the layers; new weights stay on the meta device, so that no random number is used.

    peft gets the component inside of another module. In a model of transformers it would first look for layers that
    other versions name otherwise, which takes longer than the rest and finds nothing: the paths are those of the model.

    Args:
        of_base: the class of modules that begin with a part of the base's weight, where they do.
    """
    component.requires_grad_(False)
    training = component.training
    ranks: dict[int, list[str]] = {}
    alphas: dict[float, list[str]] = {}
    for target in targets:
        size = sizes[target.kohya_name]
        ranks.setdefault(size.rank, []).extend(target.paths)
        alphas.setdefault(size.alpha, []).extend(target.paths)
    config = LoraConfig(
        r=next(iter(ranks)),
        lora_alpha=next(iter(alphas)),  # type: ignore[arg-type]
        rank_pattern={_pattern_of(paths): rank for rank, paths in list(ranks.items())[1:]},
        alpha_pattern={_pattern_of(paths): alpha for alpha, paths in list(alphas.items())[1:]},
        target_modules=rf"{_HOLDER}\.{_pattern_of([path for target in targets for path in target.paths])}",
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, nn.ModuleDict({_HOLDER: component}), adapter_name=ADAPTER, low_cpu_mem_usage=True)
    wrapped = {name: module for name, module in component.named_modules() if hasattr(module, "lora_A")}
    expected = {path for target in targets for path in target.paths}
    assert wrapped.keys() == expected, "peft wrapped other layers than the targets"
    for layer in wrapped.values():
        layer.train(training)
        (of_base or LoraModule).convert(layer)
    masks = None if network.tlora_min_rank is None else RankMask(network.tlora_min_rank, network.tlora_alpha)
    for target in targets:
        layers = tuple(wrapped[path] for path in target.paths)
        made = of_base or (SplitLoraModule if target.is_split else LoraModule)
        mask = masks if target.is_denoiser else None  # texts are the same at each timestep
        module = made(kind, target, layers, sizes[target.kohya_name].form, mask)
        for group in [(layer,) for layer in layers] if target.is_split else [layers]:
            add_dropouts(group, ADAPTER, network)
        if mask is not None:
            for layer in layers:
                mask.add(layer.lora_A[ADAPTER], module.rank)
        yield module


def _pattern_of(paths: Sequence[str]) -> str:
    """A regular expression for exactly these module paths."""
    return "(?:" + "|".join(re.escape(path) for path in paths) + ")"


def round_to(layer: Any, dtype: torch.dtype) -> None:
    """Round the adapter in a layer to what a file of this number format holds."""
    for half in (layer.lora_A, layer.lora_B):
        if isinstance(half[ADAPTER], DoubledHalf):
            half[ADAPTER].file_dtype = dtype
            continue
        half[ADAPTER].weight.data = half[ADAPTER].weight.data.to(dtype).float()
    alpha = torch.tensor(layer.lora_alpha[ADAPTER], dtype=dtype).item()
    layer.scaling = {ADAPTER: alpha / layer.r[ADAPTER]}  # a new dictionary: the twin shares the old one
