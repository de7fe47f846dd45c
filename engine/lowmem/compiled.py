"""torch.compile for the denoiser's blocks, one graph for each bucket's shape.

Identical blocks share a compiled graph; blocks that fail to compile run eagerly, which is logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from engine.lowmem.classes import has_class
from engine.lowmem.frozen import FrozenLayer
from engine.out_of_memory import is_out_of_memory
from engine.types import Log

LIMIT = 256
"""Most graphs of one kind of block: more than a run has buckets, for training, samples and validation."""


def compile_blocks(blocks: Sequence[nn.Module], device: torch.device, log: Log) -> None:
    """Set each block to be compiled at its first call, in place; the modules stay the same objects.

    In UNets these are the resnets and transformer blocks, which gradient checkpointing calls one by one. Blocks that
    split mode moves are not compiled: the address of their weights changes with each call.
    """
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, LIMIT)
    settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 8 * LIMIT)
    units = [unit for block in blocks for unit in _units(block)]
    resident = [
        unit
        for unit in units
        if not any(isinstance(layer, FrozenLayer) and layer.offloaded for layer in unit.modules())
    ]
    if len(resident) < len(units):
        log(f"{len(units) - len(resident)} of {len(units)} blocks are not compiled: split mode moves their weights.")
    if not resident or not _works(device, log):
        return
    fallback = _Fallback(resident, log)
    for unit in resident:
        unit.compile(dynamic=False)
        unit._compiled_call_impl = fallback.around(unit, unit._compiled_call_impl)  # type: ignore[arg-type]
    log(f"{len(resident)} blocks are compiled in their first step, once for each bucket; those steps take long.")


def _units(block: nn.Module) -> Iterator[nn.Module]:
    if not hasattr(block, "resnets"):
        yield block
        return
    for module in block.modules():
        if has_class(module, ("ResnetBlock2D", "BasicTransformerBlock")):
            yield module


def _works(device: torch.device, log: Log) -> bool:
    """Whether torch.compile works on this machine: it needs a C++ compiler, on a GPU Triton."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda y: (y * 2).sum(), dynamic=False)(x).backward()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log(f"Blocks are not compiled: torch.compile does not work here ({_first_line(error)}).")
        return False
    return True


class _Fallback:
    """Runs all blocks eagerly after the first error of the compiler."""

    def __init__(self, units: Sequence[nn.Module], log: Log) -> None:
        self.units = units
        self.log = log

    def around(self, unit: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                for other in self.units:
                    other._compiled_call_impl = None
                self.log(f"Blocks are no longer compiled: {_first_line(error)}.")
            return unit(*args, **kwargs)

        return call


def _first_line(error: Exception) -> str:
    cause = getattr(error, "inner_exception", error)  # the backend's error; the outer one only reports a failure
    return str(cause).strip().partition("\n")[0].rstrip(".") or type(cause).__name__
