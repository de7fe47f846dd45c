"""The ladder: what `[memory]` does to a loaded model so that a step needs less of the device's memory."""

from __future__ import annotations

from engine.config.schema import MemoryTable
from engine.memory.block_swap import swap_blocks
from engine.memory.checkpointing import use_checkpointing
from engine.memory.compiled import compile_blocks
from engine.models.base import Model, Say


def apply_ladder(model: Model, memory: MemoryTable, say: Say) -> None:
    """Set up gradient checkpointing, split mode and compiled blocks, in place; before LoRA layers are put in.

    The number format of the frozen base is there already: it is given while the weights are read (`load_part`).

    Raises:
        MemoryLimitError: split mode, and the system pins no more memory.
    """
    device = model.residence.device
    use_checkpointing(model, memory, say)
    if memory.split_mode:
        model.residence.ring = swap_blocks(model.blocks, memory.blocks_to_swap, device, say)
    if memory.torch_compile:
        compile_blocks(model.blocks, device, say)
