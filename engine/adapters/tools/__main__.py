"""The process of a tool: `python -m engine.adapters.tools` runs one request (`engine.worker`) and returns `report`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import REQUESTS
from engine.worker import OnProgress, serve


def run_request(request: Mapping[str, Any], progress: OnProgress) -> dict[str, Any]:
    """The report on one request.

    Args:
        request: the result of `Request.as_json`.
    """
    verb = request["verb"]
    kind = REQUESTS[verb]  # each verb is a module and its function; only one is imported, since diffusers takes seconds
    tool: Callable[..., ToolReport] = getattr(importlib.import_module(f"engine.adapters.tools.{kind.verb}"), kind.verb)
    return {"report": tool(kind(**request["options"]), progress).as_json()}


if __name__ == "__main__":
    sys.exit(serve(run_request))
