"""`lorasmith --version`: the versions that decide what a run computes."""

from __future__ import annotations

from collections.abc import Iterator

from tui.shell import output

_TITLES = {"lorasmith": "LoRA Smith", "python": "Python", "cuda": "CUDA", "driver": "NVIDIA driver"}


def version_lines() -> Iterator[str]:
    """One line each: LoRA Smith, Python, the libraries, CUDA of the torch build, driver."""
    from engine.hardware import versions

    for name, version in versions().items():
        yield f"{_TITLES.get(name, name)} {version or 'none'}"


def show_version() -> None:
    """The lines on stdout."""
    for line in version_lines():
        output.result(line)
