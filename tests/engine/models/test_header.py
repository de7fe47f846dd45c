"""Reading a safetensors header: its contents, and every kind of broken file."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.exit_codes import ExitCode
from engine.models.header import read_header, refuse_pickle
from tests.refusals import refused


def written(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def test_names_formats_shapes_and_metadata_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a[1].safetensors"
    save_file({"x": torch.zeros(2, 3, dtype=torch.bfloat16), "y": torch.zeros(())}, path, {"who": "me"})
    header = read_header(path)
    assert header.tensors == {"x": ("BF16", (2, 3)), "y": ("F32", ())}
    assert header.metadata == {"who": "me"}
    assert header.size == path.stat().st_size


@pytest.mark.parametrize("keep", [0, 5, 8, 40, 200])
def test_cut_short(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"x": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with refused("model-file-cut-short") as error:
        read_header(path)
    assert error.value.exit_code == ExitCode.BAD_DATA


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1]",
        b'{"x": 5}',
        b"\xff\xfe",
        json.dumps({"x": {"dtype": "F32", "shape": [2]}}).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(),
        json.dumps({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}).encode(),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, header: bytes) -> None:
    path = written(tmp_path / "odd.safetensors", header, bytes(8))
    with refused("not-safetensors"):
        read_header(path)


def test_a_git_lfs_pointer_and_a_web_page_are_named(tmp_path: Path) -> None:
    path = tmp_path / "page.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 23802932552\n")
    with refused("git-lfs-pointer"):
        read_header(path)
    path.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
    with refused("not-safetensors"):
        read_header(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with refused("model-file-missing"):
        read_header(tmp_path / "none.safetensors")


def test_an_undecodable_name(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.safetensors"))
    save_file({"x": torch.zeros(1)}, tmp_path / "good")
    (tmp_path / "good").rename(path)
    with refused("model-path-not-utf8") as error:
        read_header(path)
    error.value.message.encode()


class Trap:
    """Unpickled, it makes the file `sprung`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.place), 0o777)


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "M.PTH", "m.bin", "m.safetensors"])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with refused("model-is-pickle"):
        read_header(path)
    assert not (tmp_path / "sprung").exists()


def test_a_zipped_pickle_under_a_wrong_name(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1)}, tmp_path / "m.safetensors")
    with refused("model-is-pickle"):
        read_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 65536 + 640])
def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path, length: int) -> None:
    header = json.dumps({"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode().ljust(length)
    assert read_header(written(tmp_path / "x.safetensors", header, bytes(2))).shapes == {"x": (2,)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [{}, [1], {"a": list(range(1000))}, "x" * 70000])
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int, value: object) -> None:
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps(value, protocol))
    with refused("model-is-pickle"):
        read_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "name", ["m.ckpt", 'my model\'s "best".ckpt', "a\nb;$(x).pt", "-m.ckpt", "m.safetensors", "ねこ`.pth"]
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_line_that_converts_works_for_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": torch.arange(3)}, "epoch": 4}, name)
    line = refuse_pickle(Path(name)).hint.split("\n")[-1].strip()
    assert line.startswith("python -c")
    subprocess.run(["bash", "-c", line.replace("python", shlex.quote(sys.executable), 1)], check=True)
    stem = f"{Path(name).stem}-converted" if name.endswith(".safetensors") else Path(name).stem
    assert load_file(f"{stem}.safetensors")["x"].tolist() == [0, 1, 2]


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"GGUF" + bytes(20))
    with refused("model-is-gguf"):
        read_header(tmp_path / "m.safetensors")
