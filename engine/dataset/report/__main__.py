"""The report's process: `python -m engine.dataset.report` answers one request (`engine.worker`) with `report` and
`repaired`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.dataset.report.checking import check
from engine.dataset.report.pages import write_page
from engine.dataset.report.repair import repair, require_new_folder
from engine.html_page.place import IMAGES, require_place
from engine.worker import OnProgress, serve


def answer(request: dict[str, Any], progress: OnProgress) -> dict[str, Any]:
    """Create one report.

    Args:
        request: from `CheckRequest.as_json`.
    """
    config = RunConfig.model_validate(request["config"])
    out = Path(request["repair"]) if request["repair"] else None
    if out is not None:
        require_new_folder([], out)  # before the long work
    if request["html"]:
        require_place(Path(request["html"]), IMAGES)
    report, survey = check(config, progress)
    if request["html"]:
        write_page(report, survey, Path(request["html"]), progress)
    repaired = repair(report, survey, out, progress).line() if out is not None else ""
    return {"report": report.as_json(), "repaired": repaired}


if __name__ == "__main__":
    sys.exit(serve(answer))
