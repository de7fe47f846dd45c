"""The committed screenshots show what the screens draw now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow  # thirteen screens, each until it has come to rest: half a minute
def test_the_screenshots_are_fresh() -> None:
    command = [sys.executable, str(ROOT / "tools" / "screenshots.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
