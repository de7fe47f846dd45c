"""The committed screenshots and the animation show what the screens draw now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow  # thirteen screens, each until it has come to rest: half a minute
@pytest.mark.parametrize("program", ["screenshots.py", "animation.py"])
def test_the_drawings_are_fresh(program: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / program), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
