"""Reading folders for the completion of paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tui.setup import completion
from tui.setup.completion import Listing, plain_path, read, split


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models", "Models-old", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("b.safetensors", "A.SAFETENSORS", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_a_folder_holds(folder: Path) -> None:
    everything = (".hidden/", "A.SAFETENSORS", "b.safetensors", "models/", "Models-old/", "notes.txt", "nowhere")
    assert read("", "").entries == read(f"{folder}/", "").entries == everything
    chosen = read("", "", suffixes=(".safetensors",)).entries
    assert chosen == (".hidden/", "A.SAFETENSORS", "b.safetensors", "models/", "Models-old/")
    assert read("", "", folders_only=True).entries == (".hidden/", "models/", "Models-old/")


@pytest.mark.parametrize("folder_name", ["gone/", "notes.txt/", "a\0b/"])
def test_what_cannot_be_read_offers_nothing(folder: Path, folder_name: str) -> None:
    assert read(folder_name, "") == Listing(folder_name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_a_forbidden_folder_offers_nothing(folder: Path) -> None:
    (folder / "models").chmod(0)
    assert read("models/", "").entries == ()


def test_a_name_that_is_no_text_stays_what_it_is(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9 [x]")).mkdir()
    (name,) = read("", "caf").matches("caf")
    assert name == "caf\udce9 [x]/" and Path(name).is_dir()


def test_matches() -> None:
    listing = Listing("", entries=(".git/", "Data/", "data2/", "other"))
    assert listing.matches("") == ["Data/", "data2/", "other"]
    assert listing.matches(".") == [".git/"]
    assert listing.matches("data") == ["data2/"]
    assert listing.matches("OTH") == ["other"]
    assert listing.matches("x") == []


def test_of_a_large_folder_only_what_fits_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "MOST_ENTRIES", 3)
    assert set(read("", "mod").entries) == {"models/", "Models-old/"}
    listing = read("", "mod")
    assert not listing.complete
    assert listing.serves("", "mod") and not listing.serves("", "mode") and not listing.serves("x/", "mod")
    assert Listing("").serves("", "anything")


def test_reading_ends_when_nobody_waits(folder: Path) -> None:
    assert read("", "", is_wanted=lambda: False).entries == ()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/a/b c", "/a/b c"),
        ("  /a/b \n", "/a/b"),
        ("'/a/b c'", "/a/b c"),
        ('"/a/b [c]"', "/a/b [c]"),
        ("'/a/it'\\''s'", "/a/it's"),
        ("/a/b\\ c", "/a/b c"),
        ("'/a/b", "'/a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a/caf%E9", "/a/caf\udce9"),
        ("~/x", "/home/ann/x"),
        ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
        ("owner/name", "owner/name"),
        ("", ""),
    ],
)
def test_pasted_paths(text: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert plain_path(text) == path


def test_split() -> None:
    assert split("/a/b") == ("/a/", "b")
    assert split("b") == ("", "b")
    assert split("a/") == ("a/", "")
