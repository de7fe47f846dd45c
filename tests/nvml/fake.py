"""Machines that are not there, through a real shared library: `nvml.c` compiled, behind pynvml's own calls.

    with playing("rtx2060"):
        list_gpus()

For another process: `environment("rtx2060")` over its own, so that pynvml finds the library by its name.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pynvml

from engine.hardware.torch_build import TorchBuild, torch_build

CUDA_TORCH = TorchBuild("2.13.0", "13.0")
SOURCE = Path(__file__).with_name("nvml.c")
MACHINES = (
    "rtx2060", "rtx4060ti", "h200", "two", "one_lost", "mig", "unified", "unsupported", "no_gpu", "none", "no_driver",
    "mismatch", "no_permission",
)  # fmt: skip


class NoCompiler(Exception):
    """There is no C compiler here."""


def library() -> Path:
    """`libnvidia-ml.so.1` in a folder of its own, compiled when the source has changed.

    Raises:
        NoCompiler: neither cc nor gcc.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("no C compiler (cc or gcc), so the stand-in for the NVIDIA driver cannot be built")
    version = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lorasmith-nvml-{os.getuid()}-{version}"
    made = folder / "libnvidia-ml.so.1"
    if not made.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        part = folder / f"{os.getpid()}.part"
        flags = ["-std=c11", "-O1", "-Wall", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run([compiler, *flags, "-o", str(part), str(SOURCE)], check=True)
        part.replace(made)
    return made


def environment(machine: str) -> dict[str, str]:
    """Variables for a process that is to see this machine."""
    return {"LD_LIBRARY_PATH": str(library().parent), "NVML_FAKE": machine}


@contextmanager
def playing(machine: str, load: int | None = None, torch: TorchBuild | None = None) -> Iterator[None]:
    """In this process, NVML answers as `machine`; outside a container, so that programs have names.

    Args:
        machine: one of MACHINES.
        load: use of every GPU in percent.
        torch: what counts as the installed PyTorch; `CUDA_TORCH` fits every machine but an old one.
    """
    variables = {"NVML_FAKE": machine} | ({} if load is None else {"NVML_FAKE_LOAD": str(load)})
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.object(pynvml, "nvmlLib", ctypes.CDLL(str(library()))),
        mock.patch.object(pynvml, "_nvmlGetFunctionPointer_cache", {}),
        mock.patch("engine.hardware.gpu.in_container", return_value=False),
        mock.patch("engine.hardware.torch_build.torch_build", return_value=torch or torch_build()),
    ):
        yield
