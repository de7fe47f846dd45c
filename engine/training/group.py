"""Joins the group of the processes that train one run together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from engine.world import World

_WAIT = timedelta(minutes=15)
"""For the other processes to join."""
_ANSWER = timedelta(hours=6)
"""For an answer: the other ranks wait while rank 0 generates samples."""


def join(world: World) -> None:
    """Meet the other processes at MASTER_ADDR:MASTER_PORT; does nothing when alone, and the second time.

    Raises:
        RuntimeError: not all of them came.
    """
    if world.size == 1 or distributed.is_initialized():
        return
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))  # accelerate goes by it
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(world.local_rank)
    store, rank, size = next(iter(rendezvous("env://", timeout=_WAIT)))
    store.set_timeout(_ANSWER)
    backend = "cpu:gloo,cuda:nccl" if has_cuda else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_ANSWER)


T = TypeVar("T")


def gathered(value: T, world: World) -> list[T]:
    """The value of each process, on every one of them, by rank."""
    if world.size == 1:
        return [value]
    values = [value] * world.size
    distributed.all_gather_object(values, value)
    return values


def common_precision(choices: Sequence[str]) -> str:
    """What all of these processes can compute in: fp16 where one has no bf16, fp32 ("no") where one needs that."""
    return next(precision for precision in ("no", "fp16", "bf16") if precision in choices)
