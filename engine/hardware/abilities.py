"""What each device computes, by its compute capability: one table for precision, 8-bit products and attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import UsageError

Capability = tuple[int, int]
"""CUDA compute capability: (8, 6) is 8.6."""
Attention = Literal["flash", "cuDNN", "memory-efficient"]

FIRST: dict[str, Capability] = {
    "fp16": (5, 3),
    "triton": (7, 0),
    "int8": (7, 5),
    "bf16": (8, 0),
    "flash": (8, 0),
    "cudnn": (8, 0),
    "fp8": (8, 9),
}
"""The first compute capability with each: arithmetic in fp16 and bf16, kernels by Triton (and tensor cores), products
of int8 (the sums are exact in int32) and of fp8, flash attention, cuDNN's. Turing (7.5) has no bf16 and neither
attention, Ampere (8.0, 8.6) no fp8."""


@dataclass(frozen=True)
class Abilities:
    """What a device computes."""

    fp16: bool
    bf16: bool
    triton: bool
    """Compiled kernels, and tensor cores for products in half precision: other operations then take much of a step, and
    compiled blocks have fewer of them."""
    int8: bool
    """Products of int8 by int8."""
    fp8: bool
    """Products of float8_e4m3fn."""
    flash: bool
    cudnn: bool
    """cuDNN's attention."""

    def attention(self, half: bool, masked: bool) -> Attention:
        """The kernel that torch takes on a GPU while cuDNN's is switched off.

        Args:
            half: the model computes in fp16 or bf16.
            masked: the attention has a mask.
        """
        return "flash" if self.flash and half and not masked else "memory-efficient"


CPU = Abilities(fp16=False, bf16=True, triton=False, int8=True, fp8=True, flash=False, cudnn=False)
"""Its 8-bit products are right, and no faster than others."""


def abilities(capability: Capability | None) -> Abilities:
    """What a GPU computes; None: the driver does not report its compute capability, and nothing is ruled out."""
    return Abilities(**{name: capability is None or capability >= first for name, first in FIRST.items()})


def require_products(precision: str, name: str, capability: Capability | None) -> None:
    """Refuse a base_precision whose products a GPU does not have.

    Args:
        precision: `memory.base_precision`; all values without products in 8 bits pass.
        name: the GPU's.

    Raises:
        UsageError: it has none.
    """
    kind, _, multiplies = precision.partition("_")
    if not multiplies or capability is None or getattr(abilities(capability), kind):
        return
    choices = f"{kind}, which stores the weights in 8 bits and decodes them before each product"
    if kind == "fp8" and abilities(capability).int8:
        choices = f"int8_w8a8, or to {choices}"
    raise UsageError(
        f"memory.base_precision is {precision}, but {name} has no products in {kind} (compute capability "
        f"{dotted(capability)}, {dotted(FIRST[kind])} is needed).",
        f"Set memory.base_precision to {choices}.",
        code="products-not-possible",
    )


def dotted(capability: Capability) -> str:
    """ "8.6"."""
    return f"{capability[0]}.{capability[1]}"
