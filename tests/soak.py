"""Which cases of a table every run of the tests tries, and which `make soak` alone."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def mostly_soaked(cases: Iterable[Any], often: Container[Any]) -> list[Any]:
    """The cases in order, for `parametrize`: those that are not in `often` have the mark `soak`."""
    return [case if case in often else pytest.param(case, marks=pytest.mark.soak) for case in cases]
