"""Tensors in packs: kills, damage, several processes, files that are no packs, and caches of earlier versions."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.dataset import pack as packs
from engine.dataset.store import DeviceStore, TensorStore
from tests.packed import HEAD, flip_a_bit, only_pack, records
from tests.refusals import refused

KEYS = [letter * 64 for letter in "abcd"]
EARLIER = Path(__file__).parent / "fixtures" / "earlier_cache"


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {"moments": torch.arange(6.0).reshape(2, 3) + number}


def filled(directory: Path, count: int = 4) -> Path:
    """A folder with one pack; returns the pack."""
    store = TensorStore(directory)
    for number, key in enumerate(KEYS[:count]):
        store.save(key, tensors(number))
    return only_pack(directory)


def present(store: TensorStore) -> str:
    """First letters of the keys that are there, each with the right tensors."""
    letters = ""
    for number, key in enumerate(KEYS):
        if (loaded := store.load(key)) is not None:
            assert torch.equal(loaded["moments"], tensors(number)["moments"])
            letters += key[0]
    return letters


def test_a_pack_that_ends_anywhere_holds_its_complete_records(tmp_path: Path) -> None:
    pack = filled(tmp_path / "whole")
    data, ends = pack.read_bytes(), [record.end for record in records(pack)]
    (tmp_path / "cut").mkdir()
    for size in range(len(data)):
        (tmp_path / "cut" / pack.name).write_bytes(data[:size])
        store = TensorStore(tmp_path / "cut")
        assert present(store) == "abcd"[: sum(end <= size for end in ends)], size
        assert not store.take_damaged(), "a kill is no damage"


def test_what_a_power_cut_leaves_is_absent(tmp_path: Path) -> None:
    """The file has its size, and zeros where its bytes did not reach the disk."""
    pack = filled(tmp_path)
    data, third = pack.read_bytes(), records(pack)[2]
    for start, there in ((third.offset, "abd"), (third.offset - HEAD.size, "ab")):
        pack.write_bytes(data[:start] + bytes(third.end - start) + data[third.end :])
        assert present(TensorStore(tmp_path)) == there


@pytest.mark.parametrize("late", [False, True])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, late: bool) -> None:
    """Also one that flips after the record was loaded once: every load verifies it."""
    pack = filled(tmp_path)
    intact, second = pack.read_bytes(), records(pack)[1]
    for place in range(second.offset - HEAD.size, second.end, 7):
        store = TensorStore(tmp_path) if late else None
        assert store is None or present(store) == "abcd"
        flip_a_bit(pack, place)
        store = store or TensorStore(tmp_path)
        is_head = place < second.offset
        assert present(store) == ("a" if is_head and not late else "acd")
        assert store.load(KEYS[1]) is None
        (message,) = store.take_damaged()
        assert pack.name in message and not store.take_damaged()
        store.save(KEYS[1], tensors(1))
        assert store.load(KEYS[1]) is not None
        assert present(TensorStore(tmp_path)) == ("ab" if is_head else "abcd"), "the newest record counts"
        for other in set(tmp_path.iterdir()) - {pack}:
            other.unlink()
        pack.write_bytes(intact)


def test_each_process_reads_what_others_add_and_writes_only_its_own(tmp_path: Path) -> None:
    first, second = TensorStore(tmp_path), TensorStore(tmp_path)
    first.save(KEYS[0], tensors(0))
    second.save(KEYS[1], tensors(1))
    assert present(first) == "a" and present(second) == "b"
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    first.refresh()
    second.refresh()
    assert present(first) == present(second) == "ab"
    second.save(KEYS[2], tensors(2))
    assert sorted(path.read_bytes() == data for path, data in before.items()) == [False, True]
    assert present(first) == "ab"
    first.refresh()
    assert present(first) == "abc" and len(list(tmp_path.iterdir())) == 2


def test_a_record_in_the_middle_of_its_writing_is_seen_once_it_is_complete(tmp_path: Path) -> None:
    pack = filled(tmp_path / "source")
    data, size = pack.read_bytes(), records(pack)[1].offset + 5
    growing = tmp_path / "cache" / pack.name
    growing.parent.mkdir()
    growing.write_bytes(data[:size])
    store = TensorStore(growing.parent)
    assert present(store) == "a"
    with growing.open("ab") as file:
        file.write(data[size:])
    store.refresh()
    assert present(store) == "abcd" and not store.take_damaged()


def test_an_open_reads_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, place: read.append(size) or pread(file, size, place))
    store = TensorStore(tmp_path)
    assert sum(read) == 8 + 4 * HEAD.size
    store.refresh()
    assert sum(read) == 8 + 4 * HEAD.size, "and a refresh only what is new"


def head(size: int) -> bytes:
    """Of a record with an intact check of its own."""
    fields = struct.pack("<4sQ32s32s", b"RCRD", size, bytes(32), bytes(32))
    return fields + struct.pack("<I", zlib.crc32(fields + bytes(4)))


def sparse(path: Path, size: int) -> None:
    """A record of zeros that takes no space."""
    path.write_bytes(b"LSPACK1\n" + head(size))
    os.truncate(path, 8 + HEAD.size + size)


FOREIGN: dict[str, tuple[Callable[[Path], object], bool]] = {
    # what is there under the name of a pack, whether it is reported
    "text": (lambda path: path.write_text("some notes"), False),
    "nothing": (lambda path: path.touch(), False),
    "a folder": (lambda path: path.mkdir(), False),
    "a pipe": (os.mkfifo, False),
    "a broken link": (lambda path: path.symlink_to("nowhere"), False),
    "a link": (lambda path: path.symlink_to(path.parents[1] / "elsewhere.pack"), False),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), False),
    "no record": (lambda path: path.write_bytes(b"LSPACK1\n" + b"x" * 500), True),
    "the longest record": (lambda path: path.write_bytes(b"LSPACK1\n" + head(2**64 - 1) + b"x" * 500), True),
    "a record longer than the file": (lambda path: path.write_bytes(b"LSPACK1\n" + head(2**29) + b"x" * 500), False),
    "a record beyond the limit": (lambda path: sparse(path, 2**30 + 1), True),
    "a record of no bytes": (lambda path: path.write_bytes(b"LSPACK1\n" + head(0) * 3), False),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_no_pack_is_left_alone(tmp_path: Path, name: str, when: str) -> None:
    make, reported = FOREIGN[name]
    cache = tmp_path / "cache"
    filled(cache, 2)
    shutil.copy(filled(tmp_path / "other"), tmp_path / "elsewhere.pack")
    store = TensorStore(cache)
    foreign = cache / "1.pack"
    make(foreign)
    before = foreign.lstat()
    if when == "before":
        store = TensorStore(cache)
    store.refresh()
    assert present(store) == "ab", "a link is not followed"
    assert len(store.take_damaged()) == reported
    store.save(KEYS[2], tensors(2))
    assert present(store) == "abc" and store.load("0" * 64) is None
    after = foreign.lstat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (before.st_mode, before.st_mtime_ns, before.st_size)


def test_only_so_many_records_are_kept_in_mind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    monkeypatch.setattr(packs, "MOST_RECORDS", 3)
    store = TensorStore(tmp_path)
    assert present(store) == "abc" and len(store.take_damaged()) == 1


@pytest.mark.parametrize("removed", ["pack", "folder"])
def test_a_cache_that_is_emptied_during_a_run(tmp_path: Path, removed: str) -> None:
    """What was in it is absent; what is saved afterwards goes into a new pack, if the folder is still there."""
    cache = tmp_path / "cache"
    store = TensorStore(cache)
    store.save(KEYS[0], tensors(0))
    if removed == "pack":
        only_pack(cache).unlink()
    else:
        shutil.rmtree(cache)
    assert present(store) == "" and not store.take_damaged()
    if removed == "folder":
        with refused("write-failed", str(cache)):
            store.save(KEYS[0], tensors(0))
        return
    store.save(KEYS[0], tensors(0))
    store.save(KEYS[1], tensors(1))
    assert present(store) == present(TensorStore(cache)) == "ab" and only_pack(cache)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("written", [0, 5, 150])
def test_nothing_of_a_record_is_left_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, written: int
) -> None:
    store, pwrite, sizes = TensorStore(tmp_path), os.pwrite, [written]

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if not sizes or not sizes[0]:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data[: sizes.pop()], offset)

    for index in range(number):
        store.save(KEYS[index], tensors(index))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with refused("disk-full"):
            store.save(KEYS[number], tensors(number))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert present(store) == "abcd"[:number]
    store.save(KEYS[number], tensors(number))
    assert present(store) == present(TensorStore(tmp_path)) == "abcd"[: number + 1]


def test_a_cache_of_an_earlier_version_is_read_and_continued(tmp_path: Path) -> None:
    """A folder that version 85d3670 wrote."""
    cache = shutil.copytree(EARLIER, tmp_path / "cache")
    store = TensorStore(cache)
    assert present(store) == "a" and store.sizes == {KEYS[0]: 24}
    store.save(KEYS[1], tensors(1))
    assert present(store) == present(TensorStore(cache)) == "ab"


@pytest.mark.parametrize("harm", ["cut", "bit", "other", "folder"])
def test_a_damaged_file_of_an_earlier_version_is_reported_once_and_replaced(tmp_path: Path, harm: str) -> None:
    cache = shutil.copytree(EARLIER, tmp_path / "cache")
    (file,) = cache.iterdir()
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif harm == "bit":
        flip_a_bit(file, file.stat().st_size - 5)
    elif harm == "other":
        file = file.rename(cache / f"{KEYS[1]}.safetensors")
    else:
        file.unlink()
        file.mkdir()
    store = TensorStore(cache)
    assert present(store) == "" and present(store) == ""
    (message,) = store.take_damaged()
    assert file.name in message
    key = file.name.partition(".")[0]
    store.save(key, tensors(KEYS.index(key)))
    assert present(store) == present(TensorStore(cache)) == key[0]


def test_a_store_on_a_device_copies_each_tensor_once(tmp_path: Path) -> None:
    """The device without memory stands for a GPU."""
    on_disk = TensorStore(tmp_path / "cache")
    on_disk.save(KEYS[0], tensors(0))
    device_store = DeviceStore(on_disk, torch.device("meta"))
    assert device_store.load(KEYS[1]) is None
    first = device_store.load(KEYS[0])
    assert first is not None and first["moments"].device.type == "meta" and first["moments"].shape == (2, 3)
    only_pack(tmp_path / "cache").unlink()
    assert device_store.load(KEYS[0]) is first
    on_disk.save(KEYS[1], tensors(1))
    assert device_store.load(KEYS[1]) is not None, "what comes later is there too"
    assert on_disk.sizes == {KEYS[0]: 24, KEYS[1]: 24}
