"""State files: everything comes back exactly, and what is damaged is never taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import StorageError
from engine.training.statefile import load_tree, save_tree

TREE = {
    "step": 7,
    "rate": 0.1 + 0.2,
    "none": None,
    "flag": True,
    3: "a key that is a number",
    "nested": [{"betas": (0.9, 0.999)}, [], {}],
    "tensors": {
        "f": torch.randn(3, 2),
        "h": torch.randn(4).half(),
        "b": torch.randn(4).bfloat16(),
        "scalar": torch.tensor(2.5),
        "u8": torch.arange(5, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
    },
}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    return type(one) is type(other) and one == other


def test_a_tree_comes_back_exactly(tmp_path: Path) -> None:
    save_tree(tmp_path / "a.safetensors", TREE)
    assert same(load_tree(tmp_path / "a.safetensors"), TREE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_state_is_not_taken(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    path.write_bytes(path.read_bytes()[:keep])
    assert load_tree(path) is None


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    assert load_tree(path) is None


def test_no_space_is_said_and_the_old_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    monkeypatch.setattr("engine.atomic.require_space.__defaults__", (lambda _: type("U", (), {"free": 10})(),))
    with pytest.raises(StorageError, match="Not enough space"):
        save_tree(path, {"x": torch.zeros(9)})
    assert same(load_tree(path), TREE)
