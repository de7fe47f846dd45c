"""The hardware of this machine, and the precision chosen for it. Loads neither torch nor numpy."""

from engine.hardware.device import gpu_number, gpu_of, process_count
from engine.hardware.gpu import Gpu, GpuReport, list_gpus
from engine.hardware.packages import versions
from engine.hardware.precision import Choice, choose_precision, compute_dtype

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
    "versions",
]
