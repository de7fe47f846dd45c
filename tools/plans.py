"""Makes the plans of the shipped presets, which `lorasmith plan` shows at once: engine/assets/plans.json.

Takes some minutes. To be run when a preset changed, or what decides about memory, or a version in constraints.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.atomic import write_text
from engine.config import list_presets
from engine.memory import planner, shelf
from engine.memory.planner_process import PlannerProcess
from tui.configuration import read_partly


def main() -> None:
    """Plan every shipped preset anew, for a card with bf16."""
    entries = {}
    with PlannerProcess() as process:
        for preset in list_presets():
            request = planner.request_for(read_partly(preset.name)) if preset.shipped else None
            if request is not None and (key := shelf.key_of(request)) not in entries:
                print(preset.name, flush=True)
                entries[key] = planner.plan_from(request, process.ask(request)).stored()
    write_text(shelf.SHIPPED, json.dumps(entries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
