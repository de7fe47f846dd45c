"""Kinds of adapter with trainable tensors, for the layers of a model. Loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import AdapterKind

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Size:
    """The size of the adapter of one layer."""

    rank: int
    alpha: float


class Formula(AdapterKind):
    """A kind whose tensors can be created, not only read."""

    written: ClassVar[Mapping[str, str]] = {}
    """Role of each tensor of a module to the end of its key in saved files, in this order; with "alpha" where the file
    has it."""
    outer: frozenset[str] = frozenset()
    """Roles in which ΔW is linear: with these tensors at zero the layer is unchanged."""

    @abstractmethod
    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained tensors, by role.

        Args:
            shape: of the layer's weight, [out, in] or [out, in, k, k].
        """

    @abstractmethod
    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """The initial values, float32 on the CPU: the `outer` ones are zero.

        Args:
            generator: used by this module only.
        """
