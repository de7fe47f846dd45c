"""Packs of a cache, read and harmed by a test: an own reader of the format."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load, save_file

from engine.dataset.store import checksum

HEAD = struct.Struct("<4sQ32s32sI")


class Record(NamedTuple):
    """Where a record is in its pack."""

    key: str
    offset: int
    """Of its data."""
    size: int

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.offset + self.size


def records(pack: Path) -> list[Record]:
    """The records of a pack, which must be complete to its last byte."""
    data, place, all_records = pack.read_bytes(), 8, []
    assert data[:8] == b"LSPACK1\n"
    while place < len(data):
        _, size, key, _, _ = HEAD.unpack_from(data, place)
        place += HEAD.size
        all_records.append(Record(key.hex(), place, size))
        place += size
        assert place <= len(data), "half a record"
    return all_records


def packed(directory: Path) -> dict[str, bytes]:
    """The data of each key in a cache folder that holds nothing but packs; the newest counts."""
    return {
        record.key: pack.read_bytes()[record.offset : record.end]
        for pack in sorted(directory.iterdir())
        for record in records(pack)
    }


def only_pack(directory: Path) -> Path:
    """The pack of a folder that has one."""
    (pack,) = directory.iterdir()
    return pack


def without(directory: Path, *keys: str) -> None:
    """Take records out of the only pack of a folder."""
    pack = only_pack(directory)
    data = pack.read_bytes()
    kept = [record for record in records(pack) if record.key not in keys]
    pack.write_bytes(data[:8] + b"".join(data[record.offset - HEAD.size : record.end] for record in kept))


def flip_a_bit(pack: Path, place: int) -> None:
    """As a failing disk would."""
    data = bytearray(pack.read_bytes())
    data[place] ^= 1
    pack.write_bytes(data)


def as_files(directory: Path, *, keyed: bool = True) -> None:
    """The same cache as earlier versions wrote it: a file for each key.

    Args:
        keyed: whether the digest covers the key; it did not in the first versions.
    """
    for key, data in packed(directory).items():
        tensors = load(data)
        digest = checksum(tensors, key) if keyed else checksum(tensors)
        save_file(tensors, directory / f"{key}.safetensors", {"sha256": digest})
    for pack in directory.glob("*.pack"):
        pack.unlink()
