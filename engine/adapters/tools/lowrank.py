"""Singular values and norms of a layer's change, without building the full matrix where it has two factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.adapters.tools.layers import Layer, StackedLayer

_OVERSAMPLING, _ITERATIONS = 16, 7
_FEW = 8
"""A matrix whose sides are this many times the rank gets a randomised SVD (Halko et al. 2011)."""


@dataclass(frozen=True)
class Spectrum:
    """M = u · diag(s) · vh, where ΔW = scale · M."""

    u: Tensor
    """[out, n] float32."""
    s: Tensor
    """[n] float32, the largest first."""
    vh: Tensor
    """[n, in · k · k] float32."""
    scale: float = 1.0

    def factors(self, rank: int) -> tuple[Tensor, Tensor]:
        """Down [k, in · k · k] and up [out, k] of the best approximation of that rank: up = U·S, down = Vh."""
        return self.vh[:rank].contiguous(), (self.u[:, :rank] * self.s[:rank]).contiguous()


def spectrum_of(layer: Layer, most: int | None = None) -> Spectrum:
    """Of a LoRA: of up · down without the scale, as in sd-scripts' resize; of other kinds: of ΔW.

    Args:
        most: number of singular values that are needed; for large matrices that have no factors.
    """
    if (pair := layer.flat_pair()) is not None:
        u, s, vh = svd_of_pair(*pair)
        return Spectrum(u, s, vh, layer.scale)
    if (factors := layer.kronecker()) is not None:
        first, second = factors
        u, s, vh = svd_of_kron(first, second.flatten(1))
        return Spectrum(u, s * layer.scale, vh)
    return spectrum_of_matrix(layer.delta().flatten(1), most if isinstance(layer, StackedLayer) else None)


def svd_of_pair(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of up [out, r] · down [r, in] through two QR decompositions and an r × r SVD, computed in float64."""
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, vh = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return (left @ u).float(), s.float(), (vh @ right.T).float()


def svd_of_kron(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of first ⊗ second: the products of both spectra, sorted."""
    u1, s1, v1 = torch.linalg.svd(first.double(), full_matrices=False)
    u2, s2, v2 = torch.linalg.svd(second.double(), full_matrices=False)
    s, order = (s1[:, None] * s2).flatten().sort(descending=True, stable=True)
    a, b = order // len(s2), order % len(s2)
    u = torch.einsum("ir,jr->ijr", u1[:, a], u2[:, b]).flatten(0, 1)
    vh = torch.einsum("ri,rj->rij", v1[a], v2[b]).flatten(1)
    return u.float(), s.float(), vh.float()


def spectrum_of_matrix(matrix: Tensor, rank: int | None = None) -> Spectrum:
    """The spectrum of a matrix [out, in], on a GPU where there is one.

    Args:
        rank: number of singular values: few of many are computed alone. None: all.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    on = matrix.to(device, torch.float32)
    if rank is not None and rank * _FEW <= min(on.shape):
        with torch.random.fork_rng(devices=[0] if device == "cuda" else []):
            torch.manual_seed(0)
            u, s, v = torch.svd_lowrank(on, q=rank + _OVERSAMPLING, niter=_ITERATIONS)
        return Spectrum(u.cpu(), s.cpu(), v.T.contiguous().cpu())
    u, s, vh = torch.linalg.svd(on, full_matrices=False)
    return Spectrum(u.cpu(), s.cpu(), vh.cpu())


def pair_norm(down: Tensor, up: Tensor) -> float:
    """‖up · down‖."""
    _, upper = torch.linalg.qr(up.double(), mode="r")
    _, lower = torch.linalg.qr(down.double().T, mode="r")
    return float((upper @ lower.T).norm())


def pair_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """‖up₁ · down₁ − up₂ · down₂‖, in float64 from the factors (down, up) of each."""
    return pair_norm(torch.cat([first[0], second[0]]), torch.cat([first[1], -second[1]], dim=1))
