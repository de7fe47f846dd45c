"""How many processes a run has on this machine, and how many it can have. Loads no torch."""

from __future__ import annotations

from engine.errors import UsageError
from engine.hardware.gpu import list_gpus
from engine.hardware.system import usable_threads
from engine.text import plural

_ALWAYS = 2
"""Processes allowed on any CPU: the demo's preset uses them."""


def usable_gpus() -> int:
    """The GPUs that are visible and that the installed PyTorch can use."""
    from engine.hardware.torch_build import torch_build

    report, build = list_gpus(), torch_build()
    return sum(build.trouble(report, gpu) is None for gpu in report.visible())


def process_count(num_processes: int | str, device: str) -> int:
    """The processes of a run with `training.num_processes`. "auto" is one for each usable GPU, and 1 where `device` is
    the CPU or names a GPU ("cuda:1")."""
    if num_processes != "auto":
        return int(num_processes)
    return max(1, usable_gpus()) if device in ("auto", "cuda") else 1


def require_processors(processes: int, device: str, gpus: int) -> None:
    """Refuse more processes than GPUs, or CPU cores: they would only share them.

    Args:
        device: `memory.device`.
        gpus: that can be used.

    Raises:
        UsageError: with the number of processors.
    """
    on_cpu = device == "cpu" or not gpus
    limit = max(usable_threads(), _ALWAYS) if on_cpu else gpus
    if processes > limit:
        processors = plural(usable_threads(), "CPU core") if on_cpu else plural(limit, "GPU")
        raise UsageError(
            f"training.num_processes is {processes}, but this machine has {processors}.",
            f"Set training.num_processes={limit}{'' if limit == 1 else ' or less'}: one process for each "
            f"{'core' if on_cpu else 'GPU'}.",
            code="too-many-processes",
        )
