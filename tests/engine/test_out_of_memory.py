"""An out-of-memory is known by what torch, NumPy and the system say, and its numbers are read from it."""

from __future__ import annotations

import errno
import os

import pytest

from engine.errors import ModelError
from engine.out_of_memory import allocation_message, is_on_gpu, is_out_of_memory, reported_numbers

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "25165824 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB of which 512.50 MiB is "
    "free. Including non-PyTorch memory, this process has 22.00 GiB memory in use. Of the allocated memory 20.50 GiB "
    "is allocated by PyTorch, and 1.25 GiB is reserved by PyTorch but unallocated. If reserved but unallocated memory "
    "is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
)


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CPU),
        OutOfMemoryError(CUDA),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
        MemoryError("Unable to allocate 1.50 GiB for an array with shape (9, 9) and data type float32"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:20]}",
)
def test_out_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert "\n" not in allocation_message(error) and allocation_message(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes cannot be multiplied"), OSError(errno.ENOSPC, "No space left on device"), KeyError("memory")],
)
def test_other_failures(error: Exception) -> None:
    assert not is_out_of_memory(error) and reported_numbers(error) == {}


def test_what_it_was_raised_from_counts() -> None:
    error = ModelError("model.safetensors cannot be read.")
    error.__cause__ = OSError(errno.ENOMEM, "Cannot allocate memory")
    assert is_out_of_memory(error) and allocation_message(error) == "[Errno 12] Cannot allocate memory"
    error.__cause__ = OSError(errno.EACCES, "Permission denied")
    assert not is_out_of_memory(error)


def test_numbers_of_the_cpu() -> None:
    error = RuntimeError(f"{CPU}\nException raised from alloc_cpu")
    assert reported_numbers(error) == {"requested": 25165824}
    assert allocation_message(error) == CPU and not is_on_gpu(error)


def test_numbers_of_a_gpu() -> None:
    error = OutOfMemoryError(CUDA)
    assert is_on_gpu(error)
    assert reported_numbers(error) == {
        "requested": 2 * 2**30,
        "total": round(23.65 * 2**30),
        "free": round(512.5 * 2**20),
        "allocated": round(20.5 * 2**30),
        "reserved": round(21.75 * 2**30),
    }


def test_numpy_reports_the_requested_size() -> None:
    assert reported_numbers(MemoryError("Unable to allocate 1.50 GiB for an array"))["requested"] == 1.5 * 2**30


def test_a_share_of_a_gpu_is_all_there_is() -> None:
    numbers = reported_numbers(
        OutOfMemoryError(CUDA.replace("Of the allocated", "22.00 GiB allowed; Of the allocated"))
    )
    assert (numbers["total"], numbers["free"]) == (22 * 2**30, 2**28)


def test_what_torch_reports_of_other_processes_is_left_out() -> None:
    error = RuntimeError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 119.16 GiB "
        "is free. Process 468 has 618.00 MiB memory in use. 8.00 GiB allowed; Of the allocated memory 7.95 GiB is "
        "allocated by PyTorch, and 42.91 MiB is reserved by PyTorch but unallocated."
    )
    assert allocation_message(error) == "CUDA out of memory. Tried to allocate 20.00 MiB."
    assert reported_numbers(error)["free"] < 2**20 * 10
