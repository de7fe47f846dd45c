"""LoRAs that begin with a part of the base's own weight (PiSSA, OLoRA), while the base stays as it is.

A layer's weight W has the part s · B₀A₀, and A, B begin as A₀, B₀: the change is ΔW = s · (BA − B₀A₀). What is trained
are the differences dA = A − A₀ and dB = B − B₀, both 0 at the start; the gradients are those of A and B. Then

    ΔW = s · (dB · A + B₀ · dA)

is a LoRA of twice the rank, with the downs [A; dA] and the ups [dB, B₀], and so it is computed, saved and loaded. It is
exactly 0 at the start, and its rounding in half precision is relative to the change; that of [B, −B₀] · [A; A₀] would
be relative to the weight, of which the change is a small part. Weight decay pulls towards the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.doubled_layers import double, matrix_of
from engine.adapters.fused import fuse
from engine.adapters.lora_layers import ADAPTER, LoraModule
from engine.adapters.modules import checked_tensors
from engine.errors import ModelError
from engine.models.lora_names import ALPHA, DOWN, UP

_HALVINGS = 60
"""Of an interval, for a number in float64."""


class DoubledLoraModule(LoraModule):
    """Of a layer, or of several that are one in Kohya's files: these share A and A₀, or have each its own where the
    target is split. A file has all of them as one LoRA, of which split ones are blocks."""

    @property
    def is_loaded(self) -> bool:
        """Whether its values are those of a file."""
        return bool(self.layers[0].lora_A[ADAPTER].is_loaded)

    @staticmethod
    def convert(layer: Any) -> None:
        fuse(layer)
        double(layer, ADAPTER)

    @property
    def groups(self) -> list[tuple[Any, ...]]:
        """Layers with the same down matrix."""
        return [(layer,) for layer in self.layers] if self.target.is_split else [self.layers]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The differences: each group's down, then each layer's up."""
        return [*(group[0].lora_A[ADAPTER].weight for group in self.groups), *self.ups]

    @property
    def constants(self) -> list[nn.Parameter]:
        """The parts of the base, in the same order."""
        return [
            *(group[0].lora_A[ADAPTER].start for group in self.groups),
            *(layer.lora_B[ADAPTER].start for layer in self.layers),
        ]

    @property
    def outer(self) -> list[nn.Parameter]:
        """All differences."""
        return self.parameters

    @property
    def plus(self) -> list[nn.Parameter]:
        return self.ups

    @property
    def _blocks(self) -> int:
        """Ranks in a file over those of a layer."""
        return 2 * len(self.groups)

    @property
    def alpha(self) -> float:
        return self._blocks * super().alpha

    def set_alpha(self, alpha: float) -> None:
        super().set_alpha(alpha / self._blocks)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        ups, rank = self.ups, self._blocks * self.rank
        up = (sum(len(up) for up in ups), rank, *ups[0].shape[2:])
        return {DOWN: (rank, *self.down.shape[1:]), UP: up, ALPHA: ()}

    def initialise(self, generator: torch.Generator, device: torch.device) -> None:
        """No change, with a usual LoRA's first values as constants until `begin`."""
        super().initialise(generator, device)
        for group in self.groups:
            shared = group[0].lora_A[ADAPTER].weight
            start, change = (nn.Parameter(value, requires_grad=grad) for value, grad in
                             ((shared.detach().clone(), False), (torch.zeros_like(shared), True)))  # fmt: skip
            for layer in group:
                layer.lora_A[ADAPTER].start, layer.lora_A[ADAPTER].weight = start, change
                up = layer.lora_B[ADAPTER]
                up.start = nn.Parameter(torch.zeros_like(up.weight), requires_grad=False)

    @torch.no_grad()
    def begin(self, number: int, down: Tensor, up: Tensor) -> None:
        """Set the constants of a group of layers.

        Args:
            number: of the group.
            down: A₀ [r, in(, k, k)] float32.
            up: B₀ [rows of all layers of the group, r(, 1, 1)] float32.
        """
        group = self.groups[number]
        group[0].lora_A[ADAPTER].start.copy_(down)
        halves = [layer.lora_B[ADAPTER] for layer in group]
        for half, rows in zip(halves, torch.split(up, [len(half.weight) for half in halves]), strict=True):
            half.start.copy_(rows)

    def state(self) -> dict[str, Tensor]:
        """Down, up and alpha of the LoRA of twice the rank."""
        down = torch.cat([_matrix(group[0].lora_A) for group in self.groups])
        ups = [torch.cat([_matrix(layer.lora_B) for layer in group]) for group in self.groups]
        up = ups[0] if len(ups) == 1 else torch.block_diag(*ups)  # type: ignore[no-untyped-call]
        return {DOWN: down, UP: up, ALPHA: torch.tensor(self.alpha, dtype=torch.float32)}

    def by_layer(self) -> Iterator[tuple[Tensor, Tensor, float]]:
        for layer in self.layers:
            down, up = (_matrix(half).to("cpu", torch.float32).contiguous() for half in (layer.lora_A, layer.lora_B))
            yield down, up, 2 * float(layer.lora_alpha[ADAPTER])

    @torch.no_grad()
    def load(self, parts: Mapping[str, Tensor]) -> None:
        """Load a LoRA of twice the rank, with its effect: its second half is where it differs from the constants, which
        are restored up to rounding. For split layers one for all of them fits too."""
        groups, rank, shapes = self.groups, self.rank, self.shapes
        is_shared = DOWN in parts and len(parts[DOWN]) == 2 * rank
        if is_shared:
            shapes |= {DOWN: (2 * rank, *self.down.shape[1:]), UP: (shapes[UP][0], 2 * rank, *shapes[UP][2:])}
        values = checked_tensors(self.target.kohya_name, parts, {end: shapes[end] for end in (DOWN, UP)})
        first, self.layers[0].lora_A[ADAPTER].is_loaded = 0, True
        for number, group in enumerate(groups):
            block = 0 if is_shared else 2 * rank * number
            near, far = slice(block, block + rank), slice(block + rank, block + 2 * rank)
            half, change = group[0].lora_A[ADAPTER], values[DOWN][far].to(self.down.device, torch.float32)
            half.weight.copy_(change)
            half.start.copy_(values[DOWN][near].to(change) - change)
            for layer in group:
                half = layer.lora_B[ADAPTER]
                rows = values[UP][first : first + len(half.weight)]
                first += len(half.weight)
                if rows.count_nonzero() != rows[:, block : block + 2 * rank].count_nonzero():
                    raise ModelError(
                        f"{self.target.kohya_name} of the LoRA to start from is one LoRA for all of its layers.",
                        "Switch split_qkv off, or set init_lora_weights = default and network_dim to its rank.",
                        code="lora-not-split",
                    )
                half.weight.copy_(rows[:, near])
                half.start.copy_(rows[:, far])
        stated = float(parts.get(ALPHA, torch.tensor(len(parts[DOWN]))))
        self.set_alpha(stated * (len(groups) if is_shared else 1))

    def squared_norm(self) -> Tensor:
        """‖U·D‖² as of any LoRA, in rank × rank matrices; groups have other rows."""
        norms = [_product(up, down, up, down) for up, down in map(_pair, self.groups)]
        return sum(norms[1:], norms[0]) * self.scale**2

    def shrink(self, factor: float) -> None:
        """Both differences get the factor with which ‖ΔW‖ is the wanted one; ΔW is of second degree in them."""
        square, mixed, fourth = 0.0, 0.0, 0.0
        for group in self.groups:
            up, down = _pair(group)
            change = torch.cat([layer.lora_B[ADAPTER].weight for layer in group]).flatten(1)
            inner = group[0].lora_A[ADAPTER].weight.flatten(1)
            # ΔW(t) = t · (U·D − dB·dA) + t² · dB·dA
            whole, both = float(_product(up, down, up, down)), float(_product(up, down, change, inner))
            own = float(_product(change, inner, change, inner))
            square, mixed, fourth = square + whole - 2 * both + own, mixed + both - own, fourth + own
        wanted, low, high = factor**2 * (square + 2 * mixed + fourth), 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            norm = middle**2 * square + 2 * middle**3 * mixed + middle**4 * fourth
            low, high = (middle, high) if norm < wanted else (low, middle)
        for parameter in self.parameters:
            parameter.mul_(low)


def _matrix(halves: Mapping[str, Any]) -> Tensor:
    return matrix_of(halves[ADAPTER]).detach()


def _pair(group: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """[rows, 2r] and [2r, columns] of a group."""
    return torch.cat([_matrix(layer.lora_B) for layer in group]).flatten(1), _matrix(group[0].lora_A).flatten(1)


def _product(up: Tensor, down: Tensor, other_up: Tensor, other_down: Tensor) -> Tensor:
    """The inner product of two products up · down, in float64."""
    ups, downs = up.double().T @ other_up.double(), down.double() @ other_down.double().T
    return (ups * downs).sum().float()
