"""Layers with the same input, and a LoRA each, in one pass: queries, keys and values of an attention.

Their inner matrices lie side by side in the flat parameters, so that one product computes all of them, and the
gradients to the input are summed by the products themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.flat import Slot
from engine.lowmem.frozen import add_product_back, product_into


@dataclass(frozen=True)
class Member:
    """One of the layers."""

    base: nn.Linear
    slot: Slot
    outputs: slice
    """Its columns in the joint output."""
    ranks: slice
    """Its columns in the joint product of the inner matrices."""


@dataclass(frozen=True)
class Joint:
    """Layers that are computed together."""

    members: tuple[Member, ...]
    down: Tensor
    """[R, in]: all inner matrices, each once."""
    down_gradient: Tensor
    scale: float

    @property
    def width(self) -> int:
        """The outputs of all layers."""
        return int(self.members[-1].outputs.stop)

    def outputs(self, x: Tensor, anchor: Tensor | None) -> tuple[Tensor, ...]:
        """The output [..., out] of each layer for x [..., in].

        Args:
            anchor: a tensor that requires a gradient where `x` does not.
        """
        result: tuple[Tensor, ...] = _Joint.apply(x, anchor, self)  # type: ignore[no-untyped-call]
        return result


def join(bases: Sequence[nn.Linear], slots: Sequence[Slot], scales: Sequence[float]) -> Joint | None:
    """None where the layers do not fit together: inner matrices neither common nor side by side, or other scales."""
    if len(set(scales)) > 1:
        return None
    first, members, columns = slots[0].down, [], 0
    is_shared = all(slot.down.data_ptr() == first.data_ptr() for slot in slots)
    end = first.storage_offset()
    rank = 0
    for base, slot in zip(bases, slots, strict=True):
        down = slot.down
        if not is_shared:
            if down.storage_offset() != end or down.shape[1] != first.shape[1]:
                return None
            end += down.numel()
        ranks = slice(0, len(down)) if is_shared else slice(rank, rank + len(down))
        rank = ranks.stop
        members.append(Member(base, slot, slice(columns, columns + len(slot.up)), ranks))
        columns += len(slot.up)
    size, stride = (rank, first.shape[1]), (first.shape[1], 1)
    downs, gradients = (part.as_strided(size, stride) for part in (first, slots[0].down_gradient))
    return Joint(tuple(members), downs, gradients, scales[0])


class _Joint(torch.autograd.Function):
    """x · Wᵀ + b + scale · (x · downᵀ) · upᵀ of each layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, joint: Joint) -> tuple[Tensor, ...]:
        rows = x.reshape(-1, x.shape[-1])
        hidden = rows @ joint.down.T
        result = rows.new_empty(len(rows), joint.width)
        for member in joint.members:
            out = result[:, member.outputs]
            product_into(member.base, rows, out)
            out.addmm_(hidden[:, member.ranks], member.slot.up.T, alpha=joint.scale)
        ctx.save_for_backward(x, hidden)
        ctx.joint = joint
        shaped = result.view(*x.shape[:-1], joint.width)
        return tuple(shaped[..., member.outputs] for member in joint.members)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, hidden), joint = ctx.saved_tensors, ctx.joint
        rows, scale, needs_x = x.reshape(-1, x.shape[-1]), joint.scale, ctx.needs_input_grad[0]
        inner, filled, to_x = torch.empty_like(hidden), 0, None
        for member, gradient in zip(joint.members, gradients, strict=True):
            out, slot = gradient.reshape(-1, gradient.shape[-1]), member.slot
            own = inner[:, member.ranks]
            if member.ranks.stop > filled:
                torch.mm(out, slot.up, out=own)
            else:
                own.addmm_(out, slot.up)
            filled = max(filled, member.ranks.stop)
            slot.up_gradient.addmm_(out.T, hidden[:, member.ranks], alpha=scale)
            if needs_x:
                to_x = add_product_back(member.base, out, to_x)
        joint.down_gradient.addmm_(inner.T, rows, alpha=scale)
        for member in joint.members:
            member.slot.written()
        if to_x is not None:
            to_x = to_x.addmm_(inner, joint.down, alpha=scale).view(x.shape)
        return to_x, None, None
