"""The planner's process: `python -m engine.planning PARENT`. One request a line of standard input, one answer a line of
standard output, both JSON; see `engine.memory.planner`, which starts it. It ends when PARENT does: see
`engine.processes.end_with_parent`."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import LoraSmithError
from engine.memory.plan import Need
from engine.memory.workload import Workload
from engine.models.base import Recognition
from engine.processes import end_with_parent


def main() -> int:
    """Answer every request in its turn."""
    end_with_parent(sys.argv[1])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"needs": [need.stored() for need in _needs(request)]}
    except LoraSmithError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    except Exception as error:
        traceback.print_exc()
        return {"error": "", "message": f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}", "hint": ""}


def _needs(request: dict[str, Any]) -> list[Need]:
    from diffusers.utils import logging

    from engine.planning.rehearsal import rehearse

    logging.set_verbosity_error()
    known = request["recognition"]
    return rehearse(
        RunConfig.model_validate(request["config"]),
        Recognition(**{**known, "path": Path(known["path"]), "reasons": tuple(known["reasons"])}),
        Workload.restored(request["work"]),
        request["precision"],
        request["phases"],
    )


if __name__ == "__main__":
    sys.exit(main())
