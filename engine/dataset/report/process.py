"""Runs the report in its own process: the caller stays responsive, loads nothing heavy, and can cancel at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import worker
from engine.dataset.report.findings import Report
from engine.worker import OnProgress

if TYPE_CHECKING:
    from engine.config import RunConfig


@dataclass(frozen=True)
class CheckRequest:
    """A request for a report, and optionally a page and a repaired copy."""

    config: RunConfig
    html: Path | None = None
    """Path of the HTML page."""
    repair: Path | None = None
    """Folder of the repaired copy; it must not exist."""

    def as_json(self) -> dict[str, Any]:
        """The request for the process."""
        paths = {
            name: str(path.absolute()) if path else None
            for name, path in (("html", self.html), ("repair", self.repair))
        }
        return {"config": self.config.model_dump(mode="json"), **paths}


def ask(
    request: CheckRequest, progress: OnProgress = lambda *_: None, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Report, str]:
    """Run the report; return it and a sentence about the repair.

    Args:
        progress: called with (activity, done, total), in this thread.
        cancelled: called regularly; True ends the process. Finished measures stay in the cache.

    Raises:
        UsageError: no folder is set, one folder has two roles, or the folder of the copy is not allowed.
        DataError: a folder is missing, unreadable, or without any image file.
        StorageError: the page or the copy cannot be written.
        LoraSmithError: the process failed.
        Cancelled: `cancelled` returned True.
    """
    answer = worker.ask("engine.dataset.report", request.as_json(), "The dataset report", progress, cancelled)
    return Report.restored(answer["report"]), answer["repaired"]
