"""The header of a safetensors file, read and checked without torch: an 8-byte length, then JSON, then the tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.reading import NotRegularFileError, open_file, parse_json
from engine.text import printable, shell_word

MAX_HEADER = 32 * 2**20
"""Bytes; the largest models need less than one MiB, metadata with a thumbnail a few."""

BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of a number in each format that the safetensors library (0.8) supports; it opens no file with another."""
_OVERFLOW = 2**64
"""Counts from here on overflow the library's arithmetic."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
CONVERT = (
    "import sys, torch, safetensors.torch as s; "
    "d = torch.load(open(sys.argv[1], 'rb'), map_location='cpu', weights_only=True); "
    "s.save_file({k: v.clone() for k, v in d.get('state_dict', d).items() if hasattr(v, 'shape')}, sys.argv[2])"
)
"""Reads a pickle's tensors only and writes them as safetensors. Both names are arguments: nothing is quoted twice."""


@dataclass(frozen=True)
class Header:
    """The contents of a safetensors file's header."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    """Name to (number format as the file spells it, shape)."""
    metadata: Mapping[str, str]
    size: int
    """Bytes of the file."""
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Name to the first and last offset of the tensor's bytes in the file."""
    shapes: Mapping[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", {name: shape for name, (_, shape) in self.tensors.items()})

    def any(self, prefix: str) -> bool:
        """Whether a tensor's name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self.tensors)


def refuse_pickle(path: Path) -> ModelError:
    """The error for a file that only Python's pickle can read."""
    renamed = path.suffix.lower() == ".safetensors"  # then the command must not overwrite its input
    stem = f"{path.stem}-converted" if renamed else path.stem
    names = " ".join(_quoted(Path(name)) for name in (path.name, f"{stem}.safetensors"))
    change_folder = "" if path.parent == Path() else f"cd {shell_word(path.parent)} && "
    return ModelError(
        f"{printable(path)} is a Python pickle; opening one can run any program hidden in it, so it is not opened.",
        f'Convert it once; this reads tensors only:\n  {change_folder}python -c "{CONVERT}" {names}',
        code="model-is-pickle",
    )


def _quoted(name: Path) -> str:
    """A file's name as a word of a command line, always in quotes."""
    word = shell_word(name)
    return word if word.startswith(("'", "$")) else f"'{word}'"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Context in which an `OSError` about `path` or a file below it becomes a `ModelError`."""
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename)) if error.filename else path
        reason = error.strerror or str(error)
        hint = "Name a regular file." if isinstance(error, NotRegularFileError) else "Check its permissions."
        raise ModelError(f"{printable(named)} cannot be read: {reason}.", hint, code="model-file-unreadable") from error


def read_header(path: Path) -> Header:
    """Read and check the header of `path`.

    Raises:
        ModelError: missing, unreadable, a pickle, not safetensors, cut short, or its path is not UTF-8.
    """
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise ModelError(
            f"The path {printable(path)} holds bytes that are not UTF-8; the safetensors library cannot open it.",
            "Rename that file or folder.",
            code="model-path-not-utf8",
        ) from None
    with readable(path):
        if not path.exists():
            raise ModelError(f"There is no file {printable(path)}.", "Check the path.", code="model-file-missing")
        if path.is_dir():
            raise ModelError(
                f"{printable(path)} is a folder, not a file.", "Name a .safetensors file.", code="model-file-is-folder"
            )
        if path.suffix.lower() in PICKLES:
            raise refuse_pickle(path)
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = _header_length(path, start, size)
            raw = file.read(length)
    try:
        entries = parse_json(raw.decode(), surrogates=False)  # strictly UTF-8: the library takes no other encoding
        if not isinstance(entries, dict):
            raise ValueError("the header is not a table")
        metadata = _metadata(entries.pop("__metadata__", None))
        places = {name: _place(entry) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_safetensors(path, f"its header cannot be understood ({type(error).__name__})") from error
    _check_places(path, places, size - 8 - length)
    tensors = {name: (place.kind, place.shape) for name, place in places.items()}
    front = 8 + length
    inside = {name: (front + place.first, front + place.last) for name, place in places.items()}
    return Header(tensors, metadata, size, inside)


def _header_length(path: Path, start: bytes, size: int) -> int:
    length = int.from_bytes(start, "little")
    possible = len(start) == 8 and length <= min(MAX_HEADER, size - 8)  # of 640 bytes, a length begins like a pickle
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and not possible):
        raise refuse_pickle(path)
    if start[:4] == b"GGUF":
        raise ModelError(
            f"{printable(path)} is a GGUF file: its weights are quantised for generating images only.",
            "Use the .safetensors checkpoint that it was made from.",
            code="model-is-gguf",
        )
    if start == b"version ":
        raise ModelError(
            f"{printable(path)} is a Git LFS pointer, not a checkpoint: it was cloned without Git LFS.",
            "Install git-lfs and run `git lfs pull` in that folder, or fetch the file itself.",
            code="git-lfs-pointer",
        )
    if len(start) < 8:
        raise ModelError(
            f"{printable(path)} is cut short: it has {size} bytes.", "Fetch it again.", code="model-file-cut-short"
        )
    if length > MAX_HEADER or length < 2:
        raise _not_safetensors(path, "it does not begin with a header length")
    if 8 + length > size:
        raise ModelError(
            f"{printable(path)} is cut short inside its header.",
            "The copy or download broke off; fetch it again.",
            code="model-file-cut-short",
        )
    return length


def _not_safetensors(path: Path, why: str) -> ModelError:
    if path.suffix.lower() in (".toml", ".json", ".yaml", ".yml", ".sh", ".bat", ".ps1"):
        hint = (
            "It is a file of settings: `lorasmith --preset FILE --dry-run` checks it, and `lorasmith convert FILE` "
            "shows what another trainer's does here."
        )
        return ModelError(f"{printable(path)} is not a safetensors file.", hint, code="not-safetensors")
    return ModelError(
        f"{printable(path)} is not a safetensors file: {why}.",
        "Use a .safetensors checkpoint; a web page saved under that name is a usual cause.",
        code="not-safetensors",
    )


@dataclass(frozen=True)
class _Place:
    """An entry of the header."""

    kind: str
    shape: tuple[int, ...]
    first: int
    """Offset of its bytes, counted from the end of the header."""
    last: int


def _metadata(value: Any) -> dict[str, str]:
    """The texts of `__metadata__`, by name.

    Raises:
        ValueError: not texts; the library refuses it too.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("the metadata are not texts")
    return value


def _place(entry: dict[str, Any]) -> _Place:
    """One entry, its sizes checked against each other.

    Raises:
        ValueError, KeyError, TypeError: it has another form, or the number of bytes does not fit the shape.
    """
    kind, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not isinstance(kind, str) or not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
        raise ValueError("a size is not a number")
    count = 1
    for side in shape:
        count *= side
        if count >= _OVERFLOW:
            raise ValueError("a tensor's shape is too large")
    bits = count * BITS.get(kind, 0)
    if first > last or bits >= _OVERFLOW or (kind in BITS and bits != (last - first) * 8):
        raise ValueError("a tensor's place does not fit its shape")
    return _Place(kind, shape, first, last)


def _check_places(path: Path, places: Mapping[str, _Place], room: int) -> None:
    """Refuse what the safetensors library would: the tensors must fill the file without gaps and overlaps.

    Args:
        room: bytes after the header.

    Raises:
        ModelError: names the tensor and the fault.
    """
    where, damaged = printable(path), "It was written wrongly or damaged: fetch it again, or use another copy."
    end = max((place.last for place in places.values()), default=0)
    if end > room:
        raise ModelError(
            f"{where} is cut short: its header names {end / 2**20:.1f} MiB of tensors, the file has "
            f"{room / 2**20:.1f} MiB.",
            "The copy or download broke off; fetch it again.",
            code="model-file-cut-short",
        )
    for name, place in places.items():
        if place.kind not in BITS:
            raise ModelError(
                f"{where} has {printable(name)} in the number format {printable(place.kind)}, which safetensors does "
                "not support.",
                "Use a copy in fp16, bf16 or fp32.",
                code="number-format-not-supported",
            )
    position = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].first, item[1].last)):
        if place.first != position:
            place_of = f"{where} is broken: the place of {printable(name)} in the file"
            if place.first < position:
                raise ModelError(f"{place_of} overlaps another tensor.", damaged, code="safetensors-overlap")
            raise ModelError(f"{place_of} does not follow the tensor before it.", damaged, code="safetensors-gap")
        position = place.last
    if position != room:
        raise ModelError(
            f"{where} is broken: {room - position} bytes follow its last tensor.", damaged, code="safetensors-too-long"
        )
