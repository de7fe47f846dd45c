"""The ladder: what `[memory]` does to a loaded model so that a step needs less of the device's memory."""

from __future__ import annotations

from engine.config.schema import MemoryTable
from engine.memory.base_precision import quantise
from engine.memory.block_swap import swap_blocks
from engine.memory.checkpointing import use_checkpointing
from engine.memory.compiled import compile_blocks
from engine.models.base import Model, Say


def apply_ladder(model: Model, memory: MemoryTable, say: Say) -> None:
    """Change the number format of the frozen base, and set up checkpointing, split mode and compiled blocks, in place.

    After loading, before LoRA layers are put in. Parts besides the denoiser keep their format: a family quantises a
    large frozen text encoder by itself (`quantise`).

    Raises:
        UsageError: the number format needs what is not installed.
        MemoryLimitError: split mode, and the system pins no more memory.
    """
    device = model.residence.device
    denoiser = list(model.trainable)[-1]
    if denoiser == "unet" and memory.base_precision != "auto":
        say("A UNet with a quantised base is slower, and its convolutions stay as they are: worth it only to fit.")
    quantise(model.blocks, memory.base_precision, device, say, denoiser)
    use_checkpointing(model, memory, say)
    if memory.split_mode:
        model.residence.ring = swap_blocks(model.blocks, memory.blocks_to_swap, device, say)
    if memory.torch_compile:
        compile_blocks(model.blocks, device, say)
