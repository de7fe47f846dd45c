"""Only regular files are read, and only values within the limits come out."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine import reading


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path may have 108 bytes only
        try:
            opened.bind(path.name)
        finally:
            os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_fifo, "named pipe"), (_socket, "socket"), (_device, "device"), (Path.mkdir, "folder")],
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: object, reason: str) -> None:
    path = tmp_path / "x"
    make(path)  # type: ignore[operator]
    with pytest.raises(reading.NotRegularFileError, match=reason):
        reading.open_file(path)


def test_a_file_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert reading.read_bytes(path, 5) == b"12345"
    with pytest.raises(reading.TooLargeError, match="larger than 4 bytes"):
        reading.read_bytes(path, 4)


@pytest.mark.parametrize("link", ["run", "run/inner", "run/inner/file"])
def test_links_below_an_untrusted_folder_are_not_followed(tmp_path: Path, link: str) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "real/inner/file").write_text("content")
    root = tmp_path / "run"
    target = tmp_path / link
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(tmp_path / "real" / Path(link).relative_to("run"))
    if link == "run":  # the folder itself is named by the person
        assert reading.read_text(root / "inner/file", below=root) == "content"
        return
    assert reading.read_text(root / "inner/file") == "content"
    with pytest.raises(reading.NotRegularFileError, match="symbolic link"):
        reading.read_text(root / "inner/file", below=root)
    with pytest.raises(reading.NotRegularFileError, match="outside"):
        reading.read_text(root / "../real/inner/file", below=root)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000 + "]" * 50_000, '{"a":' * 101 + "1" + "}" * 101, "[NaN]", "[Infinity]", "[-Infinity]", "[1e999]",
        '{"a": ' + "9" * 400 + "}", "[" + "9" * 5000 + "]", '{"a" 1}', "", "\x00",
    ],
)  # fmt: skip
def test_json_beyond_the_limits_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        reading.parse_json(text)
    with pytest.raises(ValueError):
        reading.parse_json(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 50_000 + "]" * 50_000, "a" + ".a" * 200 + " = 1", "a = nan", "a = [1, inf]", "a = 1e999",
        "a = " + "9" * 400, "a = " + "9" * 5000, "a = ", "a = 1\na = 2",
    ],
)  # fmt: skip
def test_toml_beyond_the_limits_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        reading.parse_toml(text)


def test_a_key_of_endless_parts_is_refused_before_it_is_parsed() -> None:
    for text in ("a" + ".a" * 2_000_000 + " = 1", "x = {" + " b . " * 2000 + "c = 1}", "[" + '"k".' * 2000 + "k]"):
        with pytest.raises(ValueError, match="nested"):
            reading.parse_toml(text)
    assert reading.parse_toml('a.b.c = "' + "x. " * 500 + '"')["a"]


def test_more_values_than_any_file_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_VALUES", 10)
    assert reading.parse_json("[" + ",".join("1" * 9) + "]")
    for text in ("[" + ",".join("1" * 12) + "]", "[[],[],[],[],[],[]]", '{"a":{"b":{"c":[{},{},{},{}]}}}'):
        for content in (text, text.encode()):
            with pytest.raises(ValueError, match="more than 10 values"):
                reading.parse_json(content)


def test_the_end_of_a_file_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert reading.read_tail(path, 4) == (b"6789", False) and reading.read_tail(path, 10) == (b"0123456789", True)
    path.with_name("y").mkdir()
    with pytest.raises(reading.NotRegularFileError):
        reading.read_tail(path.with_name("y"), 4)


@pytest.mark.parametrize("make", [_fifo, _socket, _device, Path.mkdir])
def test_nothing_but_a_regular_file_is_written(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x"
    assert not reading.is_regular(path)
    make(path)  # type: ignore[operator]
    assert not reading.is_regular(path)
    with pytest.raises(reading.NotRegularFileError):
        reading.open_for_writing(path, os.O_WRONLY | os.O_CREAT, below=tmp_path)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/x").symlink_to(tmp_path / "victim")
    with pytest.raises(reading.NotRegularFileError, match="symbolic link"):
        reading.open_for_writing(tmp_path / "run/x", os.O_WRONLY | os.O_CREAT, below=tmp_path / "run")
    assert not (tmp_path / "victim").exists()
    os.close(reading.open_for_writing(tmp_path / "run/y", os.O_WRONLY | os.O_CREAT, below=tmp_path / "run"))
    assert reading.is_regular(tmp_path / "run/y")
    for impossible in ("a\x00", "x" * 5000):
        assert not reading.is_regular(tmp_path / impossible)


def test_the_place_of_a_bad_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"training\.unet_lr: nan is not a finite number"):
        reading.parse_toml("[training]\nunet_lr = nan")


def test_lone_surrogates_are_refused_where_they_have_no_reason() -> None:
    assert reading.parse_json(r'"\udcff"') == "\udcff"
    for text in (r'["\udcff"]', r'{"\ud800": 1}'):
        with pytest.raises(ValueError, match="surrogate"):
            reading.parse_json(text, surrogates=False)
    assert reading.parse_json(r'"\ud83d\ude00"', surrogates=False) == "😀"
