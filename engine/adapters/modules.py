"""One adapter in a model: of a layer, or of several layers that are one in Kohya's files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.flat import FlatParameters
from engine.adapters.rank_mask import RankMask
from engine.errors import ModelError
from engine.types import LoraTarget


class AdapterModule(ABC):
    """The interface of an adapter for the network, the trainer and the check of a file."""

    target: LoraTarget
    rank_mask: RankMask | None = None
    """T-LoRA's, which follows the timesteps."""
    layers: tuple[Any, ...]
    """The wrappers of the target's layers, in the order of `target.paths`; the layer itself is `base_layer`."""

    @property
    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters, always in the same order; float32."""

    @property
    @abstractmethod
    def outer(self) -> list[nn.Parameter]:
        """The parameters that, at zero, leave the layers unchanged."""

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of its tensors in a file, by the ends of their keys."""

    @property
    def plus(self) -> list[nn.Parameter]:
        """The parameters that train faster with LoRA+ (Hayou et al. 2024)."""
        return self.outer

    @property
    def constants(self) -> list[nn.Parameter]:
        """Float32 tensors beside the trained ones that neither seed nor base determine to the bit: a state has them."""
        return []

    @property
    @abstractmethod
    def alpha(self) -> float:
        """The effect is scaled by alpha / rank."""

    def use_flat(self, flat: FlatParameters) -> list[nn.Parameter]:
        """Let the layers compute from the flat parameters where they can; returns those of which only slots are used,
        which autograd gives no gradients then."""
        return []

    @abstractmethod
    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        """Set the initial values on `device`; they are generated on the CPU."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Its tensors as in a file, by the ends of their keys; they may share memory with the parameters."""

    @abstractmethod
    def load(self, parts: Mapping[str, Tensor]) -> None:
        """Load values and alpha from a module of a file; restores the result of `state` exactly.

        Raises:
            ModelError: a tensor is missing, or has another shape.
        """

    @abstractmethod
    def squared_norm(self) -> Tensor:
        """‖ΔW‖² at strength 1, a scalar on its device."""

    @abstractmethod
    def shrink(self, factor: float) -> None:
        """Multiply ΔW with a number, in place."""


def checked_tensors(name: str, parts: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of a module of a file, in this model's shapes.

    Raises:
        ModelError: one is missing, or has another shape; trailing sides of 1 are ignored.
    """
    absent = [end for end in shapes if end not in parts]
    if absent:
        raise ModelError(
            f"The LoRA to start from is incomplete: {name}.{absent[0]} is missing.", code="lora-incomplete"
        )
    for end, shape in shapes.items():
        if _without_kernel(parts[end].shape) != _without_kernel(shape):
            raise ModelError(
                f"{name}.{end} of the LoRA to start from has the shape {list(parts[end].shape)}, here it is "
                f"{list(shape)}.",
                "Set network_dim and conv_dim to that file's ranks, or set dim_from_weights; another kind of model "
                "does not fit at all.",
                code="lora-wrong-shape",
            )
    return {end: parts[end].reshape(shape) for end, shape in shapes.items()}


def _without_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without trailing sides of 1: linear and 1x1 convolution hold the same matrix, and peft's scales of
    outputs are vectors."""
    sides = list(shape)
    while len(sides) > 1 and sides[-1] == 1:
        del sides[-1]
    return tuple(sides)
