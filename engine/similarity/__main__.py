"""The process: `python -m engine.similarity` handles one request (`engine.worker`, `engine.results.similarity.Request`)
and replies with `figures`."""

from __future__ import annotations

import sys
from typing import Any

from engine.results.similarity import Request
from engine.similarity.measuring import measure
from engine.worker import OnProgress, serve


def handle(value: dict[str, Any], progress: OnProgress) -> dict[str, Any]:
    """Compute the figures of a request."""
    return {"figures": measure(Request.restored(value), progress)}


if __name__ == "__main__":
    sys.exit(serve(handle))
