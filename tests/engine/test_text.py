from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.text import listing, plural, printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"cat.png", "cat.png"),
        ("ねこ 🐈 [1].png".encode(), "ねこ 🐈 [1].png"),
        (b"a\xff\xfe.png", "a\ufffd\ufffd.png"),
        (b"a\x1b[31m\n.png", "a\\x1b[31m\\n.png"),
        ("invoice\u202egnp.exe".encode(), "invoice\\u202egnp.exe"),
    ],
)
def test_printable(raw: bytes, shown: str) -> None:
    assert printable(Path(os.fsdecode(raw))) == shown
    printable(os.fsdecode(raw)).encode("utf-8")


def test_printable_of_a_lone_surrogate() -> None:
    assert printable("a\ud800b") == "a?b"


def test_plural_and_listing() -> None:
    assert [plural(n, "picture") for n in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert plural(2, "batch") == "2 batches" and plural(3, "copy") == "3 copies" and plural(2, "day") == "2 days"
    assert plural(2, "epoch") == "2 epochs" and plural(2, "box") == "2 boxes"
    assert listing(["a", "b", "c"], 3) == "a, b, c" and listing(["a", "b", "c"], 1) == "a and 2 more"
