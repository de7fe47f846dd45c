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
from tui.configuration import read_partly


def main() -> None:
    """Plan every shipped preset anew, for a card with bf16."""
    names = [preset.name for preset in list_presets() if preset.shipped]
    requests = {name: planner._request(read_partly(name), None, None, None, planner.PHASES) for name in names}
    on_cards = {name: request for name, request in requests.items() if request is not None}
    entries = {}
    for (name, request), needs in zip(on_cards.items(), planner._ask(list(on_cards.values()), bool), strict=True):
        plan = planner.plan_from(request, needs)
        print(f"{name}: {plan.peak_bytes / 2**30:.2f} GiB")
        key, stored = shelf.shipped_entry(request, plan)
        entries[key] = stored
    write_text(shelf.SHIPPED, json.dumps(entries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
