from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.text import attach_line, listing, plural, printable, resume_line, shell_line, shell_word, size_text


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"cat.png", "cat.png"),
        ("ねこ 🐈 [1].png".encode(), "ねこ 🐈 [1].png"),
        (b"a\xff\xfe.png", "a\ufffd\ufffd.png"),
        (b"a\x1b[31m\n.png", "a\\x1b[31m\\n.png"),
        ("invoice\u202egnp.exe".encode(), "invoice\\u202egnp.exe"),
    ],
)
def test_printable(raw: bytes, expected: str) -> None:
    assert printable(Path(os.fsdecode(raw))) == expected
    printable(os.fsdecode(raw)).encode("utf-8")


def test_printable_of_a_lone_surrogate() -> None:
    assert printable("a\ud800b") == "a?b"


def test_plural_and_listing() -> None:
    assert [plural(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert plural(2, "batch") == "2 batches" and plural(3, "copy") == "3 copies" and plural(2, "day") == "2 days"
    assert plural(2, "epoch") == "2 epochs" and plural(2, "box") == "2 boxes"
    assert listing(["a", "b", "c"], 3) == "a, b, c" and listing(["a", "b", "c"], 1) == "a and 2 more"


NAMES = [
    "cat.png", "my cat.png", "it's.png", 'a"b.png', "$HOME.png", "a;rm -rf b", "a`id`b", "back\\slash", "~", "*.png",
    "a!b", "ねこ 🐈", "a|c", "line\nbreak", "tab\tbell\a", "esc\x1b[31m", "\u202egnp", "end'\\\n", "", "#a", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"a\xff\xfe' b")])
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_word_of_a_command_line_is_what_the_shell_reads(name: str) -> None:
    word = shell_word(name)
    assert printable(word) == word and "\n" not in word
    line = f"printf '%s|' {shell_line(['x', name])} {word}"
    read = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
    assert read.stdout == b"x|" + os.fsencode(name) + b"|" + os.fsencode(name) + b"|"


def test_a_path_is_no_option_and_plain_words_stay_plain() -> None:
    assert shell_word(Path("-rf/a b")) == "'./-rf/a b'"
    assert shell_line(("lorasmith", "attach", Path("/runs/robot"))) == attach_line(Path("/runs/robot"))
    assert attach_line(Path("/runs/robot")) == "lorasmith attach /runs/robot"
    assert resume_line(Path("/my runs/robot")) == "lorasmith resume '/my runs/robot'"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(None, "unknown"), (0, "0.0 MiB"), (300, "0.3 KiB"), (2**15, "32.0 KiB"), (2**20, "1.0 MiB"), (2**31, "2.0 GiB")],
)
def test_sizes_in_the_unit_that_shows_them(size: int | None, expected: str) -> None:
    assert size_text(size) == expected
