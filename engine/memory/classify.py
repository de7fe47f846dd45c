"""Tells an out-of-memory from other failures."""

from __future__ import annotations

from engine.errors import MemoryLimitError

_SIGNS = (
    "can't allocate memory",
    "could not create a primitive",
    "CUDA out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)
_REMEDIES = (
    "In this order: memory.cache_latents=true, training.train_batch_size=1 with gradient_accumulation_steps, "
    "memory.gradient_checkpointing=true, a lower dataset.resolution."
)


def memory_error(error: BaseException) -> MemoryLimitError | None:
    """The sentence for an out-of-memory, on a GPU or on the CPU; None when it is something else."""
    text = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not named and not any(sign in text for sign in _SIGNS):
        return None
    return MemoryLimitError(f"Out of memory: {text.splitlines()[0] if text else 'an allocation failed'}.", _REMEDIES)
