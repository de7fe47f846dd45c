"""benchmarks/launches.py: what it counts on a tiny model, and how many operations a full-size step may start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import mostly_soaked
from tests.tiny_models import tiny_sd15

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "launches.py"


def test_a_step_starts_fewer_operations_than_a_plain_one_and_waits_for_nothing(tmp_path: Path) -> None:
    model = str(tiny_sd15(tmp_path))
    counts = {side: counted("sd15", side, "--model", model) for side in ("ours", "plain")}
    ours, plain = ({stage: total(kinds, stage) for stage in ("forward", "backward")} for kinds in counts.values())
    assert 0 < ours["forward"] < plain["forward"] and 0 < ours["backward"] < plain["backward"]
    assert counts["ours"]["forward attention"] == counts["plain"]["forward attention"] > 0
    assert not [kind for kind in counts["ours"] if kind.endswith(("read by the host", "host copy"))]


CEILINGS = {"sd15": 2500, "sdxl": 7700, "sdxl-checkpointed": 10500, "flux": 9100}


@pytest.mark.parametrize("case", mostly_soaked(CEILINGS, ["sd15", "sdxl", "flux"]))
def test_a_full_size_step_starts_at_most_so_many_operations(case: str) -> None:
    kinds = counted(case, "ours")
    aside = ("host copy", "read by the host")
    assert 0 < sum(number for kind, number in kinds.items() if not kind.endswith(aside)) <= CEILINGS[case]
    assert not [kind for kind in kinds if kind.endswith("read by the host")]


def counted(case: str, side: str, *options: str) -> dict[str, int]:
    """Operations of a step by "stage kind"."""
    command = [sys.executable, str(SCRIPT), "--cases", case, "--side", side, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return kinds


def total(kinds: dict[str, int], stage: str) -> int:
    return sum(number for kind, number in kinds.items() if kind.startswith(stage))
