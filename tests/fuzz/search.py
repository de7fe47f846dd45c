"""What all searches for breaking inputs share: how many examples, always the same, and values as strangers give."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

QUICK, LONG = 60, 600


def examples(quick: int = QUICK, long: int = LONG) -> pytest.MarkDecorator:
    """`examples` of a test: few in `make test`, many in `make soak`."""
    return pytest.mark.parametrize("examples", [quick, pytest.param(long, marks=[pytest.mark.soak, NO_HURRY])])


NO_HURRY = pytest.mark.timeout(1800)


def search(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], examples: int) -> None:
    """Call `check` with as many values of `strategy`, the same ones each time."""
    limits = settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # to make a found one smaller takes minutes
    )  # fmt: skip

    def once(value: Any) -> None:
        check(value)

    limits(given(strategy)(once))()


ODD_NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**53, 2**63, 2**64, -(2**64), 10**400, 1e300, -1e300, 1e-300, 0.5, 3.0,
     float("nan"), float("inf"), float("-inf"), True, False]
)  # fmt: skip
ODD_TEXTS = st.sampled_from(
    ["", "..", "../../x", "/etc/passwd", "a/b", "\x00", "\x1b[2J", "\ud800", "\udcff", "nan", "1e999", "x" * 5000, "\n",
     "finished", "running", "start", "train", "none", "{0}", "%s", "[bold]"]
)  # fmt: skip
SCALARS = st.none() | ODD_NUMBERS | ODD_TEXTS | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DEEP = st.integers(1, 100_000).map(lambda depth: "[" * depth + "]" * depth)


def tables(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Tables in which any of `keys` have any value."""
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=8), VALUES, max_size=min(10, len(keys)))


def json_texts(*keys: str) -> st.SearchStrategy[bytes]:
    """What a JSON file may hold instead of the table that is meant: other values, other bytes, a file cut in two."""
    written = (tables(*keys) | VALUES).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    cut = st.tuples(written, st.integers(0, 40)).map(lambda pair: pair[0][: -pair[1] or None])
    return written | cut | st.binary(max_size=60) | DEEP.map(str.encode)
