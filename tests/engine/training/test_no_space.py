"""A disk of 2 MiB: caching and saving end in one clear sentence and exit code 5; what was saved before is intact."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load

from engine.adapters.inspect import inspect_lora
from engine.exit_codes import ExitCode
from engine.runs.layout import RunDir
from engine.training.statefile import load_tree
from tests.packed import packed

MakeRun = Callable[..., RunDir]
Train = Callable[[RunDir], int]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of 2 MiB."""
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is refused: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def ending(run: RunDir) -> dict[str, object]:
    """How the run ended, as every reader learns it: exit.json, the last event, and one error event."""
    known: dict[str, object] = json.loads(run.exit_path.read_text())
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert [event["message"] for event in events if event["type"] == "error"] == [known["message"]]
    assert events[-1]["type"] == "run_finished" and events[-1]["exit_code"] == known["exit_code"]
    return known


def require_a_sentence(run: RunDir, disk: Path) -> None:
    known = ending(run)
    assert known["exit_code"] == ExitCode.NO_SPACE and known["title"] == "Storage"
    message, hint = str(known["message"]), str(known["hint"])
    assert str(disk) in message and message.endswith(".") and "\n" not in message, message
    assert "Not enough space in" in message or "no space left on the device" in message
    assert hint.startswith("Free some space there")


def test_the_latent_cache_fills_the_disk(
    make_run: MakeRun, train_here: Train, small_disk: Path, images: Path, tmp_path: Path
) -> None:
    """Forty images of 256 px are 5 MiB of latents: more than fits, and no file is left that is not whole."""
    for index in range(40):
        Image.new("RGB", (256, 256), (index * 6, 90, 30)).save(images / f"large{index}.png")
    run = make_run(
        memory__cache_latents_to_disk=True,
        memory__cache_dir=small_disk / "cache",
        dataset__resolution=256,
        dataset__enable_bucket=False,
    )
    assert train_here(run) == ExitCode.NO_SPACE
    require_a_sentence(run, small_disk)
    cached = packed(small_disk / "cache" / "latents")  # fails on half a record
    assert cached and all("moments" in load(data) for data in cached.values())
    assert not list(run.path.glob("*.safetensors"))


def test_saving_fills_the_disk(make_run: MakeRun, train_here: Train, small_disk: Path) -> None:
    """The LoRA of each step is kept, 0.2 MiB each: some are saved before one does not fit."""
    run = make_run(
        place="disk/out",
        network__network_dim=8,
        network__network_train_unet_only=True,
        saving__save_every_n_steps=1,
        saving__save_precision="float",
        saving__save_state_every_n_steps=0,
        sampling__sample_every_n_steps=0,
    )
    assert train_here(run) == ExitCode.NO_SPACE
    require_a_sentence(run, small_disk)
    saved = sorted(run.path.glob("*.safetensors"))
    assert saved and not run.lora_path().exists()
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    assert sorted(Path(event["path"]) for event in events if event["type"] == "saved") == saved
    for path in saved:
        report = inspect_lora(path)
        assert report.modules and not [problem for problem in report.problems if "NaN" in problem or "hash" in problem]
    states = list(run.checkpoints.glob("*"))
    assert states and all(load_tree(path) is not None for path in states), "a half-written state has a final name"
    assert not list(run.path.glob(".*.tmp"))


def test_a_state_too_large_for_the_disk_is_known_before_the_start(
    make_run: MakeRun, train_here: Train, small_disk: Path
) -> None:
    """A run beside it has saved: its files stay as they are."""
    good = small_disk / "out" / "other.safetensors"
    good.parent.mkdir()
    good.write_bytes(b"kept")
    run = make_run(place="disk/out", network__network_dim=64, sampling__sample_every_n_steps=0)
    assert train_here(run) == ExitCode.NO_SPACE
    require_a_sentence(run, small_disk)
    assert good.read_bytes() == b"kept" and sorted(run.path.glob("*.safetensors")) == [good]
    assert not list(run.checkpoints.glob("*"))
