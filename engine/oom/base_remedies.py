"""Remedies that shrink the frozen base's weights or the optimizer's state."""

from __future__ import annotations

import importlib.util

from engine.config.network import FROM_BASE
from engine.config.optimizers import optimizer_settings
from engine.errors import UsageError
from engine.oom.remedy import OomContext, Remedy


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def eight_bit_optimizer(context: OomContext) -> Remedy | None:
    """AdamW's two moments in eight bits."""
    applies = context.trains and context.gpu is not None and _has_bitsandbytes()
    if not applies or context.config.training.optimizer_type.lower() != "adamw":
        return None
    try:
        optimizer_settings("AdamW8bit", context.config.training.optimizer_args)
    except UsageError:  # a setting that only AdamW has
        return None
    return Remedy(
        name="eight_bit_optimizer",
        title="8-bit AdamW",
        why="AdamW keeps two numbers for each trained one; bitsandbytes keeps them in eight bits.",
        saves="about 6 bytes for each trained number, three quarters of the optimizer's state",
        costs="a step is somewhat slower; the moments start over, so the next steps are less smooth",
        changes={"training.optimizer_type": "AdamW8bit"},
    )


def eight_bit_base(context: OomContext) -> Remedy | None:
    """The frozen weights in int8."""
    if context.gpu is None or context.config.memory.base_precision != "auto":
        return None
    if context.config.network.initialisation in FROM_BASE:  # their constants are of the exact weights
        return None
    return Remedy(
        name="eight_bit_base",
        title="Frozen weights in 8 bits",
        why="The model's own weights do not change in the training: they are kept in eight bits and expanded in use.",
        saves="about half of the linear layers' weights",
        costs="each step expands them: slower, most of all with SD 1.5 and SDXL; the LoRA learns on a slightly rounded "
        "model",
        changes={"memory.base_precision": "int8"},
    )


def four_bit_base(context: OomContext) -> Remedy | None:
    """The frozen weights in NF4."""
    if context.gpu is None or context.config.memory.base_precision in ("auto", "nf4"):
        return None
    if not _has_bitsandbytes():
        return None
    return Remedy(
        name="four_bit_base",
        title="Frozen weights in 4 bits",
        why="NF4 (Dettmers et al. 2023) keeps the frozen weights in four bits each.",
        saves="about half of what the 8-bit weights take",
        costs="each step expands them: slower; the LoRA learns on a rounded model, fine details suffer first",
        changes={"memory.base_precision": "nf4"},
    )


def split_mode(context: OomContext) -> Remedy | None:
    """Block swap."""
    memory, on = context.config.memory, {"memory.split_mode": True}
    if context.gpu is None or (memory.split_mode and memory.blocks_to_swap is None):
        return None
    if memory.split_mode:
        return Remedy(
            name="split_mode",
            title="Split mode for all blocks",
            why=f"{memory.blocks_to_swap} blocks wait in the machine's memory; with blocks_to_swap none, all do.",
            saves="the frozen weights of the blocks that are on the card now",
            costs="each step moves more over the bus: slower; the result is the same",
            # if only the number of blocks was configured, that switched the mode on
            changes={**({} if context.run.written.memory.split_mode else on), "memory.blocks_to_swap": None},
        )
    return Remedy(
        name="split_mode",
        title="Split mode",
        why="The frozen blocks wait in the machine's memory and come to the card one after the other.",
        saves="nearly all of the frozen weights; a few blocks stay on the card",
        costs="each step moves the model over the bus: 1.5 to 3 times slower; the result is the same",
        changes={**on, "memory.blocks_to_swap": None},
    )
