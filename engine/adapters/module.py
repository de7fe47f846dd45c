"""One LoRA module: a layer of the model, or several that are one layer in Kohya's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from engine.adapters.names import ALPHA, DOWN, PARTS, UP
from engine.errors import ModelError
from engine.models.base import LoraTarget

ADAPTER = "default"
"""The adapter's name inside peft."""


@dataclass(frozen=True, eq=False)
class LoraModule:
    """One LoRA: of a layer, or of several that are one layer in Kohya's files.

    Layers of a group share the down projection, one parameter, and each has its own rows of the up projection:
    together they are the LoRA of the fused layer.
    """

    target: LoraTarget
    layers: tuple[Any, ...]
    """peft's layers in the order of `target.paths`; the base layers are inside."""

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
        """What is trained: down, then each layer's up."""
        return [self.down, *self.ups]

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of down and up in a file."""
        ups = self.ups
        return tuple(self.down.shape), (sum(len(up) for up in ups), *ups[0].shape[1:])

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

    def load(self, parts: Mapping[str, torch.Tensor]) -> None:
        """Take values and alpha from the tensors of one module of a file; without an alpha it is the rank.

        Raises:
            ModelError: a tensor is missing, or has another shape.
        """
        name = self.target.kohya_name
        absent = [part for part in PARTS[:2] if part not in parts]
        if absent:
            raise ModelError(f"The LoRA to start from is incomplete: {name}.{absent[0]} is missing.")
        values = []
        for part, shape in zip((DOWN, UP), self.shapes, strict=True):
            tensor = parts[part]
            if _without_kernel(tensor.shape) != _without_kernel(shape):
                raise ModelError(
                    f"{name}.{part} of the LoRA to start from has the shape {list(tensor.shape)}, here it is "
                    f"{list(shape)}.",
                    "Set network_dim and conv_dim to that file's ranks, or set dim_from_weights; another kind of model "
                    "does not fit at all.",
                )
            values.append(tensor.reshape(shape))
        with torch.no_grad():
            self.down.copy_(values[0])
            for parameter, rows in zip(self.ups, torch.split(values[1], [len(up) for up in self.ups]), strict=True):
                parameter.copy_(rows)
        alpha = parts.get(ALPHA)
        if alpha is None:
            self.set_alpha(float(self.rank))
        elif alpha != torch.tensor(self.alpha, dtype=alpha.dtype):  # else only the file's rounding differs
            self.set_alpha(float(alpha))


def _without_kernel(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without a trailing 1x1 kernel: linear and 1x1 convolution hold the same matrix."""
    return tuple(shape[:2]) if tuple(shape[2:]) == (1, 1) else tuple(shape)
