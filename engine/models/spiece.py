"""The vocabulary in a SentencePiece model file (`spiece.model`), read without the package sentencepiece.

The file is one protocol-buffer message, ModelProto of sentencepiece's `sentencepiece_model.proto`: field 1 is a piece
(its text is field 1, its score field 2), field 3 the normaliser (field 2: its compiled table of characters). Loads no
torch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from engine.reading import read_bytes

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
"""Wire types of fields."""


def read_spiece(path: Path) -> tuple[list[tuple[str, float]], bytes]:
    """(pieces with their scores in the order of their ids, compiled table of the normaliser or b"").

    Raises:
        ValueError: the file is not such a message.
        OSError: it cannot be read, or is no regular file.
    """
    pieces: list[tuple[str, float]] = []
    table = b""
    for number, value in _fields(read_bytes(path)):
        if number == 1 and isinstance(value, bytes):
            inside = dict(_fields(value))
            text, score = inside.get(1), inside.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError("a piece has no text")
            pieces.append((text.decode(), float(struct.unpack("<f", score)[0])))
        elif number == 3 and isinstance(value, bytes):
            compiled = dict(_fields(value)).get(2, b"")
            table = compiled if isinstance(compiled, bytes) else b""
    if not pieces:
        raise ValueError("it holds no pieces")
    return pieces, table


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        size = {_EIGHT: 8, _FOUR: 4}.get(kind)
        if kind == _BYTES:
            size, place = _varint(data, place)
        if size is None or place + size > len(data):
            raise ValueError("it is not a protocol-buffer message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, seven bits a byte, and where it ends."""
    number = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
    raise ValueError("a number in it has no end")
