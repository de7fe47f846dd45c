"""YAML with limits: what is read, where it is, and what is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.config.yaml_text import MAX_YAML, YamlError, read_yaml
from engine.reading import MAX_DEPTH

READ: list[tuple[str, Any]] = [
    ("", None),
    ("# nothing\n", None),
    ("---\na: 1\n...\n", {"a": 1}),
    ("a: 1e-4\nb: 1E-4\nc: 1.5\nd: -3\ne: 1_000\nf: .5\ng: +2", {
        "a": 1e-4, "b": 1e-4, "c": 1.5, "d": -3, "e": 1000, "f": 0.5, "g": 2}),
    ("a: yes\nb: Off\nc: true\nd: ~\ne: null\nf:\n", {"a": True, "b": False, "c": True, "d": None, "e": None,
                                                            "f": None}),
    ("a: 'yes'\nb: \"5\"\nc: 12:30\nd: 2024-01-01\ne: 1.2.3\nf: 0x10", {
        "a": "yes", "b": "5", "c": "12:30", "d": "2024-01-01", "e": "1.2.3", "f": "0x10"}),
    ("a: [1, [2, x], {b: 3}]", {"a": [1, [2, "x"], {"b": 3}]}),
    ("- a: 1\n  b: 2\n-\n  - 3\n", [{"a": 1, "b": 2}, [3]]),
    ("a: |\n  one\n  two\nb: >\n  three\n  four\n", {"a": "one\ntwo\n", "b": "three four\n"}),
    ('a: "C:\\\\x\\n"\nb: C:\\x\n', {"a": "C:\\x\n", "b": "C:\\x"}),
    ("5: x\ntrue: y\n", {"5": "x", "true": "y"}),
    ("a: " + "9" * 500, {"a": "9" * 500}),
    (json.dumps({"a": [1, {"b": "ü"}], "c": None}, indent=1), {"a": [1, {"b": "ü"}], "c": None}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), READ)
def test_what_is_read(text: str, value: Any) -> None:
    assert read_yaml(text)[0] == value


def test_the_line_of_each_key() -> None:
    _, lines = read_yaml(
        "# a job\njob: x\nconfig:\n  process:\n    - type: a\n      train:\n        lr: 1\n    - type: b\n"
    )
    assert lines == {
        ("job",): 2, ("config",): 3, ("config", "process"): 4, ("config", "process", 0): 5,
        ("config", "process", 0, "type"): 5, ("config", "process", 0, "train"): 6,
        ("config", "process", 0, "train", "lr"): 7, ("config", "process", 1): 8, ("config", "process", 1, "type"): 8,
    }  # fmt: skip


REFUSED = [
    ("a: &x [1]\nb: *x\n", 1), ("a: *x\n", 1), ("a: 1\n<<: {b: 2}\n", 2),
    ("a: !!python/object/apply:os.system [x]\n", 1),
    ("a: !x 1\n", 1), ("!!map {a: 1}\n", 1), ("a: 1\na: 2\n", 2), ("a: 1\n---\nb: 2\n", 2), ("? [a]\n: 1\n", 1),
    ("a: [1\n", 2), ("a: b: c\n", 1), ("\ta: 1\n", 1), ("a: .inf\n", 1), ("a: .NaN\n", 1), ("a: \x07\n", 0),
    ("a: 'x\n", 2), ("[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), 1), ("- " * 5000 + "x", 1), ("{a: " * 5000, 1),
    ("x" * (MAX_YAML + 1), 0), ("a: " + "&a [" * 200, 1), ("%YAML 9.9\n---\na: 1\n", 1), ("a: \ud800\n", 0),
    ("@a: 1\n", 1),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), REFUSED)
def test_what_is_refused(text: str, line: int) -> None:
    with pytest.raises(YamlError) as caught:
        read_yaml(text)
    assert caught.value.line == line and str(caught.value) and "\n" not in str(caught.value)
