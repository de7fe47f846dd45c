from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load

from engine.config import RunConfig
from engine.config.dataset import DatasetTable
from engine.dataset.arithmetic import make_items
from engine.dataset.buckets import BucketGrid
from engine.dataset.items import Item
from engine.dataset.latents import BuildReport, LatentCache
from engine.dataset.scan import scan
from tests.packed import flip_a_bit, only_pack, packed, records, without
from tests.refusals import refused

Draw = Callable[..., Path]
TABLE = {
    "resolution": 64, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16, "num_repeats": 2,
}  # fmt: skip


class Encoder:
    """A VAE that halves the size eight times over; records its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        return torch.cat([small, small.abs()], 1)


def items_in(folder: Path, **dataset: Any) -> tuple[list[Item], DatasetTable]:
    config = RunConfig.model_validate({"dataset": {"train_data_dir": str(folder), **TABLE, **dataset}})
    return make_items(scan(config), BucketGrid.from_table(config.dataset, multiple=16, downscale=8)), config.dataset


@pytest.fixture
def folder(tmp_path: Path, draw: Draw) -> Path:
    for number, size in enumerate([(100, 100), (120, 80), (90, 90), (80, 120), (110, 110)]):
        draw(tmp_path / f"images/{number}.png", size=size)
    return tmp_path / "images"


def counts(report: BuildReport) -> tuple[int, int]:
    return report.encoded, report.reused


@pytest.mark.parametrize("on_disk", [True, False])
def test_encoded_once_then_reused(tmp_path: Path, folder: Path, on_disk: bool) -> None:
    items, table = items_in(folder)
    cache = LatentCache(tmp_path / "cache" if on_disk else None, "vae", table)
    encoder, calls = Encoder(), []
    report = cache.build(items, encoder, 2, lambda done, total: calls.append((done, total)))
    assert counts(report) == (5, 0) and calls[-1] == (5, 5) and sorted(encoder.batches) == [1, 1, 1, 2]
    moments, mask = cache.get(items[0])
    assert moments.shape == (6, 8, 8) and moments.dtype == torch.float32 and mask is None
    assert counts(cache.build(items, encoder, 2)) == (0, 5)
    second = LatentCache(tmp_path / "cache" if on_disk else None, "vae", table)
    assert counts(second.build(items, encoder, 2)) == ((0, 5) if on_disk else (5, 0))
    assert torch.equal(second.get(items[0])[0], moments)


def test_only_what_is_needed_is_encoded_and_looking_it_up_is_counted(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    calls: list[tuple[int, int]] = []
    cache = LatentCache(tmp_path / "cache", "vae", table)
    only = [(items[0], False)]
    report = cache.build(items, Encoder(), only=only, looked_up=lambda done, total: calls.append((done, total)))
    assert counts(report) == (1, 0) and cache.has(items[0]) and not cache.has(items[-1])
    assert calls == [(number, 5) for number in range(1, 6)]


def test_nothing_is_written_next_to_the_images(tmp_path: Path, folder: Path) -> None:
    before = sorted(folder.iterdir())
    items, table = items_in(folder)
    LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    assert sorted(folder.iterdir()) == before
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".pack"]


def test_whatever_changes_a_latent_changes_its_key(tmp_path: Path, folder: Path, draw: Draw) -> None:
    items, table = items_in(folder)
    directory = tmp_path / "cache"
    LatentCache(directory, "vae", table).build(items, Encoder())
    # the same size and time: only the content differs
    edited = folder / "0.png"
    status = edited.stat()
    old = LatentCache(directory, "vae", table)
    old.build(items, Encoder())
    Image.open(edited).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(edited)
    os.utime(edited, ns=(status.st_atime_ns, status.st_mtime_ns))
    cache = LatentCache(directory, "vae", table)
    assert counts(cache.build(items, Encoder())) == (1, 4)
    assert not torch.equal(cache.get(items[0])[0], old.get(items[0])[0])
    assert counts(LatentCache(directory, "other vae", table).build(items, Encoder())) == (5, 0)
    for change in ({"resolution": 96}, {"resize_interpolation": "box"}, {"alpha_background": "#000000"}):
        changed, changed_table = items_in(folder, **change)
        assert counts(LatentCache(directory, "vae", changed_table).build(changed, Encoder())) == (5, 0), change


def test_an_edit_within_one_process_is_seen(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    cache = LatentCache(None, "vae", table)
    cache.build(items, Encoder())
    Image.new("RGB", (100, 100), "red").save(folder / "0.png")
    assert counts(cache.build(items, Encoder())) == (1, 4)
    assert cache.get(items[0])[0][0].min() > 0.99


def test_a_renamed_image_keeps_its_latent(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    (folder / "0.png").rename(folder / "new.png")
    items, table = items_in(folder)
    assert counts(LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())) == (0, 5)


def test_both_directions_are_kept_with_flip_aug(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder, flip_aug=True)
    gradient = Image.linear_gradient("L").rotate(90).resize((100, 100))
    gradient.save(folder / "0.png")
    cache = LatentCache(tmp_path / "cache", "vae", table)
    assert counts(cache.build(items, Encoder(), 4)) == (10, 0)
    plain, flipped = cache.get(items[0])[0], cache.get(items[0], flip=True)[0]
    assert torch.allclose(plain.flip(-1), flipped, atol=0.02) and not torch.allclose(plain, flipped, atol=0.02)


def test_masks_are_kept_at_the_latents_size(tmp_path: Path, draw: Draw) -> None:
    image = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    (tmp_path / "p").mkdir()
    image.save(tmp_path / "p/a.png")
    draw(tmp_path / "p/b.png", size=(64, 64))
    items, table = items_in(tmp_path / "p", alpha_mask=True)
    cache = LatentCache(tmp_path / "cache", "vae", table)
    cache.build(items, Encoder())
    mask = cache.get(items[0])[1]
    assert mask is not None and mask.shape == (8, 8) and mask[0].tolist() == [0.0] * 4 + [1.0] * 4
    assert cache.get(items[-1])[1] is None


def test_stopping_keeps_finished_latents(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    encoder = Encoder()
    report = LatentCache(tmp_path / "cache", "vae", table).build(
        items, encoder, should_stop=lambda: len(encoder.batches) >= 2
    )
    assert report.stopped and report.encoded == 2
    report = LatentCache(tmp_path / "cache", "vae", table).build(items, encoder)
    assert counts(report) == (3, 2) and not report.stopped


KILLED = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_latent_cache import Encoder, LatentCache, items_in
items, table = items_in(Path(sys.argv[2]))
def slow(pixels):
    time.sleep(0.3)
    return Encoder()(pixels)
LatentCache(Path(sys.argv[3]), "vae", table).build(items, slow, 2, lambda *call: print(call, flush=True))
"""


def test_a_killed_caching_run_goes_on_where_it_was(tmp_path: Path, folder: Path) -> None:
    """A real SIGKILL; the batches are then the same, so that no latent depends on the kill."""
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", KILLED, Path(__file__).parent, folder, cache]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("(")
        process.kill()
    kept = packed(cache)
    assert 1 <= len(kept) < 5
    items, table = items_in(folder)
    report = LatentCache(cache, "vae", table).build(items, Encoder(), 2)
    assert counts(report) == (5 - len(kept), len(kept))
    straight = tmp_path / "straight"
    LatentCache(straight, "vae", table).build(items, Encoder(), 2)
    whole = packed(cache)
    assert whole == packed(straight) and len(list(cache.iterdir())) == 2, "each process has a pack of its own"
    assert {key: whole[key] for key in kept} == kept


def test_a_batch_with_one_missing_is_encoded_completely(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder(), 3)
    cached = packed(tmp_path / "cache")
    square = [key for key, data in cached.items() if load(data)["moments"].shape[1:] == (8, 8)]
    assert len(square) == 3
    without(tmp_path / "cache", square[0])
    encoder = Encoder()
    assert counts(LatentCache(tmp_path / "cache", "vae", table).build(items, encoder, 3)) == (1, 4)
    assert encoder.batches == [3]


@pytest.mark.parametrize(
    ("harm", "lost", "reported"),
    [("cut", 1, False), ("empty", 5, False), ("bit", 1, True), ("head", 4, True), ("text", 5, False)],
)
def test_a_damaged_record_is_replaced_and_reported_once(
    tmp_path: Path, folder: Path, harm: str, lost: int, reported: bool
) -> None:
    """A pack that ends too early was left by a kill: that is no damage."""
    items, table = items_in(folder)
    LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    victim = only_pack(tmp_path / "cache")
    second = records(victim)[1]
    if harm in ("bit", "head"):
        flip_a_bit(victim, second.offset + (9 if harm == "bit" else -50))
    else:
        victim.write_bytes({"cut": victim.read_bytes()[:-9], "empty": b"", "text": b"hello, world" * 9}[harm])
    cache = LatentCache(tmp_path / "cache", "vae", table)
    report = cache.build(items, Encoder())
    assert counts(report) == (lost, 5 - lost)
    assert len(report.notes) == reported and all(victim.name in note for note in report.notes)
    again = LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    assert counts(again) == (0, 5) and (not again.notes or harm == "head")


def test_a_latent_that_vanishes_after_the_build_is_refused(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    cache = LatentCache(tmp_path / "cache", "vae", table)
    cache.build(items, Encoder())
    only_pack(tmp_path / "cache").write_bytes(b"")
    with refused("cached-latent-missing"):
        cache.get(items[0])
    shutil.rmtree(tmp_path / "cache")
    with refused("cached-latent-missing"):
        cache.get(items[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_latent_that_is_not_finite_is_refused_by_name(tmp_path: Path, folder: Path, value: float) -> None:
    def overflow(pixels: torch.Tensor) -> torch.Tensor:
        moments = Encoder()(pixels)
        moments[0, 0, 0, 0] = value
        return moments

    items, table = items_in(folder)
    with refused("latent-not-finite", ".png", "model.no_half_vae"):
        LatentCache(tmp_path / "cache", "vae", table).build(items, overflow)
    assert not list((tmp_path / "cache").iterdir())


def test_images_that_break_or_vanish_are_collected(tmp_path: Path, folder: Path, draw: Draw) -> None:
    items, table = items_in(folder, flip_aug=True)
    big = draw(folder / "2.png", size=(90, 90), mode="RGBA")
    big.write_bytes(big.read_bytes()[:-60])
    (folder / "4.png").unlink()
    report = LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder(), 2)
    assert report.encoded == 6
    assert {entry.path.name: entry.reason.split(":")[0] for entry in report.rejected} == {
        "2.png": "truncated", "4.png": "No such file or directory",
    }  # fmt: skip


def test_of_equal_images_the_first_is_encoded_and_kept(tmp_path: Path, folder: Path) -> None:
    """Else a latent would depend on whether a kill came between the two."""
    shutil.copy(folder / "0.png", folder / "copy.png")
    items, table = items_in(folder)
    encoder = Encoder()
    cache = LatentCache(tmp_path / "cache", "vae", table)
    cache.build(items, lambda pixels: encoder(pixels) + len(encoder.batches))
    assert len(records(only_pack(tmp_path / "cache"))) == 5
    first, copy = (next(item for item in items if item.image.path.name == name) for name in ("0.png", "copy.png"))
    assert torch.equal(cache.get(copy)[0], cache.get(first)[0])
    squares = list(dict.fromkeys(item.image.path for item in items if item.placement.bucket == (64, 64)))
    kept = cache.get(first)[0][3:].min().item()  # the second half of the channels is never negative
    others = {path: cache.get(next(i for i in items if i.image.path == path))[0][3:].min().item() for path in squares}
    assert kept == min(others.values()) and squares[0] == first.image.path


def test_a_full_device_is_one_sentence(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, table = items_in(folder)
    cache = LatentCache(tmp_path / "cache", "vae", table)

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with refused("disk-full"):
        cache.build(items, Encoder())
    assert not list((tmp_path / "cache").iterdir())


def test_latents_of_another_image_are_not_used(tmp_path: Path, folder: Path) -> None:
    items, table = items_in(folder)
    LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    pack = only_pack(tmp_path / "cache")
    first, second, *_ = records(pack)
    data = bytearray(pack.read_bytes())
    data[first.offset : first.end] = data[second.offset : second.offset + first.size]
    pack.write_bytes(data)
    report = LatentCache(tmp_path / "cache", "vae", table).build(items, Encoder())
    assert counts(report) == (1, 4) and pack.name in report.notes[0]


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path, folder: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    old, new = directory / ".a.safetensors.1.tmp", directory / ".b.safetensors.2.tmp"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    LatentCache(directory, "vae", DatasetTable())
    assert not old.exists() and new.exists()
