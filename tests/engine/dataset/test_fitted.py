"""Images that are decoded once: to find damage, and for their latents."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.config import RunConfig
from engine.dataset import decoding, pixels
from engine.dataset.arithmetic import make_items
from engine.dataset.buckets import BucketGrid
from engine.dataset.checked import CheckedImages
from engine.dataset.digests import FileDigests
from engine.dataset.fitted import FittedImages
from engine.dataset.items import Item
from engine.dataset.latents import BuildReport, LatentCache
from engine.dataset.scan import scan, verify_pixels
from tests.drawn_images import scene
from tests.packed import packed

TABLE = {"resolution": 64, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16, "num_repeats": 2}


class Start:
    """The beginning of a run in a folder: scan, check, latents."""

    def __init__(self, place: Path, *, most_bytes: int | None, exact: bool = False, **dataset: object) -> None:
        values = {"train_data_dir": str(place / "images"), **TABLE, **dataset}
        self.config = RunConfig().changed(dataset=values, training={"kohya_exact": exact})
        self.digests, self.table = FileDigests(), self.config.dataset
        self.fitted = None if most_bytes is None else FittedImages(self.table, most_bytes)
        scanned = scan(self.config)
        if self.fitted is not None:
            self.fitted.want(self.items_of(scanned))
        checked = CheckedImages(place / "cache", self.digests)
        self.scan = verify_pixels(scanned, None, checked, self.fitted)

    def items_of(self, scanned: object) -> list[Item]:
        return make_items(scanned, BucketGrid.from_table(self.table, multiple=16, downscale=8))  # type: ignore[arg-type]

    def encode(self, directory: Path) -> BuildReport:
        cache = LatentCache(directory, "vae", self.table, self.digests, self.fitted)
        return cache.build(self.items_of(self.scan), encode, 2)


def encode(batch: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.avg_pool2d(batch, 8)
    return torch.cat([small, small.abs()], 1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(300, 200), (200, 300), (256, 256)]):
        scene(number, size).save(folder / f"{number}.jpg")
    scene(3, (150, 140)).convert("L").save(folder / "3.png")
    clear = scene(4, (220, 180)).convert("RGBA")
    clear.putalpha(scene(5, (220, 180)).convert("L"))
    clear.save(folder / "4.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(6, (240, 160)).save(folder / "5.jpg", exif=exif)
    return folder


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was decoded in whole."""
    counted: Counter[str] = Counter()

    def decode(path: Path, size: tuple[int, int], *, turn: bool = True) -> Image.Image:
        counted[path.name] += 1
        return decoding.decode(path, size, turn=turn)

    monkeypatch.setattr(pixels, "decode", decode)
    return counted


@pytest.mark.parametrize(
    "settings", [{}, {"flip_aug": True, "alpha_mask": True}, {"exact": True, "resize_interpolation": "lanczos"}]
)
def test_each_image_is_decoded_once_and_the_latents_are_the_same(
    tmp_path: Path, images: Path, decodes: Counter[str], settings: dict[str, object]
) -> None:
    start = Start(tmp_path, most_bytes=2**20, **settings)  # type: ignore[arg-type]
    report = start.encode(tmp_path / "once")
    assert report.encoded and set(decodes.values()) == {1} and len(decodes) == 6
    shutil.rmtree(tmp_path / "cache")
    Start(tmp_path, most_bytes=None, **settings).encode(tmp_path / "twice")  # type: ignore[arg-type]
    assert packed(tmp_path / "once") == packed(tmp_path / "twice")


def test_what_has_no_room_is_decoded_again(tmp_path: Path, images: Path, decodes: Counter[str]) -> None:
    start = Start(tmp_path, most_bytes=2 * 4 * 64 * 64 + 100)
    assert sum(decodes.values()) == 2
    start.encode(tmp_path / "latents")
    assert sum(decodes.values()) == 6 and len(decodes) == 6


def test_a_file_that_was_replaced_meanwhile_is_read_again(tmp_path: Path, images: Path, decodes: Counter[str]) -> None:
    start = Start(tmp_path, most_bytes=2**20)
    scene(9, (300, 200)).save(images / "0.jpg")
    start.encode(tmp_path / "latents")
    assert decodes.pop("0.jpg") == 2 and set(decodes.values()) == {1}
    shutil.rmtree(tmp_path / "cache")
    Start(tmp_path, most_bytes=None).encode(tmp_path / "fresh")
    assert packed(tmp_path / "latents") == packed(tmp_path / "fresh")


def test_after_it_is_freed_nothing_is_kept(tmp_path: Path, images: Path, decodes: Counter[str]) -> None:
    start = Start(tmp_path, most_bytes=2**20)
    assert start.fitted is not None
    start.fitted.free()
    start.encode(tmp_path / "latents")
    assert set(decodes.values()) == {2}


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_damage_has_the_same_reason_whether_pixels_are_kept_or_not(
    tmp_path: Path, images: Path, draw: Callable[..., Path], extension: str
) -> None:
    for tenths in (5, 9):
        path = draw(images / f"cut{tenths}{extension}", size=(400, 300))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * tenths // 10])
    reasons = []
    for most_bytes in (None, 2**20):
        start = Start(tmp_path, most_bytes=most_bytes)
        reasons.append([str(rejected) for rejected in start.scan.rejected])
        shutil.rmtree(tmp_path / "cache")
    assert reasons[0] == reasons[1] and len(reasons[0]) == 2
