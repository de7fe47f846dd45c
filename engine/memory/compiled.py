"""torch.compile for the denoiser's blocks, one graph for each shape that a bucket gives.

Blocks alike share their graphs. What cannot be compiled runs as it is, which is said once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from engine.memory.classify import is_out_of_memory
from engine.memory.frozen import Frozen
from engine.models.base import Say

LIMIT = 256
"""Graphs that one kind of block may have: more than a run has buckets, for training, samples and validation."""


def compile_blocks(blocks: Sequence[nn.Module], device: torch.device, say: Say) -> None:
    """Let each block be compiled when it is first called, in place; the modules stay the same objects.

    In UNets these are the resnets and transformer blocks, which gradient checkpointing calls one by one. Blocks that
    split mode moves are left out: their weights come from another place in each call.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, LIMIT)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 8 * LIMIT)
    units = [unit for block in blocks for unit in _units(block)]
    still = [unit for unit in units if not any(isinstance(layer, Frozen) and layer.seat for layer in unit.modules())]
    if len(still) < len(units):
        say(f"{len(units) - len(still)} of {len(units)} blocks are not compiled: split mode moves their weights.")
    if not still or not _works(device, say):
        return
    fallback = _Fallback(still, say)
    for unit in still:
        unit.compile(dynamic=False)
        unit._compiled_call_impl = fallback.around(unit, unit._compiled_call_impl)  # type: ignore[arg-type]
    say(f"{len(still)} blocks are compiled in their first step, once for each bucket; those steps take long.")


def _units(block: nn.Module) -> Iterator[nn.Module]:
    if not hasattr(block, "resnets"):
        yield block
        return
    for module in block.modules():
        if type(module).__name__ in ("ResnetBlock2D", "BasicTransformerBlock"):
            yield module


def _works(device: torch.device, say: Say) -> bool:
    """Whether this machine has what torch.compile needs: a C++ compiler, on a GPU Triton."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda y: (y * 2).sum(), dynamic=False)(x).backward()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        say(f"Blocks are not compiled: torch.compile does not work here ({_first_line(error)}).")
        return False
    return True


class _Fallback:
    """Runs the blocks as they are from the first error of the compiler on."""

    def __init__(self, units: Sequence[nn.Module], say: Say) -> None:
        self.units = units
        self.say = say

    def around(self, unit: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                for each in self.units:
                    each._compiled_call_impl = None
                self.say(f"Blocks are no longer compiled: {_first_line(error)}.")
            return unit(*args, **kwargs)

        return call


def _first_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # of the backend; the outer one tells only that it failed
    return str(cause).strip().partition("\n")[0].rstrip(".") or type(cause).__name__
