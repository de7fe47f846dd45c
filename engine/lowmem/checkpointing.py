"""Gradient checkpointing in four levels (Chen et al. 2016): no blocks; some; all; all, with inputs on the host.

diffusers and transformers decide what a checkpoint is: in UNets each resnet and each transformer block, in FLUX and in
text encoders each block. This module decides which of them are recomputed, and where their inputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from engine.config.schema import MemoryTable
from engine.types import Log


class AdjustableModel(Protocol):
    """The part of `engine.families.base.Model` that is adjusted."""

    trainable: dict[str, nn.Module]
    placement: Any

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The denoiser's blocks, in the order of its forward pass."""


def use_checkpointing(model: AdjustableModel, memory: MemoryTable, log: Log) -> None:
    """Switch it on or off in every trainable component, by `memory`; transformers uses it in training mode only.

    `checkpointed_blocks` and `cpu_offload_checkpointing` are for the denoiser; text encoders are small.
    """
    *encoders, denoiser = model.trainable.values()
    enabled = memory.gradient_checkpointing
    # transformers' public method also hooks the embeddings so that a frozen encoder requires gradients.
    for encoder in encoders:
        encoder._set_gradient_checkpointing(enabled, _plain)  # type: ignore[operator]
    blocks = _checkpointed(model.blocks, memory.checkpointed_blocks)
    if enabled and len(blocks) < len(model.blocks):
        log(f"Gradient checkpointing in {len(blocks)} of {len(model.blocks)} blocks (checkpointed_blocks).")
    elif enabled and memory.checkpointed_blocks is not None:
        log(f"Gradient checkpointing in all {len(blocks)} blocks: checkpointed_blocks excludes none.")
    if memory.cpu_offload_checkpointing and model.placement.device.type == "cpu":
        log("cpu_offload_checkpointing on the CPU saves nothing: host and device are the same memory.")
    inside = {module for block in blocks for module in block.modules()}
    keep = _offloaded if memory.cpu_offload_checkpointing else _plain

    def run(module: Callable[..., Any], *args: Any) -> Any:
        return keep(module, *args) if module in inside else module(*args)

    if enabled:
        denoiser.enable_gradient_checkpointing(run)  # type: ignore[operator]
    else:
        denoiser.disable_gradient_checkpointing()  # type: ignore[operator]


def _checkpointed(blocks: Sequence[nn.Module], count: int | None) -> Sequence[nn.Module]:
    """The blocks that are recomputed.

    Of a UNet the outermost first: at the highest resolution they keep the most, and the up blocks keep more than the
    down blocks. Of a transformer, whose blocks are equal, the first ones: when they are recomputed, at the end of the
    backward pass, the activations of the others are already freed.
    """
    if count is None or count >= len(blocks):
        return blocks
    if not hasattr(blocks[0], "resnets"):
        return blocks[:count]
    last = len(blocks) - 1
    order = sorted(range(len(blocks)), key=lambda index: (min(index, last - index), -index))
    return [blocks[index] for index in sorted(order[:count])]


def _plain(module: Callable[..., Any], *args: Any) -> Any:
    return checkpoint(module, *args, use_reentrant=False)


def _offloaded(module: Callable[..., Any], *args: Any) -> Any:
    """A checkpoint whose inputs are kept on the host.

    Outside the checkpoint's own hooks only its inputs are saved. Those without a gradient are shared by all blocks
    (embeddings of the timestep and of positions): one copy on the device is less than one a block on the host.
    """
    moved = {_memory(arg) for arg in args if isinstance(arg, Tensor) and arg.requires_grad}

    def pack(tensor: Tensor) -> Tensor | _OnHost:  # gets aliases without requires_grad
        return _OnHost(tensor) if _memory(tensor) in moved else tensor

    def unpack(packed: Tensor | _OnHost) -> Tensor:
        return packed.back() if isinstance(packed, _OnHost) else packed

    with saved_tensors_hooks(pack, unpack):
        return checkpoint(module, *args, use_reentrant=False)


def _memory(tensor: Tensor) -> int:
    """An id that all tensors with the same memory share."""
    return int(tensor.untyped_storage()._cdata)


@cache
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _OnHost:
    """One tensor in the host's memory. From a GPU it is copied on a separate stream, while the step continues."""

    def __init__(self, tensor: Tensor) -> None:
        self.device = tensor.device
        self.arrived: Any = None
        if not tensor.is_cuda or isinstance(tensor, FakeTensor):
            self.copy = tensor.to("cpu", copy=True)
            return
        stream = _stream(tensor.device)
        self.copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(stream):
            self.copy.copy_(tensor, non_blocking=True)
            self.arrived = stream.record_event()
        tensor.record_stream(stream)

    def back(self) -> Tensor:
        """The tensor, copied back to its device."""
        if self.arrived is not None:
            torch.cuda.current_stream(self.device).wait_event(self.arrived)
        return self.copy.to(self.device, non_blocking=True)
