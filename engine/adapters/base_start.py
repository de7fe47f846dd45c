"""The part of a layer's weight that a LoRA begins with: its largest singular values (PiSSA, Meng et al. 2024), or the
first columns of its QR decomposition (OLoRA, Büyükakyüz 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.adapters.doubled import DoubledLoraModule
from engine.adapters.weights import joined_weight
from engine.config.values import InitLora

_EXACT_SIDE = 512
"""The largest smaller side of a matrix whose decomposition is always complete."""
_EXACT_SHARE = 3
"""Where this many times the rank reaches the smaller side, it is complete too."""
_EXTRA, _ROUNDS = 16, 8
"""Of subspace iteration (Halko et al. 2011): more directions than wanted, and multiplications with the matrix."""


@torch.no_grad()
def begin_with_base(module: DoubledLoraModule, how: InitLora, generator: torch.Generator) -> None:
    """Set a module's constants from the weights of its layers, in float32 on their device.

    Args:
        how: "pissa" or "olora".
        generator: on the CPU, for large matrices.
    """
    for number, group in enumerate(module.groups):
        weight = joined_weight([layer.base_layer for layer in group])
        rank = min(module.rank, *weight.flatten(1).shape)
        if how == "pissa":
            down, up = principal_part(weight.flatten(1), rank, generator)
            root = module.scale**0.5
            down, up = down / root, up / root
        else:
            up, down = torch.linalg.qr(weight.flatten(1))
            down, up = down[:rank], up[:, :rank]
        begin = module.constants[number].detach().clone().flatten(1)  # ranks above the weight's keep usual values
        begin[:rank] = down
        full = torch.zeros(len(weight), module.rank, device=begin.device)
        full[:, :rank] = up
        module.begin(number, begin.view(-1, *weight.shape[1:]), full.view(*full.shape, *(1 for _ in weight.shape[2:])))


def principal_part(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Down [rank, in] and up [out, rank] whose product is the closest matrix of that rank, with equal norms; of large
    matrices nearly the closest.

    Args:
        matrix: [out, in] float32.
    """
    if min(matrix.shape) <= _EXACT_SIDE or _EXACT_SHARE * rank >= min(matrix.shape):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        left, values, right = _largest(matrix, rank, generator)
    roots = values[:rank].sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def _largest(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """About the largest singular values with their vectors."""
    basis = torch.randn(matrix.shape[1], rank + _EXTRA, generator=generator).to(matrix)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(matrix.T @ torch.linalg.qr(matrix @ basis)[0])[0]
    basis = torch.linalg.qr(matrix @ basis)[0]
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values, right
