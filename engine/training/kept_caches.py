"""Which cached latents and texts stay on the GPU: those of small sets, where the run leaves room."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engine.config.changes import EffectiveConfig
from engine.estimate.plan import USABLE, Plan
from engine.estimate.plan_cache import find
from engine.estimate.planner import request_for
from engine.families.resolved import resolve_run
from engine.models.device import torch_gpu
from engine.text import size_text
from engine.training.prepare import Prepared
from engine.types import Log

SHARE = 0.02
"""Of a card's memory, at most, where the run's plan is not known."""
MOST = 256 * 2**20
"""Bytes, at most, where the run's plan is not known."""


def room_of(total: int, free: int, reserved: int, plan: Plan | None) -> int:
    """Bytes of a card that caches may take: half of what the run will leave.

    Args:
        total: of the card.
        free: that nobody has reserved.
        reserved: by this process's allocator.
        plan: of the run; None: not known.
    """
    if plan is None:
        return min(int(total * SHARE), MOST, free)
    left = free - int(total * (1 - USABLE)) - max(0, plan.peak.reserved - reserved)
    return max(0, left // 2)


def fitting(sizes: Mapping[str, int], room: int) -> list[str]:
    """The names that fit into `room` together, the smallest first.

    Args:
        sizes: bytes of each.
    """
    names: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room >= 0:
            names.append(name)
    return names


def keep_small_caches(prepared: Prepared, config: EffectiveConfig, log: Log) -> int:
    """Keep caches on the GPU for the batches of `prepared`, if they fit; on the CPU nothing changes.

    Returns:
        The bytes that they take there, once every batch was used.
    """
    batches, device = prepared.batches, prepared.accelerator.device
    latents, texts = batches.latents, batches.texts
    if device.type != "cuda":
        return 0
    sizes = {"texts": texts.nbytes} if texts is not None else {}
    # The noise that depends on the latents is computed on the CPU.
    if latents is not None and config.training.adaptive_noise_scale is None:
        sizes["latents"] = latents.nbytes
    free, total = torch.cuda.mem_get_info(device)
    names = fitting(sizes, room_of(total, free, torch.cuda.memory_reserved(device), _known_plan(prepared, config)))
    if latents is not None and "latents" in names:
        batches.kept_latents = latents.on_device(device)
    if texts is not None and "texts" in names:
        batches.kept_texts = texts.on_device(device)
    kept = sum(sizes[name] for name in names)
    if names:
        log(f"Cached {' and '.join(names)}, {size_text(kept)}, stay on the GPU: the run leaves room.")
    return kept


def _known_plan(prepared: Prepared, config: EffectiveConfig) -> Plan | None:
    run = resolve_run(config, prepared.recognition)
    request = request_for(run, prepared.plan, torch_gpu(prepared.accelerator.device.index or 0))
    return None if request is None else find(request)
