"""`lorasmith --version`: the versions that decide what a run computes."""

from __future__ import annotations

from engine.hardware import versions
from tui import output


def show_version() -> None:
    """One line each on stdout."""
    for name, version in versions().items():
        output.result(f"{name} {version or 'not found'}")
