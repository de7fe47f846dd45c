"""A worker for test_worker.py: what it does is in the request."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.worker import Reporter, serve


def answer(request: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """Count, refuse, break, leave, die, or wait."""
    match request["do"]:
        case "count":
            print("a library prints this")
            for number in range(1, request["to"] + 1):
                report("count", number, request["to"])
            return {"sum": sum(range(request["to"] + 1))}
        case "refuse":
            raise UsageError("No.", "Because.")
        case "break":
            raise KeyError("gone")
        case "leave":
            print("the card is gone", file=sys.stderr, flush=True)
            os._exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        report.event(note="waiting")
        time.sleep(600)
    finally:
        if "keep" in request:
            Path(request["keep"]).write_text("kept")
    return {}


if __name__ == "__main__":
    sys.exit(serve(answer))
