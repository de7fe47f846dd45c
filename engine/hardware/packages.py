"""The versions that decide what a run computes, read without importing any of the packages."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from engine import __version__
from engine.hardware.nvml import driver_version

PACKAGES = ("torch", "diffusers", "peft", "transformers", "accelerate")


def versions() -> dict[str, str | None]:
    """lorasmith, python, the packages, cuda (of the torch build) and driver; None for what is not installed."""
    return {
        "lorasmith": __version__,
        "python": platform.python_version(),
        **{name: version_of(name) for name in PACKAGES},
        "cuda": torch_cuda(),
        "driver": driver_version(),
    }


def torch_cuda(folder: Path | None = None) -> str | None:
    """The CUDA version that torch was built for, read from its `version.py`; None for a build without CUDA."""
    if folder is None:
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent
    try:
        tree = ast.parse((folder / "version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    for line in tree.body:
        targets = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == "cuda" for target in targets):
            value = line.value  # type: ignore[attr-defined]
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def version_of(name: str) -> str | None:
    """Version of an installed package; None without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
