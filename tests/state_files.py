"""Small state files without tensors, for tests that load no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.runs.states import FORMAT, UNSEALED, sealed, state_path


def write_state(directory: Path, step: int, updates_per_epoch: int | None = None, halvings: int = 0) -> Path:
    """A state of a step that is what was written."""
    path = state_path(directory, step)
    tree: dict[str, list[Any]] = {"dict": [["progress", {"dict": [["step", step]]}]]}
    if updates_per_epoch is not None:
        tree["dict"].append(["place", {"dict": [["updates_per_epoch", updates_per_epoch], ["shift", 0]]}])
        tree["dict"].append(["recovery", {"dict": [["halvings", halvings]]}])
    metadata = {"format": FORMAT, "tree": json.dumps(tree), "sha256": UNSEALED}
    header = json.dumps({"__metadata__": metadata}, separators=(",", ":")).encode()
    path.write_bytes(b"".join(sealed(path.name, len(header).to_bytes(8, "little") + header)))
    return path
