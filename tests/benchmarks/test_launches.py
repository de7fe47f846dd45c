"""benchmarks/launches.py on a tiny model: what it counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.tiny_models import tiny_sd15

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "launches.py"


def test_a_step_starts_fewer_operations_than_a_plain_one_and_waits_for_nothing(tmp_path: Path) -> None:
    model = tiny_sd15(tmp_path)
    counts = {}
    for side in ("ours", "plain"):
        command = [sys.executable, str(SCRIPT), "--cases", "sd15", "--side", side, "--model", str(model)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        counts[side] = json.loads(done.stdout.splitlines()[-1])
    ours, plain = ({stage: total(kinds, stage) for stage in ("forward", "backward")} for kinds in counts.values())
    assert 0 < ours["forward"] < plain["forward"] and 0 < ours["backward"] < plain["backward"]
    assert counts["ours"]["forward attention"] == counts["plain"]["forward attention"] > 0
    assert not [kind for kind in counts["ours"] if kind.endswith(("read by the host", "host copy"))]


def total(kinds: dict[str, int], stage: str) -> int:
    return sum(number for kind, number in kinds.items() if kind.startswith(stage))
