"""The planner's process: `python -m engine.estimate.worker` (`engine.worker`, `engine.estimate.request.Request`)
replies with `needs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.estimate.workload import Workload
from engine.processes import large_imports
from engine.types import Recognition
from engine.worker import Reporter, serve


def handle(request: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Rehearse one run and return its needs."""
    with large_imports():
        from diffusers.utils import logging

        from engine.estimate.worker.rehearsal import rehearse

    logging.set_verbosity_error()
    recognition = request["recognition"]
    needs = rehearse(
        RunConfig.model_validate(request["config"]),
        Recognition(**{**recognition, "path": Path(recognition["path"]), "reasons": tuple(recognition["reasons"])}),
        Workload.restored(request["work"]),
        request["precision"],
        request["phases"],
        report=lambda done, total: reporter("planning, phases", done, total),
    )
    return {"needs": [need.stored() for need in needs]}


if __name__ == "__main__":
    sys.exit(serve(handle))
