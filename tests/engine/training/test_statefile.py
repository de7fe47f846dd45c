"""State files: everything comes back exactly, and what is damaged is never taken."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from engine.runs.layout import RunDir
from engine.runs.resume import last_saved_step
from engine.runs.states import newest_state, read_state, state_path
from engine.training.statefile import flatten, load_tree, save_tree
from tests.refusals import refused

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


def same(mine: object, other: object) -> bool:
    if isinstance(mine, torch.Tensor):
        return isinstance(other, torch.Tensor) and mine.dtype == other.dtype and torch.equal(mine, other)
    if isinstance(mine, dict):
        return isinstance(other, dict) and list(mine) == list(other) and all(same(mine[k], other[k]) for k in mine)
    if isinstance(mine, list | tuple):
        return type(mine) is type(other) and len(mine) == len(other) and all(map(same, mine, other))  # type: ignore[arg-type]
    return type(mine) is type(other) and mine == other


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


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Of the length, the header, and the content."""
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in {1, 1 << place % 8}:
            data = bytearray(whole)
            data[place] ^= bit
            path.write_bytes(data)
            assert read_state(path) is None, f"bit {bit} of byte {place}: {whole[place - 20 : place + 20]!r}"
    path.write_bytes(whole)
    assert same(load_tree(path), TREE)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\0",
        lambda data: data[:-1],
        lambda data: data.replace(b'"format":"2"', b'"format":"1"'),
        lambda data: data.replace(b'"format":"2"', b'"format":"3"'),
        lambda data: data.replace(b'[\\"step\\", 7]', b'[\\"step\\", 8]'),
        lambda data: data.replace(b'\\"flag\\", true', b'\\"flag\\", null'),
        lambda data: data.replace(b'"dtype":"F16"', b'"dtype":"I16"'),
        lambda data: data.replace(b'"shape":[3,2]', b'"shape":[2,3]'),
    ],
)
def test_a_changed_file_is_not_taken(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    data = change(path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    assert load_tree(path) is None and read_state(path) is None


def tree_of(step: int) -> dict[str, object]:
    return {"place": {"updates_per_epoch": 4, "shift": 0}, "progress": {"step": step}, "adapter": [torch.ones(2)]}


@pytest.mark.parametrize("old", [False, True])
def test_a_renamed_state_is_not_taken(old: bool, tmp_path: Path) -> None:
    """Whoever asks takes the newest that is what was written under its name; of the first format too."""
    run = RunDir(tmp_path)
    run.checkpoints.mkdir(parents=True)
    five, ten = (state_path(run.checkpoints, step) for step in (5, 10))
    for path, step in ((five, 5), (ten, 10)):
        save_tree(path, tree_of(step))
        if old:
            write_first_format(path, tree_of(step))
    assert last_saved_step(run) == 10
    state = newest_state(run.checkpoints)
    assert state is not None and state.value("place") == {"updates_per_epoch": 4, "shift": 0}
    far = ten.rename(state_path(run.checkpoints, 99999999))
    assert load_tree(far) is None and last_saved_step(run) == 5
    five.replace(state_path(run.checkpoints, 6))
    assert last_saved_step(run) == 0 and newest_state(run.checkpoints) is None


def write_first_format(path: Path, tree: dict[str, object]) -> None:
    """As earlier versions wrote it: the digest is of the tensors only."""
    tensors: dict[str, torch.Tensor] = {}
    structure = flatten(tree, tensors)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    metadata = {"format": "1", "tree": json.dumps(structure), "sha256": digest.hexdigest()}
    path.write_bytes(save(tensors, metadata))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + b"\x40",
        lambda data: data[:-1],
        lambda data: data.replace(b'[\\"step\\", 7]', b'[\\"step\\", 8]'),
        lambda data: data.replace(b'"data_offsets":[0,8]', b'"data_offsets":[0,9]'),
        lambda data: data.replace(b'"data_offsets":[0,8]', b'"data_offsets":[8,0]'),
        lambda data: data.replace(b'"tree":', b'"fire":'),
    ],
)
def test_a_changed_state_of_the_first_format_is_not_taken(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = state_path(tmp_path, 7)
    write_first_format(path, tree_of(7))
    assert same(load_tree(path), tree_of(7))
    data = change(path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    assert load_tree(path) is None and newest_state(tmp_path) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_what_is_no_state_is_none(content: bytes, tmp_path: Path) -> None:
    state_path(tmp_path, 1).write_bytes(content)
    state_path(tmp_path, 2).mkdir()
    state_path(tmp_path, 3).symlink_to(state_path(tmp_path, 1))
    os.mkfifo(state_path(tmp_path, 4))
    assert newest_state(tmp_path) is None


def test_no_space_is_reported_and_the_old_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    monkeypatch.setattr("engine.atomic.require_space.__defaults__", (lambda _: type("U", (), {"free": 10})(),))
    with refused("disk-full", tmp_path):
        save_tree(path, {"x": torch.zeros(9)})
    assert same(load_tree(path), TREE)
