"""Small state files without tensors, for tests that load no torch."""

from __future__ import annotations

import json
from pathlib import Path

from engine.runs.states import FORMAT, UNSEALED, sealed, state_path


def write_state(directory: Path, step: int) -> Path:
    """A state of a step that is what was written."""
    path = state_path(directory, step)
    tree = {"dict": [["progress", {"dict": [["step", step]]}]]}
    metadata = {"format": FORMAT, "tree": json.dumps(tree), "sha256": UNSEALED}
    header = json.dumps({"__metadata__": metadata}, separators=(",", ":")).encode()
    path.write_bytes(b"".join(sealed(path.name, len(header).to_bytes(8, "little") + header)))
    return path
