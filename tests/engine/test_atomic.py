"""Atomic writes on a disk that refuses, and what killed processes leave."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import atomic
from engine.atomic import replacing, sweep, write_bytes
from engine.errors import StorageError, causes, is_storage_limit, storage_error, storing
from engine.out_of_memory import is_on_gpu, is_out_of_memory, reported_numbers
from engine.processes import started_at
from tests.disk_faults import OPERATIONS, Fault, failing
from tests.refusals import refused

HERE, ELSEWHERE = atomic.machine_tag(), "0badcafe"
DEAD = 4_194_000
"""The number of no process: so far up they are given out only after millions of others."""


@pytest.fixture
def living() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", sorted({*errno.errorcode, 4095} - {errno.ENOMEM}))
def test_every_errno_is_a_storage_error_with_a_reason(number: int, tmp_path: Path) -> None:
    error = storage_error(OSError(number, os.strerror(number)), tmp_path, "Writing")
    assert error is not None and error.hint and error.message.startswith(f"Writing {tmp_path} failed: ")
    assert is_storage_limit(OSError(number, "")) == (number in (1, 13, 27, 28, 30, errno.EDQUOT))


@pytest.mark.parametrize("error", [OSError(), OSError("encoder error -2"), OSError(0, "")])
def test_an_error_without_a_number_has_a_reason_too(error: OSError, tmp_path: Path) -> None:
    converted = storage_error(error, tmp_path, "Writing")
    assert converted is not None and not converted.message.endswith("failed: .")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC, 4095])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(operation: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with failing(Fault(operation, number, "a.json")), pytest.raises(StorageError) as caught:
        write_bytes(path, b"new")
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == number
    assert not is_out_of_memory(caught.value) and reported_numbers(caught.value) == {}
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_out_of_memory_is_not_converted(operation: str, tmp_path: Path) -> None:
    with failing(Fault(operation, errno.ENOMEM, "a.json")), pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "a.json", b"new")
    assert not isinstance(caught.value, StorageError) and is_out_of_memory(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_storing_names_the_path_and_the_work(tmp_path: Path) -> None:
    with (
        refused("write-failed", f"Making {tmp_path} ", "Input/output error"),
        storing(tmp_path, "Making"),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("context", [False, True])
def test_a_chain_of_causes_that_leads_back_to_itself_ends(length: int, context: bool) -> None:
    errors = [OSError(errno.EIO, str(place)) for place in range(length)]
    for place, error in enumerate(errors):
        if context:
            error.__context__ = errors[(place + 1) % length]
        else:
            error.__cause__ = errors[(place + 1) % length]
    assert list(causes(errors[0], context=True)) == errors
    assert not is_out_of_memory(errors[0]) and not is_on_gpu(errors[0])


def left(folder: Path, name: str, age: float = 0) -> Path:
    path = folder / name
    path.write_bytes(b"half")
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("inner", ["state-00000004.safetensors", "zed.safetensors", "exit.json", "a b.txt", "0" * 64])
def test_what_a_dead_process_left_goes_with_the_next_write(inner: str, tmp_path: Path, living: int) -> None:
    gone = [left(tmp_path, f".{inner}.{DEAD}-{HERE}.tmp"), left(tmp_path, f".{inner}.{DEAD}-{ELSEWHERE}.tmp", 7200)]
    reused = left(tmp_path, f".{inner}.{living}-{HERE}.tmp", 3600)  # written before the process of that number began
    kept = [
        left(tmp_path, f".{inner}.{os.getpid()}-{HERE}.tmp"),
        left(tmp_path, f".{inner}.{DEAD}-{ELSEWHERE}.tmp.tmp"),
        left(tmp_path, f".{inner}.{DEAD + 1}-{ELSEWHERE}.tmp"),
        left(tmp_path, f".{inner}.{DEAD}.tmp"),
        left(tmp_path, f"{inner}.{DEAD}-{HERE}.tmp"),
        left(tmp_path, f".{inner}.tmp"),
    ]
    with replacing(tmp_path / "new.json") as temporary:
        temporary.write_bytes(b"{}")
    assert not [path for path in (*gone, reused) if path.exists()]
    assert all(path.exists() for path in kept)


def test_a_living_process_keeps_its_file_for_hours(tmp_path: Path, living: int) -> None:
    start = started_at(living)
    assert start is not None and abs(start - time.time()) < 60
    path = left(tmp_path, f".zed.safetensors.{living}-{HERE}.tmp")
    assert sweep(tmp_path, older=True) == 0 and path.exists()


@pytest.mark.parametrize(
    ("name", "older", "shared", "age", "goes"),
    [
        (f".zed.safetensors.{DEAD}.tmp", True, False, 0, True),
        (f".zed.safetensors.{DEAD}.tmp", False, False, 0, False),
        (f".zed.safetensors.{DEAD}.tmp", True, True, 0, False),
        (f".zed.safetensors.{DEAD}.tmp", True, True, 7200, True),
        (f".notes.doc.{DEAD}.tmp", True, False, 7200, False),
        (".zed.safetensors.own.tmp", True, False, 7200, False),
    ],
)
def test_names_of_earlier_versions(
    name: str, older: bool, shared: bool, age: float, goes: bool, tmp_path: Path
) -> None:
    path = left(tmp_path, name, age)
    assert sweep(tmp_path, older=older, shared=shared) == int(goes) and path.exists() != goes


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / f".a.json.{DEAD}-{HERE}.tmp"
    folder.mkdir()
    (tmp_path / f".b.json.{DEAD}-{HERE}.tmp").symlink_to(tmp_path / "elsewhere")
    assert sweep(tmp_path, older=True) == 0 and len(list(tmp_path.iterdir())) == 2
    assert sweep(tmp_path / "missing") == 0


@pytest.mark.parametrize("length", [1, 200, 232, 233, 250, 255])
def test_the_longest_names_can_be_written(length: int, tmp_path: Path) -> None:
    path = tmp_path / ("n" * length)
    write_bytes(path, b"x")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
