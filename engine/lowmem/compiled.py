"""torch.compile for the denoiser's blocks, one graph for each shape of their inputs.

Identical blocks share a compiled graph; blocks that fail to compile run eagerly, which is logged once. What a
transformer's blocks get has a shape by its number of tokens: 832 x 1216 and 1216 x 832 px are one. The resnets of a
U-Net get images, whose two sides count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from engine.config.memory import MemoryTable
from engine.hardware.abilities import Abilities
from engine.lowmem.classes import has_class
from engine.lowmem.compile_cache import keep_compiled
from engine.lowmem.frozen import FrozenLayer
from engine.out_of_memory import is_out_of_memory
from engine.types import Log

LIMIT = 256
"""Most graphs of one kind of block: more than a run has buckets, for training, samples and validation."""
LEAST_UPDATES = 500
"""Updates for each shape from which on "auto" compiles, an estimate. On one core of a CPU the first step of the demo's
U-Net took 337 s, and 52 s with a cache; FLUX has a seventh of its graphs. Others report steps that take 10 to 25 % less
time, which at 0.5 s a step is 25 to 60 s in 500 updates."""


def compile_blocks(blocks: Sequence[nn.Module], device: torch.device, log: Log) -> None:
    """Set each block to be compiled at its first call, in place; the modules stay the same objects.

    In U-Nets these are the resnets and transformer blocks, which gradient checkpointing calls one by one. Blocks that
    split mode moves are not compiled: the address of their weights changes with each call.
    """
    units = [unit for block in blocks for unit in _units(block)]
    resident = [
        unit
        for unit in units
        if not any(isinstance(layer, FrozenLayer) and layer.offloaded for layer in unit.modules())
    ]
    if len(resident) < len(units):
        log(f"{len(units) - len(resident)} of {len(units)} blocks are not compiled: split mode moves their weights.")
    if not resident:
        return
    keep_compiled(log)
    if problem := why_broken(device):
        log(f"Blocks are not compiled: {problem}.")
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


def why_broken(device: torch.device) -> str:
    """Why torch.compile does not work on this machine, as part of a sentence; empty: it does. It needs a C++ compiler,
    on a GPU Triton."""
    try:
        x = torch.ones(8, device=device, requires_grad=True)
        torch.compile(lambda y: (y * 2).sum(), dynamic=False)(x).backward()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return f"torch.compile does not work here ({_first_line(error)})"
    return ""


def why_not(
    memory: MemoryTable, able: Abilities, *, half: bool, updates: int, sizes: Collection[Any], has_tokens: bool
) -> str:
    """Why "auto" compiles nothing, as part of a sentence; empty: it does. It depends on the settings, the images and
    the card alone, so that a resume computes as the run did before.

    Args:
        able: what the device computes.
        half: whether the model computes in half precision.
        updates: of the whole run.
        sizes: ((width, height), images) of every batch, each once.
        has_tokens: whether blocks get tokens only, as a transformer's do.
    """
    shapes = {(size[0] * size[1], images) if has_tokens else (size, images) for size, images in sizes}
    needed = LEAST_UPDATES * len(shapes)
    short = f"it takes longer than it saves in fewer than {needed} steps ({LEAST_UPDATES} for each shape of a batch)"
    reasons = {
        "only GPUs with tensor cores gain by it": not able.triton,
        "the model computes in float32": not half,
        "split mode moves the weights": memory.split_mode,
        short: updates < needed,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Within it a block that is not compiled yet for its inputs raises RuntimeError, in every thread: a CUDA graph
    cannot contain that."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def _raise_limits() -> None:
    """Allow so many graphs, in this thread: torch keeps such settings for each thread, and that of autograd, in which
    checkpoints are computed again, has its own."""
    settings: Any = torch._dynamo.config
    if settings.recompile_limit < LIMIT:
        settings.recompile_limit = LIMIT
        settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 8 * LIMIT)


class _Fallback:
    """Runs all blocks eagerly after the first error of the compiler."""

    def __init__(self, units: Sequence[nn.Module], log: Log) -> None:
        self.units = units
        self.log = log

    def around(self, unit: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            _raise_limits()
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
