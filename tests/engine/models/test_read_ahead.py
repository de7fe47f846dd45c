"""The request to the system to read a model's files before they are needed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from engine.models import read_ahead as module
from engine.models.read_ahead import read_ahead

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="another system")
Pieces = list[tuple[str, int, int]]


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    """File, begin and length of each request."""
    requests: Pieces = []

    def noted(descriptor: int, begin: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        requests.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, begin, length))

    monkeypatch.setattr(os, "posix_fadvise", noted)
    monkeypatch.setattr(module, "_PIECE", 100)
    return requests


def files(folder: Path, *sizes: int) -> list[Path]:
    for number, size in enumerate(sizes):
        (folder / f"{number}").write_bytes(b"x" * size)
    return [folder / f"{number}" for number in range(len(sizes))]


def test_every_byte_is_requested_in_order(tmp_path: Path, pieces: Pieces) -> None:
    thread = read_ahead(files(tmp_path, 250, 0, 100))
    assert thread is not None
    thread.join()
    assert pieces == [("0", 0, 100), ("0", 100, 100), ("0", 200, 100), ("2", 0, 100)]


def test_it_ends_at_the_next_piece(tmp_path: Path, pieces: Pieces) -> None:
    thread = read_ahead(files(tmp_path, 250, 100), lambda: len(pieces) == 2)
    assert thread is not None
    thread.join()
    assert len(pieces) == 2


@pytest.mark.parametrize(("free", "begun"), [(200, True), (199, False)])
def test_files_that_need_more_than_half_of_the_free_memory_are_left_alone(
    free: int, begun: bool, tmp_path: Path, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    thread = read_ahead(files(tmp_path, 60, 40))
    assert (thread is not None) == begun
    if thread is not None:
        thread.join()
    assert len(pieces) == (2 if begun else 0)


def test_a_file_that_cannot_be_read_is_nobodys_error(tmp_path: Path, pieces: Pieces) -> None:
    (file,) = files(tmp_path, 10)
    assert read_ahead([tmp_path / "none", file]) is None
    folder = tmp_path / "folder"
    folder.mkdir()
    thread = read_ahead([folder, file])
    assert thread is not None
    thread.join()
    assert pieces == [("0", 0, 100)]
