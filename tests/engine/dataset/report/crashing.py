"""An image that kills the process that decodes it; importable in that process."""

from __future__ import annotations

import os

from engine.dataset.report.measures import MeasureResult
from engine.dataset.report.measuring import Job


class CrashingJob(Job):
    """Dies over bars.jpg."""

    def run(self) -> MeasureResult:
        if self.image.path.name == "bars.jpg":
            os._exit(9)
        return super().run()
