"""Caption files as a person works on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.dataset.caption_files import (
    CaptionFile,
    coverage,
    has_word,
    list_captions,
    tag_counts,
    token_counter,
    with_trigger,
    write_caption,
)
from tests.refusals import refused


def folder_of(place: Path, captions: dict[str, str | bytes | None]) -> Path:
    """Images by name (empty files will do), each with its caption."""
    for name, text in captions.items():
        image, _, extension = name.partition(">")
        (place / image).parent.mkdir(parents=True, exist_ok=True)
        (place / image).touch()
        if text is not None:
            data = text if isinstance(text, bytes) else text.encode()
            (place / image).with_suffix(extension or ".txt").write_bytes(data)
    return place


def test_images_with_their_captions(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        {"a.png": " one \n\n two\n", "b.jpg>.caption": b"\xef\xbb\xbfmarked", "c.png": "\n", "d.png": None,
         "e.webp": b"caf\xe9", "f.png>.TXT": "loud"},
    )  # fmt: skip
    files = list_captions(folder)
    assert [(file.image.name, file.path.name, file.text) for file in files] == [
        ("a.png", "a.txt", "one\ntwo"),
        ("b.jpg", "b.caption", "marked"),
        ("c.png", "c.txt", ""),
        ("d.png", "d.txt", None),
        ("e.webp", "e.txt", None),
        ("f.png", "f.TXT", "loud"),
    ]
    assert "not UTF-8" in files[4].problem and not any(file.problem for file in files if file.image.stem != "e")
    count = coverage(files)
    assert (count.images, count.captioned, count.empty, count.missing, count.unreadable) == (6, 3, 1, 1, 1)
    assert count.without == 2


def test_numbered_folders_are_read_as_a_run_reads_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"10_smithy/a.png": "one", "2_other/b.png": None, "notes/c.png": "no", "d.png": "no"})
    assert [file.image.name for file in list_captions(folder)] == ["a.png", "b.png"]
    with refused("folder-missing", tmp_path / "nowhere"):
        list_captions(tmp_path / "nowhere")


def test_a_caption_is_written_in_one_piece_and_keeps_its_place(tmp_path: Path) -> None:
    files = list_captions(folder_of(tmp_path, {"a.png>.caption": "old", "b.png": None, "é.png": None}))
    changed = [write_caption(file, " ein Käfer \r\n\r\n ") for file in files]
    assert (tmp_path / "a.caption").read_bytes() == "ein Käfer\n".encode()
    assert (tmp_path / "b.txt").read_bytes() == "ein Käfer\n".encode()
    assert changed == list_captions(tmp_path) == [file.reread() for file in files]
    assert write_caption(files[1], "").text == "" and (tmp_path / "b.txt").read_bytes() == b""
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    (file,) = list_captions(folder_of(tmp_path, {"a.png": "old"}))
    tmp_path.chmod(0o500)
    try:
        with refused("not-writable", file.path):
            write_caption(file, "new")
        assert file.path.read_text() == "old"
    finally:
        tmp_path.chmod(0o700)


def test_a_face_crop_gets_a_caption_of_its_own(tmp_path: Path) -> None:
    folder_of(tmp_path, {"p_1_2_3_4.png": None, "p_5_6_7_8.png": None})
    (tmp_path / "p.txt").write_text("shared")
    files = list_captions(tmp_path)
    assert [file.text for file in files] == ["shared", "shared"]
    write_caption(files[0], "own")
    assert [file.text for file in list_captions(tmp_path)] == ["own", "shared"]


def test_tags_are_counted_once_a_caption() -> None:
    texts = ["robot, red sky,robot", "red sky", None, "", "robot,\ngrass"]
    files = [CaptionFile(Path(f"{n}.png"), Path(f"{n}.txt"), text) for n, text in enumerate(texts)]
    assert tag_counts(files) == [("red sky", 2), ("robot", 2), ("grass", 1)]
    assert tag_counts(files[:1], " ") == [("red", 1), ("robot,", 1), ("sky,robot", 1)]


def test_tokens_of_the_longest_line() -> None:
    count = token_counter()
    assert count("") == 0
    assert count("a photo of a cat") == 5
    assert count("a photo of a cat\ncat") == 5
    assert count("cat " * 80) == 80


@pytest.mark.parametrize(
    ("text", "word", "there"),
    [
        ("a Smithy, red", "smithy", True),
        ("blacksmithy", "smithy", False),
        ("smithys and smithy's", "smithy", True),
        ("smithy2", "smithy", False),
        ("(smithy:1.2)", "smithy", True),
        ("anything", "", False),
    ],
)
def test_a_word_of_its_own(text: str, word: str, there: bool) -> None:
    assert has_word(text, word) is there


def test_the_trigger_is_once_and_first() -> None:
    assert with_trigger("a robot", "smithy") == "smithy, a robot"
    assert with_trigger("red sky, smithy, grass", "smithy") == "smithy, red sky, grass"
    assert with_trigger("smithy, red sky, smithy", "smithy") == "smithy, red sky"
    assert with_trigger("smithyland", "smithy") == "smithy, smithyland"
    assert with_trigger("a robot", "") == "a robot"


def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    (file,) = list_captions(folder_of(tmp_path / "gone", {"a.png": None}))
    file.image.unlink()
    (tmp_path / "gone").rmdir()
    with refused("write-failed", file.path) as caught:
        write_caption(file, "new")
    assert caught.value.hint == "Give yourself write permission there, or free some space."
