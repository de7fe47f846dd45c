"""The saved states of a run, and whether each is unchanged since it was written. Loads no torch.

A state is a safetensors file. Its metadata holds a SHA-256 over the file's name and every other byte, so that no part
of it can be changed, cut or exchanged unnoticed. Format "1", of earlier versions, covers the tensors only; there the
step in the name must at least be the one inside.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from engine.reading import is_regular, open_file

FORMAT = "2"
_FORMAT_1 = "1"
MAX_HEADER = 100_000_000
"""Bytes, as the safetensors library limits it."""
UNSEALED = "0" * 64
_PIECE = 2**20
_NAME = re.compile(r"state-(\d{8})\.safetensors")
_SEAL = re.compile(rb'"sha256":"([0-9a-f]{64})"')  # inside the text of a value, the quotation marks are escaped


@dataclass(frozen=True)
class SavedState:
    """A state file that was read completely and is unchanged."""

    path: Path
    structure: Any
    """The tree, with the names of its tensors, as JSON holds it."""

    def value(self, name: str) -> Any | None:
        """A value without tensors at the top level of the tree; None where it is missing."""
        return next((unflatten(value, {}) for key, value in self.structure["dict"] if key == name), None)

    @property
    def step(self) -> int | None:
        """Its step; None in a tree that is not a run's."""
        progress = self.value("progress")
        return int(progress["step"]) if progress else None


def state_path(directory: Path, step: int) -> Path:
    """The file of the state of a step."""
    return directory / f"state-{step:08d}.safetensors"


def saved_states(directory: Path) -> list[Path]:
    """The files of saved states in `directory`, the newest first; they may be unreadable."""
    paths = directory.glob("state-*.safetensors") if directory.is_dir() else []
    return sorted((path for path in paths if _NAME.fullmatch(path.name) and is_regular(path)), reverse=True)


def newest_state(directory: Path) -> SavedState | None:
    """The newest undamaged state in `directory`: the one that a resume continues from."""
    return next((state for path in saved_states(directory) if (state := read_state(path))), None)


def read_state(path: Path) -> SavedState | None:
    """Verify a state file, without keeping its tensors; None when it is missing, cut short, changed or renamed."""
    try:
        with open_file(path, below=path.parent) as file:
            metadata = _verified(file, os.fsencode(path.name))
        if metadata is None:
            return None
        state = SavedState(path, json.loads(metadata["tree"]))
        name = _NAME.fullmatch(path.name)
        return state if name is None or state.step in (None, int(name[1])) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise
        return None


def sealed(name: str, data: bytes) -> tuple[bytes, memoryview]:
    """Header and content of a safetensors file with the digest of both, and of its name, instead of `UNSEALED`."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, content = data[:end], memoryview(data)[end:]
    digest = _new_digest(os.fsencode(name), header)
    digest.update(content)
    empty, full = (f'"sha256":"{text}"'.encode() for text in (UNSEALED, digest.hexdigest()))
    assert header.count(empty) == 1
    return header.replace(empty, full), content


def _new_digest(name: bytes, header: bytes) -> Any:
    return hashlib.sha256(name + b"\0" + header)


def _verified(file: BufferedReader, name: bytes) -> dict[str, str] | None:
    """The metadata, if its digest is correct."""
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER:
        return None
    header = file.read(length)
    entries = json.loads(header)
    metadata: dict[str, str] = entries.pop("__metadata__")
    if metadata["format"] == _FORMAT_1:
        return metadata if _digest_1(file, entries, 8 + length) == metadata["sha256"] else None
    seals = _SEAL.findall(header)
    if metadata["format"] != FORMAT or len(seals) != 1:
        return None
    digest = _new_digest(name, start + header.replace(seals[0], UNSEALED.encode()))
    while piece := file.read(_PIECE):
        digest.update(piece)
    return metadata if digest.hexdigest() == seals[0].decode() else None


def _digest_1(file: BufferedReader, entries: dict[str, Any], begin: int) -> str:
    """Names and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - begin
    for name in sorted(entries):
        first, last = entries[name]["data_offsets"]
        left -= last - first
        if not 0 <= first <= last or left < 0:
            raise ValueError("a tensor is outside the file")
        file.seek(begin + first)
        digest.update(name.encode())
        digest.update(file.read(last - first))
    return digest.hexdigest()


def unflatten(value: Any, tensors: dict[str, Any]) -> Any:
    """The tree of a state from its structure, with `tensors` by name."""
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {unflatten(key, tensors): unflatten(item, tensors) for key, item in content}
    items = [unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
