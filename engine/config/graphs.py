"""Which settings exclude CUDA graphs (`memory.cuda_graphs`). Loads no torch."""

from __future__ import annotations

from engine.config.schema import RunConfig


def why_no_graphs(config: RunConfig) -> str:
    """Why steps with these settings cannot be launched as CUDA graphs, as part of a sentence; empty: they can."""
    memory = config.memory
    reasons = {
        "several processes train": config.training.processes > 1,
        "split mode moves the weights": memory.split_mode,
        "activations are in the host's memory": memory.cpu_offload_checkpointing,
        "images are encoded in each step": not memory.cache_latents,
        "dropouts draw random numbers in each step": config.network.draws,
        "kohya_exact computes under autocast": config.training.kohya_exact,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
