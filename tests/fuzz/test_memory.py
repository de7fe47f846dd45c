"""Hostile files stay small in memory: a sentence comes, and the process had less than one GiB."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.runs import prepare_run
from tests.memory_limit import STEADY_MALLOC

LIMIT = 2**30
COMMAND = [sys.executable, "-m", "tui.main"]
pytestmark = pytest.mark.timeout(300)


def sparse(path: Path, size: int = 2**30) -> None:
    """A file of zeros that takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


def header(path: Path, piece: bytes, size: int) -> None:
    """A safetensors file whose header is a list of `piece`."""
    text = b"[" + (piece + b",") * (size // (len(piece) + 1)) + piece + b"]"
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def wide(path: Path, piece: bytes, size: int = 3 * 2**20) -> None:
    """A JSON table with one long list of `piece`."""
    path.write_bytes(b'{"LoRA_type": [' + (piece + b",") * (size // (len(piece) + 1)) + piece + b"]}")


def bomb(path: Path, side: int = 60_000) -> None:
    """A small PNG that says it is side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(10 * 2**20)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + body + chunk(b"IEND", b""))


def webp(path: Path) -> None:
    """A WebP of few bytes whose canvas is 16383 x 16383 pixels, with one tiny frame."""
    side = (16383 - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([2, 0, 0, 0]) + side + side
    animation = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    data = extended + animation
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data)


def images(here: Path, make: Callable[[Path], None], name: str) -> None:
    """A folder of one hostile image."""
    (here / "images").mkdir()
    make(here / "images" / name)


INSPECT, CONVERT, CHECK = ["inspect", "x.safetensors"], ["convert", "x.json"], ["check", "images"]
DRY = ["--preset", "demo", "--dry-run"]
QUICK: dict[str, tuple[Callable[[Path], None], list[str], int]] = {
    "header of empty lists": (lambda here: header(here / "x.safetensors", b"[]", 100 * 2**20), INSPECT, 3),
    "shorter header of numbers": (lambda here: header(here / "x.safetensors", b"1.5", 20 * 2**20), INSPECT, 3),
    "sparse JSON": (lambda here: sparse(here / "x.json"), CONVERT, 2),
    "bomb": (lambda here: images(here, bomb, "a.png"), CHECK, 3),
}
"""File, arguments, exit code."""
LONG: dict[str, tuple[Callable[[Path], None], list[str], int]] = {
    "JSON of tables": (lambda here: wide(here / "x.json", b'{"a":1}'), CONVERT, 2),
    "shorter header of empty lists": (lambda here: header(here / "x.safetensors", b"[]", 31 * 2**20), INSPECT, 3),
    "header of tables": (lambda here: header(here / "x.safetensors", b'{"a":1}', 31 * 2**20), INSPECT, 3),
    "sparse model": (lambda here: sparse(here / "x.safetensors", 2**33), INSPECT, 3),
    "sparse TOML": (lambda here: sparse(here / "x.toml"), ["convert", "x.toml"], 2),
    "sparse shell script": (lambda here: sparse(here / "x.sh"), ["convert", "x.sh"], 2),
    "sparse preset": (lambda here: sparse(here / "x.toml"), ["--preset", "x.toml", "--dry-run"], 2),
    "sparse datasets": (lambda here: sparse(here / "x.json"), [*DRY, "--dataset_config", "x.json"], 2),
    "sparse prompts": (lambda here: sparse(here / "x.txt"), [*DRY, "--set", "sampling.sample_prompts=x.txt"], 2),
    "JSON of empty lists": (lambda here: wide(here / "x.json", b"[]"), CONVERT, 2),
    "JSON of texts": (lambda here: wide(here / "x.json", '"é"'.encode()), CONVERT, 2),
    "canvas": (lambda here: images(here, webp, "a.webp"), CHECK, 3),
    "sparse image": (lambda here: images(here, sparse, "a.png"), CHECK, 3),
    "sparse caption": (lambda here: images(here, sparse, "a.txt"), CHECK, 3),
}


def run(here: Path, arguments: list[str]) -> tuple[int, str, int]:
    """(exit code, what was printed, most bytes in memory) of `lorasmith`."""
    environment = {**os.environ, **STEADY_MALLOC, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment |= {name: str(here / "home") for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], capture_output=True, text=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); print(done.stdout + done.stderr); "
        "sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMAND, *arguments], cwd=here, env=environment, capture_output=True, text=True,
        timeout=250, check=False,
    )  # fmt: skip
    peak, _, output = done.stdout.partition("\n")
    return done.returncode, output, int(peak) * 1024


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(case, marks=pytest.mark.soak) for case in LONG)])
def test_hostile_files_take_little_memory(tmp_path: Path, case: str) -> None:
    make, arguments, expected = (QUICK | LONG)[case]
    make(tmp_path)
    code, output, peak = run(tmp_path, arguments)
    assert code == expected, output
    assert "Traceback" not in output and output.strip()
    assert peak < LIMIT, f"{peak / 2**20:.0f} MiB"


def test_an_event_log_with_one_endless_line(tmp_path: Path) -> None:
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "x", "output_dir": str(tmp_path / "x")}))
    line = json.dumps({"v": 1, "seq": 0, "time": 1.0, "type": "note", "text": "before"})
    with run_dir.events_path.open("wb") as file:
        file.write(f"{line}\n".encode())
        file.write(b"[" * 200 * 2**20)
    run_dir.state_path.unlink()
    for arguments, codes in ((["runs"], (0,)), (["attach", "--plain", str(run_dir.path)], (1,))):
        code, output, peak = run(tmp_path, arguments)
        assert code in codes and "Traceback" not in output, output
        assert peak < LIMIT
    assert "before" in output


def test_the_measure_sees_what_a_child_takes(tmp_path: Path) -> None:
    """The test of the test."""
    done = subprocess.run(
        [sys.executable, "-c", "x = bytearray(2**28); x[::4096] = b'1' * len(x[::4096])"], check=True, cwd=tmp_path
    )
    assert done.returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 > 2**28
