"""Kinds of adapter with trainable tensors, for the layers of a model. Loads no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import AdapterKind, Parts, Weight
from engine.config.values import InitLora

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALAR = "scalar"
"""Role of the trained factor of a module (`use_scalar`), which no file has: it is multiplied into a tensor."""


@dataclass(frozen=True)
class Form:
    """The form of a module's tensors, by LyCORIS' names of its arguments; `NetworkTable` describes them."""

    factor: int = -1
    full_matrix: bool = False
    decompose_both: bool = False
    unbalanced_factorization: bool = False
    use_tucker: bool = False
    use_scalar: bool = False
    constraint: float = 0.0
    rescaled: bool = False
    init_lora_weights: InitLora = "default"


@dataclass(frozen=True)
class Size:
    """The size of the adapter of one layer."""

    rank: int
    alpha: float
    form: Form = Form()
    bias: bool = False
    """Whether the layer has a bias."""
    on_input: bool = False
    """(IA)³: the factors are of inputs."""
    file_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Roles and shapes of the tensors in a file, which then decide instead of rank and form."""


class Formula(AdapterKind):
    """A kind whose tensors can be created, not only read."""

    written: ClassVar[Mapping[str, str]] = {}
    """Role of each tensor that a module may have to the end of its key in saved files, in this order; with those that
    are written and not trained ("alpha")."""
    outer: frozenset[str] = frozenset()
    """Roles of the trained tensors that are zero while the layer is unchanged; ΔW, or what `squared_norm` is the norm
    of, is linear in them."""
    plus: frozenset[str] | None = None
    """Roles of the tensors that train faster with LoRA+; None: the `outer` ones."""
    scaled_by_scalar: frozenset[str] = frozenset()
    """Roles that `use_scalar` multiplies a trained number with, in the file; empty: the kind has no such number."""

    @abstractmethod
    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained tensors in a file, by role.

        Args:
            shape: of the layer's weight, [out, in] or [out, in, k, k]; of a norm layer [channels].

        Raises:
            UsageError: a layer of that shape cannot have such an adapter.
        """

    @abstractmethod
    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """The initial values, float32 on the CPU: the `outer` ones, or the scalar, are zero.

        Args:
            generator: used by this module only.
        """

    def constants(self, shape: tuple[int, ...], size: Size) -> dict[str, float]:
        """The numbers in a file that are not trained, by role."""
        return {"alpha": size.alpha} if "alpha" in self.written else {}

    def offsets(self, weight: Weight, size: Size) -> dict[str, Tensor]:
        """Constants, by role, that are added to trained tensors, which begin at zero, to get those of a file; float32.

        Args:
            weight: called only where there are any.
        """
        return {}

    def written_shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        """The shapes of all tensors of a module in a file, by role, in the order of `written`."""
        trained = dict(size.file_shapes) or self.shapes(shape, size)
        every = {**trained, **dict.fromkeys(self.constants(shape, size), ())}
        return {role: every[role] for role in self.written if role in every}

    def file_parts(self, trained: Parts, size: Size) -> dict[str, Tensor]:
        """The tensors of a file that the trained ones stand for: ΔW is that of these."""
        scalar = trained.get(SCALAR)
        if scalar is None:
            return dict(trained)
        return {
            role: tensor * scalar if role in self.scaled_by_scalar else tensor
            for role, tensor in trained.items()
            if role != SCALAR
        }

    def trained_parts(self, parts: Parts) -> dict[str, Tensor]:
        """The trained tensors that stand for those of a file, but for the scalar, which then is 1."""
        return dict(parts)

    def squared_norm(self, trained: Parts, parts: Parts, weight: Weight) -> Tensor:
        """The square of the norm that `scale_weight_norms` limits, a scalar: that of ΔW. The norm is linear in the
        `outer` tensors, or in the scalar.

        Args:
            parts: those of a file that the trained ones stand for, with the constants.
            weight: of the layer.
        """
        return self.delta(parts, weight).square().sum()

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        """The tensors for these rows of ΔW alone, of a linear layer; None where they cannot be separated.

        Args:
            parts: of a file, with the constants.
        """
        return None


def kaiming(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Kaiming uniform with a = √5, as in Kohya's scripts and in LyCORIS; float32."""
    import torch

    values = torch.empty(shape, dtype=torch.float32)
    return torch.nn.init.kaiming_uniform_(values, a=sqrt(5), generator=generator)


def normal(shape: tuple[int, ...], deviation: float, generator: torch.Generator) -> Tensor:
    """Normally distributed with mean 0; float32."""
    import torch

    return torch.nn.init.normal_(torch.empty(shape, dtype=torch.float32), std=deviation, generator=generator)


def has_kernel(shape: tuple[int, ...]) -> bool:
    """Whether it is the weight of a convolution wider than 1×1."""
    return any(side != 1 for side in shape[2:])
