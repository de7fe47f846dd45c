"""The table `memory`: precision, caches, checkpointing, what runs where."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from engine import paths
from engine.config.fields import Table, setting
from engine.config.moved import present_value
from engine.config.values import (
    BasePrecision,
    CudaGraphs,
    Device,
    OnOutOfMemory,
    Precision,
    TorchCompile,
)


class MemoryTable(Table):
    """`[memory]`: settings of memory and speed."""

    device: Device = setting("auto", "Device", "auto: the first GPU, else the CPU. Or cpu, cuda, cuda:1, ...")
    mixed_precision: Precision = setting(
        "auto", "Precision", "auto: bf16 where the GPU has it, else fp16, on the CPU fp32 (no).", vram="fp16/bf16: less"
    )
    gradient_checkpointing: bool = setting(
        False,
        "Gradient checkpointing",
        "Compute activations twice instead of keeping them: less VRAM, about 30 % slower.",
        vram="much less",
    )
    checkpointed_blocks: int | None = setting(
        None,
        "Blocks recomputed",
        "Gradient checkpointing in this many of the denoiser's blocks; unset: in all.",
        ge=1,
        le=1000,
        unit="blocks",
        vram="fewer: more",
        advanced=True,
    )
    cpu_offload_checkpointing: bool = setting(
        False,
        "Activations in host memory",
        "The activations that gradient checkpointing keeps are in the machine's memory: less VRAM, slower.",
        vram="less",
        advanced=True,
    )
    base_precision: BasePrecision = setting(
        "auto",
        "Base number format",
        "Of the frozen weights. auto: as the computation; int8 and fp8 need half of it, nf4 a quarter, decoded for "
        "each product. int8_w8a8 (from RTX 20 on) and fp8_w8a8 (from RTX 40 on) multiply in 8 bits, at up to twice the "
        "rate, and round activations and gradients too.",
        vram="all but auto: much less",
    )
    split_mode: bool = setting(
        False,
        "Split mode",
        "Frozen blocks are in the machine's memory and move to the card one after the other: slower.",
        vram="much less",
    )
    blocks_to_swap: int | None = setting(
        None,
        "Blocks to swap",
        "How many blocks split mode keeps off the card. By default all; fewer is faster and needs more VRAM.",
        ge=1,
        le=1000,
        unit="blocks",
        vram="less",
        advanced=True,
    )
    torch_compile: TorchCompile = setting(
        "off",
        "Compile blocks",
        "Compile each block for the GPU: a slow start, then faster steps. auto: from RTX 20 on, in runs of 500 steps "
        "and more for each shape of a batch. Not measured on a card so far, and so off by default.",
        advanced=True,
    )
    cuda_graphs: CudaGraphs = setting(
        "off",
        "CUDA graphs",
        "Start a step's operations all at once, from a recording of an earlier one: faster where the card waits for "
        "the processor. auto: in runs of 200 steps and more. Not used where a recording gives other values.",
        advanced=True,
    )
    deterministic: bool = setting(
        True,
        "Deterministic",
        "GPU: only deterministic kernels, so that a resume is exact. Off: attention takes a third less time and up to "
        "0.3 GiB less, and is cuDNN's where that passes a test at the run's own sizes.",
        advanced=True,
    )
    on_oom: OnOutOfMemory = setting(
        "auto",
        "Out of memory",
        "retry: continue with the next remedy; ask: show the remedies; stop: end. auto: ask on the screen, else retry.",
        advanced=True,
    )
    cache_latents: bool = setting(
        True,
        "Cache latents",
        "Encode each image once and free the VAE. Off, every step encodes its images.",
        vram="less",
    )
    cache_latents_to_disk: bool = setting(
        False, "Latents on disk", "Keep the cache for the next run; about 0.1 MiB an image at 512 px."
    )
    cache_text_encoder_outputs: bool = setting(
        False,
        "Cache text outputs",
        "Encode every caption of the run once and free the text encoder; it is then not trained.",
        vram="less",
    )
    cache_text_encoder_outputs_to_disk: bool = setting(
        False,
        "Text outputs on disk",
        "Keep the encoded captions on disk, so that the next run does not encode them again.",
        advanced=True,
    )
    cache_dir: str | None = setting(
        None, "Cache folder", "Folder for caches on disk. By default it is next to the run's output.", advanced=True
    )
    max_batch_size: int | None = setting(
        None,
        "Largest batch",
        "Larger batches of a dataset configuration are cut to it; set by a remedy.",
        ge=1,
        le=1024,
        unit="images",
        vram="more",
        advanced=True,
    )
    vae_batch_size: int = setting(
        1,
        "Caching batch",
        "Images that are encoded together while caching. Lower it if that runs out of memory.",
        ge=1,
        le=64,
        unit="images",
        vram="more",
        advanced=True,
    )
    num_cpu_threads_per_process: int | None = setting(
        None,
        "CPU threads",
        "CPU threads of the trainer. By default all cores.",
        ge=1,
        le=1024,
        unit="threads",
        advanced=True,
    )

    @field_validator("torch_compile", mode="before")
    @classmethod
    def _not_a_flag(cls, value: object) -> object:
        return present_value("memory.torch_compile", value)

    @property
    def cache_root(self) -> Path:
        """The folder of the caches on disk."""
        return Path(self.cache_dir) if self.cache_dir else paths.user_cache()
