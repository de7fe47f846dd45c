"""Applies `[memory]` to a loaded model, so that a step needs less of the device's memory."""

from __future__ import annotations

from engine.config.memory import MemoryTable
from engine.lowmem.block_swap import swap_blocks
from engine.lowmem.checkpointing import AdjustableModel, use_checkpointing
from engine.lowmem.compiled import compile_blocks
from engine.types import Log


def apply_memory_settings(model: AdjustableModel, memory: MemoryTable, log: Log, *, draws: bool = True) -> None:
    """Set up gradient checkpointing, split mode and compiled blocks, in place; before LoRA layers are injected.

    The base is already quantised: that happens while the weights are read (`load_part`).

    Args:
        draws: see `use_checkpointing`.

    Raises:
        MemoryLimitError: split mode, and the system refuses to pin more memory.
    """
    device = model.placement.device
    use_checkpointing(model, memory, log, draws=draws)
    if memory.split_mode:
        model.placement.ring = swap_blocks(model.blocks, memory.blocks_to_swap, device, log)
    if memory.torch_compile == "on":
        compile_blocks(model.blocks, device, log)
