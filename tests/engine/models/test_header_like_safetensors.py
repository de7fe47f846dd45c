"""A header is accepted exactly where the safetensors library opens the file, and otherwise the code says why."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from engine.errors import ModelError
from engine.models.header import BITS, MAX_HEADER, read_header
from tests.refusals import refused


def entry(kind: Any, shape: Any, first: Any, last: Any) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [first, last]}


def written(path: Path, header: Any, body: int) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(body))
    return path


def opens(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except Exception as error:  # the library's own kind, and whatever its Rust half raises
        assert type(error).__name__ in ("SafetensorError", "UnicodeDecodeError"), error
        return False
    return True


def accepted(path: Path) -> bool:
    try:
        read_header(path)
    except ModelError as error:
        assert "\n" not in error.message and error.hint
        return False
    return True


A = entry("U8", [2], 0, 2)
TABLE: list[tuple[str, Any, int, str | None]] = [
    ("nothing", {}, 0, None),
    ("two", {"a": A, "b": entry("F32", [1], 2, 6)}, 6, None),
    ("in another order", {"b": entry("F32", [1], 2, 6), "a": A}, 6, None),
    ("a number", {"a": entry("F16", [], 0, 2)}, 2, None),
    ("no elements", {"a": entry("F32", [0, 3], 0, 0), "b": A}, 2, None),
    ("no elements at the end", {"a": entry("F32", [3, 0], 2, 2), "b": A}, 2, None),
    ("no elements inside another", {"a": entry("F32", [0], 1, 1), "b": A}, 2, "safetensors-overlap"),
    ("trailing bytes", {"a": A}, 3, "safetensors-too-long"),
    ("bytes and no tensors", {}, 8, "safetensors-too-long"),
    ("missing bytes", {"a": A}, 1, "model-file-cut-short"),
    ("a gap", {"a": A, "b": entry("U8", [1], 3, 4)}, 4, "safetensors-gap"),
    ("a gap at the start", {"a": entry("U8", [2], 1, 3)}, 3, "safetensors-gap"),
    ("overlap", {"a": A, "b": entry("U8", [2], 1, 3)}, 3, "safetensors-overlap"),
    ("the same place", {"a": A, "b": A}, 2, "safetensors-overlap"),
    ("backwards", {"a": entry("U8", [2], 2, 0)}, 2, "not-safetensors"),
    ("more bytes than the shape", {"a": entry("U8", [1], 0, 2)}, 2, "not-safetensors"),
    ("too large", {"a": entry("U8", [2**40, 2**40], 0, 2)}, 2, "not-safetensors"),
    ("too large and empty", {"a": entry("U8", [2**40, 2**40, 0], 0, 0)}, 0, "not-safetensors"),
    ("beyond 64 bits", {"a": entry("U8", [2**70], 0, 2)}, 2, "not-safetensors"),
    ("half a byte", {"a": entry("F4", [3], 0, 2)}, 2, "not-safetensors"),
    ("a fraction", {"a": entry("U8", [2.0], 0, 2)}, 2, "not-safetensors"),
    ("true", {"a": entry("U8", [True], 0, 1)}, 1, "not-safetensors"),
    ("negative", {"a": entry("U8", [-2], 0, 2)}, 2, "not-safetensors"),
    ("no list", {"a": entry("U8", None, 0, 2)}, 2, "not-safetensors"),
    ("three offsets", {"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 1, 2]}}, 2, "not-safetensors"),
    ("no format", {"a": {"shape": [2], "data_offsets": [0, 2]}}, 2, "not-safetensors"),
    ("a number as format", {"a": entry(8, [2], 0, 2)}, 2, "not-safetensors"),
    ("null", {"a": None}, 0, "not-safetensors"),
    ("more keys", {"a": {**A, "strange": 1}}, 2, None),
    ("metadata null", {"__metadata__": None, "a": A}, 2, None),
    ("metadata", {"__metadata__": {"x": "1"}, "a": A}, 2, None),
    ("metadata of numbers", {"__metadata__": {"x": 1}, "a": A}, 2, "not-safetensors"),
    ("metadata of nothing", {"__metadata__": {"x": None}, "a": A}, 2, "not-safetensors"),
    ("metadata as list", {"__metadata__": [], "a": A}, 2, "not-safetensors"),
    ("not a number", b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":NaN}}', 2, "not-safetensors"),
    ("byte order mark", b"\xef\xbb\xbf" + json.dumps({"a": A}).encode(), 2, "not-safetensors"),
    ("UTF-16", json.dumps({"a": A}).encode("utf-16-le"), 2, "not-safetensors"),
    ("half a surrogate pair", b'{"\\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', 2, "not-safetensors"),
    ("spaces around", b"  " + json.dumps({"a": A}).encode() + b" \n ", 2, None),
    ("zeros behind", json.dumps({"a": A}).encode() + b"\0\0", 2, "not-safetensors"),
    ("nested", b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", 2, "not-safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("header", "body", "code"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_as_the_library(tmp_path: Path, header: Any, body: int, code: str | None) -> None:
    path = written(tmp_path / "x.safetensors", header, body)
    assert opens(path) == (code is None)
    if code is None:
        assert read_header(path).size == path.stat().st_size
        return
    with refused(code, path) as error:
        read_header(path)
    assert error.value.hint


KINDS = ("F8", "C128", "I4", "U4", "F128", "f32", "", "BF16 ")


@pytest.mark.parametrize("kind", [*BITS, *KINDS])
def test_number_formats_are_the_librarys(tmp_path: Path, kind: str) -> None:
    size = BITS.get(kind, 8)
    path = written(tmp_path / "x.safetensors", {"a": entry(kind, [8], 0, size)}, size)
    assert accepted(path) == opens(path) == (kind in BITS)
    if kind in KINDS:
        with refused("number-format-not-supported"):
            read_header(path)


def test_the_longest_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MAX_HEADER + 1) + b"{}")
        file.truncate(MAX_HEADER + 9)
    assert not opens(path) and not accepted(path)


SIZES = st.integers(-1, 9) | st.sampled_from([2**31, 2**62, 2**63, 2**64, 1.0, True, None, "2"])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "F8"]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.lists(SIZES, min_size=2, max_size=2),
    }
)
HEADERS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from("abcd"), ENTRIES | st.none() | st.just([]), max_size=3
)


@st.composite
def sound_but_for_a_number(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Tensors one behind the other, one number of which may be changed, and the bytes of the file."""
    header: dict[str, Any] = {}
    reached = 0
    for name in "abc"[: draw(st.integers(0, 3))]:
        kind = draw(st.sampled_from(["U8", "F16", "F32", "F64", "F8_E4M3"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        count = 1
        for side in shape:
            count *= side
        last = reached + count * BITS[kind] // 8
        header[name] = entry(kind, shape, reached, last)
        reached = last
    changed: bool = draw(st.booleans())
    if header and changed:
        offsets = header[draw(st.sampled_from(sorted(header)))]["data_offsets"]
        offsets[draw(st.integers(0, 1))] += draw(st.integers(-2, 2))
    return header, max(0, reached + draw(st.sampled_from([0, 0, 0, 1, -1])))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=sound_but_for_a_number() | st.tuples(HEADERS, st.integers(0, 20)))
def test_any_header_as_the_library(tmp_path: Path, case: tuple[dict[str, Any], int]) -> None:
    path = written(tmp_path / "x.safetensors", *case)
    assert accepted(path) == opens(path)
