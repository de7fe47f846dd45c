"""The bytes of a safetensors file: header, order of the tensors, Kohya's two hashes. Loads no torch.

The safetensors library is not used for this because it orders the metadata at random: equal tensors and metadata must
give equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

LEGACY = slice(0x100000, 0x110000)
"""The bytes of a file that A1111's old hash covers."""
HASHES = 256
"""Bytes for the two hashes and the padding."""

Entry = tuple[str, tuple[int, ...], int]
"""Number format as the file spells it, shape, bytes."""


def header_bytes(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """The header: its length as u64, JSON, spaces up to a multiple of 8.

    Args:
        entries: the tensors by name, in the order of their bytes.
    """
    table: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for key, (kind, shape, size) in entries.items():
        table[key] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def shared_header(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """The header with the `ss_` metadata only, as Kohya's hashes see the file."""
    return header_bytes(entries, {key: value for key, value in metadata.items() if key.startswith("ss_")})


def legacy_hash(start: bytes, payload_head: bytes) -> str:
    """`sshs_legacy_hash`.

    Args:
        start: the result of `shared_header`.
        payload_head: the tensors' bytes, enough to reach `LEGACY.stop` after the header.
    """
    covered = (start + payload_head[: max(0, LEGACY.stop - len(start))])[LEGACY]
    return hashlib.sha256(covered).hexdigest()[:8]
