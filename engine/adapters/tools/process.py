"""Runs a tool in a separate process, so that the caller loads no torch."""

from __future__ import annotations

from engine import worker
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import Request
from engine.worker import OnProgress


def run_tool(request: Request, progress: OnProgress = lambda *_: None) -> ToolReport:
    """Run a tool and return its report.

    Args:
        progress: called with (activity, done, total), from this thread.

    Raises:
        LoraSmithError: the tool's own, or its process failed.
    """
    last: tuple[str, int] | None = None

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        last = what, total
        progress(what, done, total)

    reply = worker.ask("engine.adapters.tools", request.as_json(), "The tool", report)
    if last is not None:
        progress(*last, last[1])  # a tool reports the start of each item, not the end
    return ToolReport.restored(reply["report"])
