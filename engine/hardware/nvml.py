"""NVIDIA's management library, loaded only on use; values that it does not report are None."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


class NvmlProblem(Exception):
    """Why there is no NVML, as one plain sentence."""


@contextmanager
def opened() -> Iterator[Any]:
    """The module `pynvml`, initialised.

    Raises:
        NvmlProblem: no library, no driver, no permission.
    """
    try:
        import pynvml
    except ImportError as error:
        raise NvmlProblem("The Python package nvidia-ml-py is not installed, so no GPU can be looked up.") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlProblem(_sentence(pynvml, error)) from error
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):  # nothing is lost when the library cannot be closed
            pynvml.nvmlShutdown()


def query(nvml: Any, call: Callable[[], Any]) -> Any:
    """The result of `call`; None when this device, driver or user does not get one."""
    try:
        return call()
    except nvml.NVMLError:
        return None


def driver_version() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    try:
        with opened() as nvml:
            version = query(nvml, nvml.nvmlSystemGetDriverVersion)
    except NvmlProblem:
        return None
    return None if version is None else str(version)


def _sentence(nvml: Any, error: Exception) -> str:
    sentences = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "No NVIDIA driver is installed here (there is no libnvidia-ml).",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded; a restart usually helps.",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while it was running: its library and "
        "its kernel module differ. Restart the machine.",
        nvml.NVML_ERROR_NO_PERMISSION: "This user may not use the NVIDIA driver (no permission on /dev/nvidia*).",
        nvml.NVML_ERROR_GPU_IS_LOST: "The GPU has fallen off the bus. Restart the machine.",
        nvml.NVML_ERROR_RESET_REQUIRED: "The GPU needs a reset. Restart the machine.",
    }
    code = getattr(error, "value", None)
    return sentences.get(code, f"The NVIDIA driver does not answer: {error}.")
