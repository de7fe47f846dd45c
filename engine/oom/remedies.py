"""The remedies for an out-of-memory in one ordered list, the cheapest first. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.config.graphs import why_no_graphs
from engine.config.literals import written
from engine.config.training_size import largest_batch
from engine.errors import UsageError
from engine.families.resolved import ResolvedRun
from engine.hardware import Gpu, choose_precision, gpu_number
from engine.hardware.gpu import Program
from engine.oom.base_remedies import eight_bit_base, eight_bit_optimizer, four_bit_base, split_mode
from engine.oom.remedy import OomContext, Remedy
from engine.text import listing, printable, resume_line, shell_line, size_text

MOST_ACCUMULATED = 1024
"""Limit of `training.gradient_accumulation_steps`."""
LEAST_BYTES = 64 * 2**20
"""A program that holds less VRAM than this is not worth closing."""


def remedies(run: ResolvedRun, gpu: Gpu | None, phase: str) -> list[Remedy]:
    """The remedies that apply to this run, the cheapest first.

    Args:
        gpu: where the run computes; None is the CPU.
        phase: where memory ran out: load, cache, train, sample, validate, save.
    """
    context = OomContext(run, None if gpu_number(run.config.memory.device) is None else gpu, phase)
    return [remedy for applied_to in _IN_ORDER if (remedy := applied_to(context)) is not None]


def advice(applicable: Sequence[Remedy], run_path: Path, phase: str) -> str:
    """The first remedy as a hint with the command that applies it; if that is closing programs, also the next one."""
    if not applicable and phase in ("start", "load"):
        return "The program and the model alone do not fit: close other programs, or train where there is more memory."
    if not applicable:
        return "No setting is left that keeps this LoRA as it is; a new run with a lower dataset.resolution needs less."
    sentences = []
    if not applicable[0].changes:
        sentences.append(f"{applicable[0].why} Then:\n  {resume_line(run_path)}")
    first = next((remedy for remedy in applicable if remedy.changes), None)
    if first is not None:
        options = [word for key, value in first.changes.items() for word in ("--set", f"{key}={written(value)}")]
        sentences.append(f"{first.title} saves {first.saves}:\n  {resume_line(run_path)} {shell_line(options)}")
    return "\n".join(sentences)


def _close_programs(context: OomContext) -> Remedy | None:
    gpu = context.gpu
    if gpu is None:
        return None
    others = [
        program
        for program in gpu.programs
        if program.pid != os.getpid() and (program.bytes is None or program.bytes >= LEAST_BYTES)
    ]
    if not others:
        return None
    bytes_held = sum(program.bytes or 0 for program in others)
    return Remedy(
        name="close_programs",
        title="Close other programs",
        why=f"Other programs hold memory of this card: close {listing([_named(program) for program in others])}.",
        saves=f"{size_text(bytes_held)}, which they hold now"
        if bytes_held
        else "what they hold; the driver does not report how much",
        costs="nothing for the training",
    )


def _named(program: Program) -> str:
    name = printable(program.name) if program.name else "a program that the driver does not name"
    return f"{name} ({size_text(program.bytes)})" if program.bytes else name


def _cache_latents(context: OomContext) -> Remedy | None:
    config, batch = context.config, context.config.training.train_batch_size
    if config.memory.cache_latents or context.new_pixels or not context.trains:
        return None
    encoding = f"what the VAE needs to encode {batch} images at once" if batch > 1 else "what the VAE needs to encode"
    return Remedy(
        name="cache_latents",
        title="Cache latents on disk",
        why="Each image is encoded once, before the training, instead of in every step.",
        saves=encoding if context.gpu is None else f"the VAE's weights and {encoding}",
        costs="some seconds a hundred images before the start, and disk space; the steps become faster",
        changes={"memory.cache_latents": True, "memory.cache_latents_to_disk": True},
    )


def _encode_singly(context: OomContext) -> Remedy | None:
    batch = context.config.memory.vae_batch_size
    if context.phase != "cache" or batch == 1:
        return None
    return Remedy(
        name="encode_singly",
        title="Cache one image at a time",
        why=f"The cache encodes {batch} images at once.",
        saves=f"about {batch - 1} of {batch} parts of what caching needs",
        costs="caching takes a little longer; the training is the same",
        changes={"memory.vae_batch_size": 1},
    )


def _latents_to_disk(context: OomContext) -> Remedy | None:
    memory, (width, height) = context.config.memory, context.config.dataset.size
    if context.phase != "cache" or not memory.cache_latents or memory.cache_latents_to_disk:
        return None
    image_bytes = width // 8 * (height // 8) * 8 * 4 * (2 if context.config.dataset.flip_aug else 1)
    return Remedy(
        name="latents_to_disk",
        title="Keep latents on disk",
        why="Encoded images wait in the machine's memory, and many images fill it.",
        saves=f"about {image_bytes / 2**20:.2f} MiB of the machine's memory an image; none of a card's",
        costs="disk space; the training is the same",
        changes={"memory.cache_latents_to_disk": True},
    )


def _cache_texts(context: OomContext) -> Remedy | None:
    # On the CPU a released encoder stays where it is: nothing is saved.
    cached, trains = context.config.memory.cache_text_encoder_outputs, context.trains
    if context.gpu is None or cached or not context.encodes_text_once or not trains:
        return None
    return Remedy(
        name="cache_texts",
        title="Cache text outputs",
        why="The text encoder is not trained: each caption is encoded once, and the encoder leaves the card.",
        saves="the text encoder's weights: 0.2 GiB for SD1.5 in half precision",
        costs="nothing; the training is the same, and samples bring the encoder back for a moment",
        changes={"memory.cache_text_encoder_outputs": True},
    )


def _bf16(context: OomContext) -> Remedy | None:
    # Not from fp16: both take two bytes a number.
    gpu, chosen = context.gpu, context.config.memory.mixed_precision
    if gpu is None or gpu.compute_capability is None or chosen != "no":
        return None
    try:
        choose_precision("bf16", gpu)
    except UsageError:
        return None
    major, minor = gpu.compute_capability
    return Remedy(
        name="bf16",
        title="Compute in bf16",
        why=f"The run computes in fp32, and this card has bf16 (compute capability {major}.{minor}).",
        saves="about half: weights and activations take two bytes a number instead of four",
        costs="nothing in time, it is faster; results differ slightly, the LoRA itself stays in fp32",
        changes={"memory.mixed_precision": "bf16"},
    )


def _smaller_batch(context: OomContext) -> Remedy | None:
    config = context.config
    batch = largest_batch(config)
    together = batch * config.training.gradient_accumulation_steps
    smaller = next((n for n in range(1, batch) if together % n == 0 and together // n <= MOST_ACCUMULATED), None)
    if smaller is None or not context.trains:
        return None
    key = "memory.max_batch_size" if config.dataset.dataset_config else "training.train_batch_size"
    accumulation = together // smaller
    return Remedy(
        name="smaller_batch",
        title=f"Batch {smaller} with accumulation",
        why=f"{smaller} instead of {batch} images at once; {accumulation} such batches make one step.",
        saves=f"about the activations of {batch - smaller} of {batch} images",
        costs=f"a step still learns from {together} images, but one batch after the other: slower on a GPU; images "
        "come in another order",
        changes={key: smaller, "training.gradient_accumulation_steps": accumulation},
    )


def _no_graphs(context: OomContext) -> Remedy | None:
    is_used = context.config.memory.cuda_graphs != "off" and not why_no_graphs(context.config)
    if context.gpu is None or not context.trains or not is_used:
        return None
    return Remedy(
        name="no_graphs",
        title="No CUDA graphs",
        why="A recorded step keeps its memory for itself, and batches of other shapes need theirs beside it.",
        saves="up to all that a step computes, in a run with several sizes of images; else copies of the gradients",
        costs="steps wait for the processor, as without memory.cuda_graphs; the result is the same",
        changes={"memory.cuda_graphs": "off"},
    )


def _gradient_checkpointing(context: OomContext) -> Remedy | None:
    if context.config.memory.gradient_checkpointing or not context.trains:
        return None
    return Remedy(
        name="gradient_checkpointing",
        title="Gradient checkpointing",
        why="Activations are computed a second time in the backward pass instead of being kept.",
        saves="most of the activations",
        costs="a step takes about 30 % longer; the result is the same",
        changes={"memory.gradient_checkpointing": True},
    )


def _offloaded_activations(context: OomContext) -> Remedy | None:
    memory = context.config.memory
    if context.gpu is None or not memory.gradient_checkpointing or memory.cpu_offload_checkpointing:
        return None
    if not context.trains:
        return None
    return Remedy(
        name="offloaded_activations",
        title="Activations in host memory",
        why="The activations that gradient checkpointing keeps for each block wait in the machine's memory.",
        saves="the kept activations, a few per cent of a step's memory at a small batch, more at a large one",
        costs="a step takes somewhat longer, and the machine's memory holds them; the result is the same",
        changes={"memory.cpu_offload_checkpointing": True},
    )


_IN_ORDER: tuple[Callable[[OomContext], Remedy | None], ...] = (
    _close_programs,
    _encode_singly,
    _latents_to_disk,
    _cache_latents,
    _cache_texts,
    _no_graphs,
    _bf16,
    _smaller_batch,
    _gradient_checkpointing,
    _offloaded_activations,
    eight_bit_optimizer,
    eight_bit_base,
    four_bit_base,
    split_mode,
)
