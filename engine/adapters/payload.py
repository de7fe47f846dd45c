"""Reads the numbers of a LoRA file without torch: alphas, values that are not finite, and the hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.models.header import Header, readable
from engine.reading import open_file
from engine.text import printable

if TYPE_CHECKING:
    import numpy

    Bytes = numpy.ndarray[Any, numpy.dtype[numpy.uint8]]

FORMATS = ("F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2")
"""Number formats of the matrices of an adapter."""
_EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""Number formats: as unsigned integers, and the bits that are all set in NaN and infinity (F8_E4M3 has no infinity)."""
ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ", "F8_E4M3FNUZ"),
    *("F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
"""The order in which the safetensors library writes number formats; tensors of one format are sorted by name."""
_PIECE = 2**24


@dataclass(frozen=True)
class Payload:
    """The result of reading a file's numbers."""

    header: Header
    path: Path
    alphas: dict[str, float] = field(default_factory=dict)
    """By key, where it holds one number in a supported format."""
    vectors: list[str] = field(default_factory=list)
    """Keys of alphas that hold several numbers, or none."""
    broken: list[str] = field(default_factory=list)
    """Keys of tensors with NaN or infinity."""
    empty: list[str] = field(default_factory=list)
    """Keys of tensors without numbers."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything after the header, in hexadecimal digits: Kohya's `sshs_model_hash`."""
        start = min((first for first, _ in self.header.places.values()), default=self.header.size)
        return _sha256(self.path, [(start, self.header.size)])

    @cached_property
    def ordered_digest(self) -> str:
        """The same with the tensors in the order in which the safetensors library writes them."""
        places = self.header.places
        order = sorted(places, key=lambda name: (ORDER.index(self.header.tensors[name][0]), name.encode()))
        return _sha256(self.path, [places[name] for name in order])


def read_payload(path: Path, header: Header) -> Payload:
    """Read a file once, through a memory map.

    Args:
        path: the file that `header` was read from.

    Raises:
        ModelError: it cannot be read.
    """
    import numpy

    result = Payload(header, path)
    with readable(path), open_file(path) as file:
        data: Bytes | None = numpy.memmap(file, numpy.uint8, "r") if header.size else None
        for key, (kind, shape) in header.tensors.items():
            first, last = header.places[key]
            if key.endswith("alpha") and 0 in shape:
                result.vectors.append(key)
            elif first == last:
                result.empty.append(key)
            if data is None or first == last:
                continue
            values = data[first:last]
            if kind in _EXPONENTS and not _finite(values, kind):
                result.broken.append(printable(key))
            if key.endswith(".alpha"):
                number = _number(values, kind) if all(side == 1 for side in shape) else None
                if not all(side == 1 for side in shape):
                    result.vectors.append(key)
                elif number is not None:
                    result.alphas[key] = number
    return result


def _finite(data: Bytes, kind: str) -> bool:
    """Whether all numbers are finite; piece by piece, so that a large file needs little memory."""
    layout, exponent = _EXPONENTS[kind]
    bits = data.view(layout)
    mask = bits.dtype.type(exponent)
    return not any(bool(((bits[at : at + _PIECE] & mask) == mask).any()) for at in range(0, len(bits), _PIECE))


def _number(data: Bytes, kind: str) -> float | None:
    """One number; None for a format that no writer uses for alpha."""
    if kind == "BF16":
        return float((data.view("<u2").astype("<u4") << 16).view("<f4")[0])
    layout = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}.get(kind)
    return None if layout is None else float(data.view(layout)[0])


def _sha256(path: Path, places: list[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    with readable(path), open_file(path) as file:
        for first, last in places:
            file.seek(first)
            while first < last and (piece := file.read(min(_PIECE, last - first))):
                digest.update(piece)
                first += len(piece)
    return digest.hexdigest()
