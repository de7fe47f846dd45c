"""The header of a safetensors file, read and checked without torch: an 8-byte length, then JSON, then the tensors."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.text import printable, shell_word

MAX_HEADER = 100 * 2**20
"""Bytes; the safetensors library refuses longer headers too."""

BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CONVERT = (
    "import sys, torch, safetensors.torch as s; "
    "d = torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone() for k, v in d.get('state_dict', d).items() if hasattr(v, 'shape')}, sys.argv[2])"
)
"""Reads a pickle's tensors only and writes them as safetensors. Both names are arguments: nothing is quoted twice."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Name to (number format as the file spells it, shape)."""
    metadata: Mapping[str, str]
    size: int
    """Bytes of the whole file."""
    shapes: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {name: shape for name, (_, shape) in self.tensors.items()})

    def any(self, prefix: str) -> bool:
        """Whether a tensor's name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self.tensors)


def refuse_pickle(path: Path) -> ModelError:
    """The error for a file that only Python's pickle can read."""
    renamed = path.suffix.lower() == ".safetensors"  # then the line must not write over what it reads
    stem = f"{path.stem}-converted" if renamed else path.stem
    names = " ".join(_quoted(Path(name)) for name in (path.name, f"{stem}.safetensors"))
    place = "" if path.parent == Path() else f"cd {shell_word(path.parent)} && "
    return ModelError(
        f"{printable(path)} is a Python pickle; opening one can run any program hidden in it, so it is not opened.",
        f'Convert it once, with this line, which reads tensors only:\n  {place}python -c "{CONVERT}" {names}',
    )


def _quoted(name: Path) -> str:
    """A file's name as a word of a command line, in quotes also where it needs none."""
    word = shell_word(name)
    return word if word.startswith(("'", "$")) else f"'{word}'"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside, what the system says about `path` or a file below it becomes a `ModelError`."""
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if error.filename else path
        reason = error.strerror or str(error)
        raise ModelError(f"{printable(named)} cannot be read: {reason}.", "Check its permissions.") from error


def read_header(path: Path) -> Header:
    """Read and check the header of `path`.

    Raises:
        ModelError: missing, unreadable, a pickle, not safetensors, shorter than its header says, or its path is not
            UTF-8.
    """
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise ModelError(
            f"The path {printable(path)} holds bytes that are not UTF-8; the safetensors library cannot open it.",
            "Rename that file or folder.",
        ) from None
    with readable(path):
        if not path.exists():
            raise ModelError(f"There is no file {printable(path)}.", "Check the path.")
        if path.is_dir():
            raise ModelError(f"{printable(path)} is a folder, not a file.", "Name a .safetensors file.")
        if path.suffix.lower() in PICKLES:
            raise refuse_pickle(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = _header_length(path, start, size)
            raw = file.read(length)
    try:
        entries = json.loads(raw)
        if not isinstance(entries, dict):
            raise ValueError("the header is not a table")
        metadata = entries.pop("__metadata__", None) or {}
        tensors, end = _tensors(entries)
        metadata = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_safetensors(path, f"its header cannot be understood ({type(error).__name__})") from error
    if 8 + length + end > size:
        raise ModelError(
            f"{printable(path)} is cut short: its header names {(8 + length + end) / 2**20:.1f} MiB, the file has "
            f"{size / 2**20:.1f} MiB.",
            "The copy or download broke off; fetch it again.",
        )
    return Header(tensors, metadata, size)


def _header_length(path: Path, start: bytes, size: int) -> int:
    if start[:4] == b"PK\x03\x04" or start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise refuse_pickle(path)
    if start[:4] == b"GGUF":
        raise ModelError(
            f"{printable(path)} is a GGUF file: its weights are quantised for drawing only.",
            "Use the .safetensors checkpoint that it was made from.",
        )
    if start == b"version ":
        raise ModelError(
            f"{printable(path)} is no checkpoint, but what Git leaves in its place where Git LFS is not installed.",
            "Install git-lfs and run `git lfs pull` in that folder, or fetch the file itself.",
        )
    if len(start) < 8:
        raise ModelError(f"{printable(path)} is cut short: it has {size} bytes.", "Fetch it again.")
    length: int = struct.unpack("<Q", start)[0]
    if length > MAX_HEADER or length < 2:
        raise _not_safetensors(path, "it does not begin with a header length")
    if 8 + length > size:
        raise ModelError(
            f"{printable(path)} is cut short inside its header.", "The copy or download broke off; fetch it again."
        )
    return length


def _not_safetensors(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{printable(path)} is not a safetensors file: {why}.",
        "Use a .safetensors checkpoint; a web page saved under that name is a usual cause.",
    )


def _tensors(entries: dict[str, Any]) -> tuple[dict[str, tuple[str, tuple[int, ...]]], int]:
    """Names to (format, shape), and where the last tensor ends, counted from behind the header."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    end = 0
    for name, entry in entries.items():
        shape = tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if not all(isinstance(number, int) and number >= 0 for number in (*shape, first, last)):
            raise ValueError("a size is not a number")
        count = 1
        for side in shape:
            count *= side
        bits = BITS.get(entry["dtype"])
        if first > last or (bits is not None and count * bits != (last - first) * 8):
            raise ValueError("a tensor's place does not fit its shape")
        tensors[name] = (str(entry["dtype"]), shape)
        end = max(end, last)
    return tensors, end
