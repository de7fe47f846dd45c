"""Gradient checkpointing in four levels (Chen et al. 2016): no blocks; some; all; all, with inputs on the host.

diffusers and transformers decide what a checkpoint is: in U-Nets each resnet and each transformer block, in FLUX and in
text encoders each block. This module decides which of them are recomputed, and where their inputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from engine.config.memory import MemoryTable
from engine.types import Log


class AdjustableModel(Protocol):
    """The part of `engine.families.base.Model` that is adjusted."""

    trainable: dict[str, nn.Module]
    placement: Any

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The denoiser's blocks, in the order of its forward pass."""


def use_checkpointing(model: AdjustableModel, memory: MemoryTable, log: Log, *, draws: bool = True) -> None:
    """Switch it on or off in every trainable component, by `memory`; transformers uses it in training mode only.

    `checkpointed_blocks` and `cpu_offload_checkpointing` are for the denoiser; text encoders are small.

    Args:
        draws: whether its blocks use random numbers, which a recomputation must repeat.
    """
    *encoders, denoiser = model.trainable.values()
    again = partial(checkpoint, use_reentrant=False, preserve_rng_state=draws)
    enabled = memory.gradient_checkpointing
    # transformers' public method also hooks the embeddings so that a frozen encoder requires gradients.
    for encoder in encoders:
        encoder._set_gradient_checkpointing(enabled, again)  # type: ignore[operator]
    blocks = _checkpointed(model.blocks, memory.checkpointed_blocks)
    if enabled and len(blocks) < len(model.blocks):
        log(f"Gradient checkpointing in {len(blocks)} of {len(model.blocks)} blocks (checkpointed_blocks).")
    elif enabled and memory.checkpointed_blocks is not None:
        log(f"Gradient checkpointing in all {len(blocks)} blocks: checkpointed_blocks excludes none.")
    if memory.cpu_offload_checkpointing and model.placement.device.type == "cpu":
        log("cpu_offload_checkpointing on the CPU saves nothing: host and device are the same memory.")
    inside = {module for block in blocks for module in block.modules()}
    on_host = memory.cpu_offload_checkpointing

    def run(module: Any, *args: Any) -> Any:
        if module not in inside:
            return module(*args)
        if memory.torch_compile == "on" or not (
            getattr(module, "enters_once", False) or _only_first_have_gradients(args)
        ):
            return _hooked(module, *args) if on_host else again(module, *args)
        return recompute(module, *args, on_host=on_host, draws=draws)

    if enabled:
        denoiser.enable_gradient_checkpointing(run)  # type: ignore[operator]
    else:
        denoiser.disable_gradient_checkpointing()  # type: ignore[operator]


def _checkpointed(blocks: Sequence[nn.Module], count: int | None) -> Sequence[nn.Module]:
    """The blocks that are recomputed.

    Of a U-Net the outermost first: at the highest resolution they keep the most, and the up blocks keep more than the
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


def _only_first_have_gradients(args: Sequence[Any]) -> bool:
    """Whether only the first two inputs have gradients, and not what all blocks get: the text, if its encoder is
    trained. What a block adds to that would be summed inside of the block first, and so rounded in another way than
    without a checkpoint. The first two are taken for the outputs of the block before, which nothing else reads; a model
    where other blocks read them too (a U-Net) has blocks with `enters_once`, whose sums are always made inside."""
    return not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args[2:])


def recompute(module: nn.Module, *args: Any, on_host: bool = False, draws: bool = False) -> Any:
    """The module's output; what its backward pass needs is computed again there, from its inputs.

    Nothing watches the tensors that operations save: torch's own checkpoint has a Python hook for each of them. It is
    used with torch.compile, whose graphs are made for a forward pass that autograd watches.

    Args:
        args: of the module; only tensors that are no part of another argument get gradients.
        on_host: see `_hooked`.
        draws: see `use_checkpointing`.
    """
    if not torch.is_grad_enabled():
        return module(*args)
    anchor = None
    if not any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        anchor = next((parameter for parameter in module.parameters() if parameter.requires_grad), None)
        if anchor is None:  # nothing in it is trained, and nothing before it
            return module(*args)
    return _Recomputed.apply(module, (on_host, draws), anchor, *args)  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: nn.Module, how: tuple[bool, bool], anchor: Tensor | None, *args: Any) -> Any:
        on_host, draws = how
        needed = ctx.needs_input_grad[3:]
        ctx.module, ctx.random = module, _RandomStates(args) if draws else None
        ctx.autocast = _autocast_of(args)
        tensors = [isinstance(arg, Tensor) for arg in args]
        away = [on_host and tensor and needs for tensor, needs in zip(tensors, needed, strict=True)]
        ctx.here = [tensor and not moved for tensor, moved in zip(tensors, away, strict=True)]
        ctx.save_for_backward(*(arg for arg, here in zip(args, ctx.here, strict=True) if here))
        ctx.others = [
            None if here else _OnHost(arg) if moved else arg
            for arg, here, moved in zip(args, ctx.here, away, strict=True)
        ]
        return module(*(arg.detach() if isinstance(arg, Tensor) else arg for arg in args))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        saved, others, needed = iter(ctx.saved_tensors), ctx.others, ctx.needs_input_grad[3:]
        ctx.others = None  # this object lives as long as the loss
        args = [next(saved) if here else other for here, other in zip(ctx.here, others, strict=True)]
        args = [arg.back() if isinstance(arg, _OnHost) else arg for arg in args]
        args = [arg.detach().requires_grad_(needs) if isinstance(arg, Tensor) else arg
                for arg, needs in zip(args, needed, strict=True)]  # fmt: skip
        with torch.enable_grad(), ctx.autocast(), nullcontext() if ctx.random is None else ctx.random.again():
            outputs = ctx.module(*args)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True)
                 if output.requires_grad]  # fmt: skip
        torch.autograd.backward(*zip(*pairs, strict=True))  # type: ignore[arg-type]
        return None, None, None, *(arg.grad if needs else None for arg, needs in zip(args, needed, strict=True))


def _autocast_of(args: Sequence[Any]) -> Callable[[], Any]:
    """Makes contexts with autocast as it is here, for the device of the arguments."""
    kind = _device_of(args).type
    enabled = torch.is_autocast_enabled(kind)
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind)) if enabled else nullcontext


def _device_of(args: Sequence[Any]) -> torch.device:
    return next(arg.device for arg in args if isinstance(arg, Tensor))


class _RandomStates:
    """The states of torch's generators, on the CPU and on the device of the arguments, to be used again."""

    def __init__(self, args: Sequence[Any]) -> None:
        self._device, self._cpu = _device_of(args), torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within it the same random numbers come; afterwards the generators are as they were before."""
        with torch.random.fork_rng([] if self._gpu is None else [self._device]):
            torch.set_rng_state(self._cpu)
            if self._gpu is not None:
                torch.cuda.set_rng_state(self._gpu, self._device)
            yield


def _hooked(module: Callable[..., Any], *args: Any) -> Any:
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
