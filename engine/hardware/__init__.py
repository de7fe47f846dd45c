"""The hardware of this machine, and the precision chosen for it. Loads neither torch nor numpy."""

from engine.hardware.device import gpu_number, gpu_of
from engine.hardware.gpu import Gpu, GpuReport, list_gpus
from engine.hardware.packages import versions
from engine.hardware.precision import Choice, choose_precision, compute_dtype
from engine.hardware.processors import process_count, require_processors, usable_gpus

__all__ = [
    "Choice",
    "Gpu",
    "GpuReport",
    "choose_precision",
    "compute_dtype",
    "gpu_number",
    "gpu_of",
    "list_gpus",
    "process_count",
    "require_processors",
    "usable_gpus",
    "versions",
]
