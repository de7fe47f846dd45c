"""Recognises out-of-memory errors, and reads the numbers in their messages. Loads no torch."""

from __future__ import annotations

import errno
import re

from engine.errors import causes

_GPU_SIGNS = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
              "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # fmt: skip
_CPU_SIGNS = ("can't allocate memory", "Cannot allocate memory", "could not create a primitive",
              "could not create a memory object", "std::bad_alloc", "failed to map segment",
              "Failed to allocate memory for requested buffer")  # fmt: skip
_SIZE = r"([\d.]+) ?(bytes|[KMGT]iB)"
_TRIED = re.compile(rf"CUDA out of memory\. Tried to allocate {_SIZE}\.")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_NUMBERS = {
    "requested": re.compile(rf"(?:tried|unable) to allocate {_SIZE}", re.IGNORECASE),
    "total": re.compile(rf"total capacity of {_SIZE}"),
    "free": re.compile(rf"of which {_SIZE} is free"),
    "allocated": re.compile(rf"{_SIZE} is allocated by PyTorch"),
    "allowed": re.compile(rf"{_SIZE} allowed;"),
    "unused": re.compile(rf"{_SIZE} is reserved by PyTorch but unallocated"),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one of its causes, is an out-of-memory on a GPU or on the CPU."""
    return any(_is_any(cause) for cause in causes(error))


def is_on_gpu(error: BaseException) -> bool:
    """Whether the memory that ran out is a GPU's."""
    return any(_is_of_gpu(cause) for cause in causes(error))


def allocation_message(error: BaseException) -> str:
    """The message of the failed allocation, on one line."""
    cause = next((cause for cause in causes(error) if _is_any(cause)), error)
    lines = str(cause).strip().splitlines()
    if not lines:
        return type(cause).__name__
    match = _TRIED.match(lines[0])  # torch then lists every process on the card
    return match[0] if match else lines[0].strip()


def reported_numbers(error: BaseException) -> dict[str, int]:
    """Bytes by name, those that the message has: requested, free, total, allocated, reserved."""
    text = "\n".join(str(cause) for cause in causes(error))
    matches = {name: pattern.search(text) for name, pattern in _NUMBERS.items()}
    numbers = {name: round(float(match[1]) * _UNITS[match[2]]) for name, match in matches.items() if match}
    unused = numbers.pop("unused", None)
    if unused is not None and "allocated" in numbers:
        numbers["reserved"] = numbers["allocated"] + unused
    allowed = numbers.pop("allowed", None)  # `set_per_process_memory_fraction`
    if allowed is not None:
        numbers["total"] = min(allowed, numbers.get("total", allowed))
        numbers["free"] = min(numbers.get("free", allowed), max(0, allowed - numbers.get("reserved", 0)))
    return numbers


def _is_any(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return _is_of_gpu(error) or any(sign in str(error) for sign in _CPU_SIGNS)


def _is_of_gpu(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or any(sign in str(error) for sign in _GPU_SIGNS)
