"""How often the checksum of a cache file is computed, and that damage is still detected."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from engine.dataset import store
from engine.dataset.store import DeviceStore, TensorStore

KEY = "a" * 64
TENSORS = {"moments": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts: Counter[str] = Counter()
    checksum = store.checksum

    def counted(tensors: Mapping[str, torch.Tensor], key: str = "") -> str:
        counts[key] += 1
        return checksum(tensors, key)

    monkeypatch.setattr(store, "checksum", counted)
    return counts


def let_the_clock_tick(path: Path) -> None:
    """Until a file that is written now has another time: a file system counts in milliseconds."""
    other = path.with_name("clock")
    other.touch()
    while other.stat().st_ctime_ns == path.stat().st_ctime_ns:
        other.write_bytes(b"")
        time.sleep(0.001)


def nothing(_: Path) -> None: ...


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def copy_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def flip_a_bit(path: Path) -> None:
    """With the times of content put back, as a failing disk would leave them."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


CHANGES: dict[str, tuple[Callable[[Path], None], int, bool]] = {
    "none": (nothing, 1, True),
    "touched": (touch, 2, True),
    "replaced by the same": (copy_over, 2, True),
    "a bit flipped": (flip_a_bit, 2, False),
    "cut": (cut, 1, False),
    "removed": (Path.unlink, 1, False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_is_hashed_when_it_is_first_loaded_and_when_it_changed(
    name: str, tmp_path: Path, hashed: Counter[str]
) -> None:
    change, expected, intact = CHANGES[name]
    TensorStore(tmp_path).save(KEY, TENSORS)
    hashed.clear()
    opened = TensorStore(tmp_path)
    for _ in range(3):
        tensors = opened.load(KEY)
        assert tensors is not None and torch.equal(tensors["moments"], TENSORS["moments"])
    let_the_clock_tick(tmp_path / f"{KEY}.safetensors")
    change(tmp_path / f"{KEY}.safetensors")
    for _ in range(3):
        assert (opened.load(KEY) is not None) == intact
    assert hashed[KEY] == (expected if intact or expected == 1 else 4), "damage is detected at each load"
    assert bool(opened.damaged) == (not intact and name != "removed")


def test_a_file_that_is_replaced_during_the_read_is_hashed_at_the_next_load(
    tmp_path: Path, hashed: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = TensorStore(tmp_path)
    opened.save(KEY, TENSORS)
    hashed.clear()
    stamps = iter([(1,), (2,), (2,), (2,), (2,), (2,)])
    monkeypatch.setattr(store, "_file_state", lambda _: next(stamps))
    assert all(opened.load(KEY) for _ in range(3))
    assert hashed[KEY] == 2


def test_a_store_on_a_device_copies_each_tensor_once(tmp_path: Path) -> None:
    """The device without memory stands for a GPU."""
    on_disk = TensorStore(tmp_path / "cache")
    on_disk.save(KEY, TENSORS)
    device_store = DeviceStore(on_disk, torch.device("meta"))
    assert device_store.load("b" * 64) is None
    first = device_store.load(KEY)
    assert first is not None and first["moments"].device.type == "meta" and first["moments"].shape == (2, 3)
    (tmp_path / "cache" / f"{KEY}.safetensors").unlink()
    assert device_store.load(KEY) is first
    on_disk.save("b" * 64, TENSORS)
    assert device_store.load("b" * 64) is not None, "what comes later is there too"
    assert on_disk.sizes == {KEY: 24, "b" * 64: 24}
