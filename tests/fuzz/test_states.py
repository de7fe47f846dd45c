"""Training states with any damage: never taken for what they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from engine.training.statefile import load_tree, save_tree
from tests.fuzz.search import examples, search

TREE = {
    "progress": {"step": 7, "loss_sum": 0.25, "changes": {"training.unet_lr": 1e-4}},
    "network": {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)},
    "list": [1, (2.5, None, True), "text"],
}


def same(first: Any, other: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(other, torch.Tensor) and first.dtype == other.dtype and torch.equal(first, other)
    if type(first) is not type(other):
        return False
    if isinstance(first, dict):
        return list(first) == list(other) and all(same(first[key], other[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(other) and all(same(*pair) for pair in zip(first, other, strict=True))
    return bool(first == other)


def test_an_undamaged_state_is_itself(tmp_path: Path) -> None:
    save_tree(tmp_path / "state", TREE)
    assert same(load_tree(tmp_path / "state"), TREE)


@examples(quick=200, long=20_000)
def test_a_changed_byte_is_noticed(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "state"
    save_tree(path, TREE)
    good = path.read_bytes()

    def check(value: tuple[int, int]) -> None:
        place, flip = value
        data = bytearray(good)
        data[place] ^= flip
        path.write_bytes(data)
        state = load_tree(path)
        assert state is None or same(state, TREE)

    search(st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)), check, examples)


@examples(quick=60)
def test_a_cut_or_foreign_file_is_none(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "state"
    save_tree(path, TREE)
    good = path.read_bytes()

    def check(value: int | bytes) -> None:
        path.write_bytes(good[:value] if isinstance(value, int) else value)
        assert load_tree(path) is None

    search(st.integers(0, len(good) - 1) | st.binary(max_size=100), check, examples)
