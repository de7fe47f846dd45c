"""Shell commands and screens import engine.runs: it brings nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_no_heavy_import() -> None:
    heavy = "torch numpy textual rich pydantic tomlkit PIL psutil"
    code = f"import sys, engine.runs; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
