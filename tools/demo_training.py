"""Shared parts of the demo base's training stages: clock, averaging, checkpoints, two-process data parallelism.

On a small CPU two processes of one thread each train about a third faster than one process of two threads.
"""

from __future__ import annotations

import copy
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

SEED = 20240
SAVE_EVERY = 120.0
LOG_EVERY = 20.0


@dataclass
class Clock:
    """A stage's clock: ends after `minutes` of training or `steps` (0: no limit), counted over resumed runs."""

    minutes: float
    steps: int = 0
    step: int = 0
    spent: float = 0.0
    mark: float = 0.0
    logged: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def share(self) -> float:
        """Advance the clock; the share of the budget used, 0 to 1."""
        now = time.monotonic()
        self.spent += now - self.mark if self.mark else 0.0
        self.mark = now
        by_steps = self.step / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, self.spent / (60 * self.minutes)))

    def log_due(self) -> bool:
        """Whether `LOG_EVERY` seconds have passed since it last was."""
        due = time.monotonic() - self.logged > LOG_EVERY
        self.logged = time.monotonic() if due else self.logged
        return due

    def save_due(self) -> bool:
        """Whether `SAVE_EVERY` seconds have passed since it last was."""
        due = time.monotonic() - self.saved > SAVE_EVERY
        self.saved = time.monotonic() if due else self.saved
        return due


class Ema:
    """An exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`, faster in the first steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)


class Team:
    """The processes that train one stage together."""

    def __init__(self, rank: int, size: int, meeting: Path) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=size)

    @property
    def leads(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def average(self, parameters: Sequence[nn.Parameter], share: float) -> float:
        """Average the gradients over the team in place; the leader's `share`."""
        if self.size == 1:
            return share
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in grads), torch.tensor([share * self.size if self.leads else 0.0])])
        dist.all_reduce(flat)
        flat /= self.size
        offset = 0
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = flat[offset : offset + grad.numel()].view_as(parameter)
            offset += grad.numel()
        return float(flat[-1])


def _member(rank: int, size: int, meeting: Path, stage: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    stage(Team(rank, size, meeting), *args)


def run_team(size: int, work: Path, stage: Callable[..., None], *args: Any) -> None:
    """Run `stage(team, *args)` in `size` processes of one thread each."""
    meeting = work / f"meeting_{os.getpid()}"
    meeting.unlink(missing_ok=True)
    torch_multiprocessing: Any = torch.multiprocessing
    torch_multiprocessing.spawn(_member, (size, meeting, stage, args), nprocs=size)
    meeting.unlink(missing_ok=True)


def atomic_save(state: dict[str, Any], path: Path) -> None:
    """`torch.save` that leaves either the old file or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def learning_rate(peak: float, share: float, step: int, warm: int = 100, hold: float = 0.4) -> float:
    """Linear warm-up over `warm` steps, flat up to the share `hold`, then a cosine fall to 2 %."""
    fall = max(0.0, (share - hold) / (1 - hold))
    return peak * min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


def set_rate(optimiser: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's rate to its own `peak` times `scale`."""
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * scale


def draw_many(painter: Callable[[int], np.ndarray[Any, Any]], indices: Iterable[int]) -> Tensor:
    """Images drawn in two processes, as one uint8 tensor (n, 3, height, width)."""
    with Pool(2) as pool:
        stack = np.stack(pool.map(painter, indices, chunksize=256))
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def unit_range(images: Tensor) -> Tensor:
    """uint8 to floats in -1..1, channels last."""
    return images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def seeded(index: int) -> random.Random:
    """The generator of image or caption number `index`."""
    return random.Random(SEED * 1_000_003 + index)
