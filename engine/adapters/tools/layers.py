"""The layers of an adapter with their numbers: factors, scale, and the change ΔW of a weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from engine.adapters.kinds.base import AdapterKind, Parts, Weight
from engine.adapters.kinds.full import Full
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import kind_named
from engine.errors import ModelError
from engine.text import printable

LORA, FULL = Lora.name, Full.name
"""The kinds that the tools create."""
_WIDE = re.compile(r"_(?:conv|conv1|conv2|op|in_layers_2|out_layers_3|conv_in|conv_out)$")
"""Ends of the names of 3×3 convolutions: LoHa and LoKr without Tucker cores flatten their kernels."""


@dataclass(frozen=True)
class Layer:
    """One adapted layer."""

    name: str
    """Kohya's name; the file's own name where the family has no table here."""
    kind: str
    """Name of a kind whose ΔW can be computed, from the file alone or with `weight`."""
    factors: Mapping[str, Tensor]
    """By role ("down", "up", "hada_w1_a", …), as in the file."""
    alpha: float | None = None
    """None: the file has none, so it is the rank."""
    style: str = "lora_down"
    """The file's names of a LoRA's matrices: "lora_down", "lora_A" or "down"."""
    weight: Weight | None = field(default=None, compare=False)
    """The base's weight at this layer, for kinds whose ΔW depends on it; None where no base is there."""

    @property
    def adapter(self) -> AdapterKind:
        """The layer's kind."""
        return kind_named(self.kind)

    @property
    def rank(self) -> int:
        """The rank of the factors; for kinds without factors the smaller side."""
        rank = self.adapter.effective_rank(self.factors)
        return min(self.matrix_shape) if rank is None else rank

    @property
    def scale(self) -> float:
        """The factor on ΔW at strength 1: alpha / rank."""
        return self.adapter.scale(self._parts)

    @property
    def _parts(self) -> Parts:
        alpha = {} if self.alpha is None else {"alpha": torch.tensor(self.alpha, dtype=torch.float64)}
        return {**self.factors, **alpha}

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape: (out, in) or (out, in, k, k)."""
        pair = self.pair()
        if pair is not None:
            return int(pair[1].shape[0]), *map(int, pair[0].shape[1:])
        if self.weight is not None and self.adapter.needs_weight:
            return tuple(self.weight().shape)
        return tuple(self.delta().shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(out, in · k · k), equal for a 1×1 convolution and a linear layer."""
        return self.shape[0], _flat(self.shape)

    @property
    def spatial(self) -> bool:
        """Whether it is a convolution wider than 1×1, to which `--conv-rank` applies."""
        return any(side != 1 for side in self.shape[2:])

    def pair(self) -> tuple[Tensor, Tensor] | None:
        """Down [r, in(, k, k)] and up [out, r(, 1, 1)] in float32, without the scale; None for other
        kinds.

        Raises:
            ModelError: the factors do not fit together.
        """
        with self._factor_errors():
            return self.adapter.low_rank(self.factors)

    def kronecker(self) -> tuple[Tensor, Tensor] | None:
        """Two factors whose Kronecker product is ΔW without the scale; None for other kinds."""
        return self.adapter.kronecker(self.factors)

    def flat_pair(self) -> tuple[Tensor, Tensor] | None:
        """The same as matrices [r, in · k · k] and [out, r]."""
        pair = self.pair()
        return None if pair is None else (pair[0].flatten(1), pair[1].flatten(1))

    def delta(self) -> Tensor:
        """ΔW at strength 1, float32, [out, in] or [out, in, k, k].

        Raises:
            ModelError: the factors do not fit together.
        """
        with self._factor_errors():
            if self.adapter.needs_weight:
                parts = {role: tensor.float() for role, tensor in self._parts.items()}
                weight = self.weight or _no_weight
                return self.adapter.delta(parts, weight).reshape(weight().shape)
            change = self.adapter.delta(self._parts, _no_weight)
            if self.adapter.low_rank(self.factors) is not None:
                return change.reshape(self.shape)
            if change.dim() == 2 and change.shape[1] % 9 == 0 and _WIDE.search(self.name):
                return change.reshape(len(change), -1, 3, 3)
            return change

    @contextmanager
    def _factor_errors(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in self.factors.items())
            if self.weight is not None:
                raise ModelError(
                    f"{printable(self.name)} does not fit the base's weight of {list(self.weight().shape)}: {shapes}.",
                    "The file is for a model of another size.",
                    code="lora-of-other-size",
                ) from error
            raise ModelError(
                f"The factors of {printable(self.name)} do not fit together: {shapes}.",
                "The file is damaged or was written wrongly: use another copy.",
                code="lora-factors-do-not-fit",
            ) from error


@dataclass(frozen=True)
class StackedLayer(Layer):
    """Layers that are one in Kohya's files, of a kind that cannot be joined: only their ΔW can, by its rows. It has no
    factors of its own."""

    members: tuple[Layer | None, ...] = ()
    """In the order of the rows; None: not in the file."""
    widths: tuple[int, ...] = ()
    """Rows of each."""

    @property
    def rank(self) -> int:
        """The smaller side."""
        return min(self.matrix_shape)

    @property
    def scale(self) -> float:
        """That of each member is in its ΔW."""
        return 1.0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return sum(self.widths), *next(member for member in self.members if member is not None).shape[1:]

    def pair(self) -> None:
        """None: there are no two factors."""

    def kronecker(self) -> None:
        """None."""

    def delta(self) -> Tensor:
        """ΔW at strength 1, float32."""
        inner = self.shape[1:]
        return torch.cat(
            [
                torch.zeros(width, *inner) if member is None else member.delta().reshape(width, *inner)
                for member, width in zip(self.members, self.widths, strict=True)
            ]
        )


def _no_weight() -> Tensor:
    raise AssertionError("a kind that needs the weight is refused when the file is read, or gets it from a base")


def _flat(shape: tuple[int, ...]) -> int:
    count = 1
    for side in shape[1:]:
        count *= side
    return count
