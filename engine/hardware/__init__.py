"""What this machine has, and which precision follows from it. Loads neither torch nor numpy."""

from engine.hardware.gpu import Gpu, GpuReport, list_gpus
from engine.hardware.packages import versions
from engine.hardware.precision import Choice, choose_precision

__all__ = ["Choice", "Gpu", "GpuReport", "choose_precision", "list_gpus", "versions"]
