"""spiece.model is read without sentencepiece, and makes T5's tokenizer."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from engine.families.flux.tokenizers import read_t5_tokenizer
from engine.models.spiece import read_spiece
from tests.tiny_flux import PIECES, tiny_t5_tokenizer


def varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes([number & 0x7F | 0x80])
        number >>= 7
    return data + bytes([number])


def field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def spiece(pieces: list[tuple[str, float]], table: bytes) -> bytes:
    """As sentencepiece writes it: pieces with type, a trainer specification, the normaliser."""
    data = b""
    for text, score in pieces:
        piece = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + varint(3 << 3) + varint(1)
        data += field(1, piece)
    return data + field(2, varint(3 << 3) + varint(300)) + field(3, field(1, b"nmt_nfkc") + field(2, table))


def test_pieces_scores_and_table(tmp_path: Path) -> None:
    pieces = [("<pad>", 0.0), ("▁größer", -1.5), ("x" * 300, -2.0)]
    (tmp_path / "spiece.model").write_bytes(spiece(pieces, b"\0\1table"))
    assert read_spiece(tmp_path / "spiece.model") == (pieces, b"\0\1table")


def test_it_makes_the_tokenizer_that_tokenizer_json_makes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "spiece.model").write_bytes(spiece(PIECES, b""))
    other = tiny_t5_tokenizer(tmp_path / "other")
    for text in ("a zed, blue", "zed 7", ""):
        first, same = (read_t5_tokenizer(folder)(text).input_ids for folder in (tmp_path / "one", other))
        assert first == same
        assert first[-1] == 1


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\xff\xff\x01ab", b"\x0b\x00", b"\x12\x01\x00"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(ValueError, match="it"):
        read_spiece(tmp_path / "spiece.model")
