"""The report's process: `python -m engine.dataset.report` reads a wish on stdin and answers on stdout, one JSON object
a line: `told` as it goes, at the end `report`, or `error` with `message` and `hint`."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.dataset.report.checking import check
from engine.dataset.report.pages import require_page, write_page
from engine.dataset.report.repair import repair, require_place
from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from engine.processes import end_with_parent

_SELDOM = 0.1
"""Seconds between two words about how far it is."""


class _Teller:
    def __init__(self) -> None:
        self._last = 0.0
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or done == total or now - self._last >= _SELDOM:
            self._last, self._what = now, what
            _say({"told": [what, done, total]})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _stop(*_: object) -> None:
    sys.exit(ExitCode.STOPPED)  # through every `finally`, so that what was measured is kept


def main() -> int:
    """Make one report."""
    end_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    try:
        wish = json.load(sys.stdin)
        config, told = RunConfig.model_validate(wish["config"]), _Teller()
        out = Path(wish["repair"]) if wish["repair"] else None
        if out is not None:
            require_place([], out)  # before the long work
        if wish["html"]:
            require_page(Path(wish["html"]))
        report, found = check(config, told)
        if wish["html"]:
            write_page(report, found, Path(wish["html"]), told)
        repaired = repair(report, found, out, told).line() if out is not None else ""
        _say({"report": report.as_json(), "repaired": repaired})
    except LoraSmithError as error:
        _say({"error": type(error).__name__, "message": error.message, "hint": error.hint})
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.STOPPED  # nobody listens any more
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
