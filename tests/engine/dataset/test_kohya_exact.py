"""`kohya_exact`: images, captions and the validation share as Kohya's scripts have them (facts: sd-scripts)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config import RunConfig
from engine.dataset.arithmetic import make_items, plan_steps
from engine.dataset.batches import item_caption, run_captions
from engine.dataset.buckets import BucketGrid, Placement
from engine.dataset.captions import CaptionRules
from engine.dataset.images import ImageInfo, Scan
from engine.dataset.latents import LatentCache
from engine.dataset.pixels import load_pixels
from engine.dataset.resampling import resize
from engine.dataset.scan import scan, split, verify_pixels


def scanned(folder: Path, *, exact: bool, **dataset: object) -> Scan:
    values = {"train_data_dir": str(folder), **dataset}
    return verify_pixels(scan(RunConfig().changed(dataset=values, training={"kohya_exact": exact})))


def only(dataset: Scan) -> ImageInfo:
    ((image,),) = (subset.images for subset in dataset.subsets)
    return image


def pixels_of(image: ImageInfo) -> torch.Tensor:
    size = (image.width, image.height)
    return load_pixels(image, Placement(size, size, (0, 0)), RunConfig().dataset)[0]


def test_a_image_is_not_turned(tmp_path: Path) -> None:
    sensor = Image.new("RGB", (60, 40), "black")
    sensor.paste("white", (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    sensor.save(tmp_path / "a.jpg", exif=exif, quality=95)
    turned, plain = (only(scanned(tmp_path, exact=exact)) for exact in (False, True))
    assert (turned.width, turned.height) == (40, 60) and (plain.width, plain.height) == (60, 40)
    assert pixels_of(turned)[:, :20].mean() > 0.9 and pixels_of(turned)[:, 40:].mean() < -0.9
    assert pixels_of(plain)[:, :, :20].mean() > 0.9 and pixels_of(plain)[:, :, 40:].mean() < -0.9


def test_colours_under_transparency_are_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(tmp_path / "a.png")
    flat, plain = (pixels_of(only(scanned(tmp_path, exact=exact))) for exact in (False, True))
    assert torch.equal(flat, torch.ones(3, 32, 32))
    assert plain[0].mean() == 1 and plain[1:].mean() == -1


def test_only_files_that_the_scripts_look_for(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.Jpg", "d.tiff"):
        with (tmp_path / name).open("wb") as file:
            Image.new("RGB", (32, 32)).save(file, {".png": "PNG", ".tiff": "TIFF"}.get(Path(name).suffix, "JPEG"))
    assert len(scanned(tmp_path, exact=False).subsets[0].images) == 4
    dataset = scanned(tmp_path, exact=True)
    assert [image.path.name for image in dataset.subsets[0].images] == ["a.png", "b.JPG"]
    assert {entry.path.name for entry in dataset.rejected} == {"c.Jpg", "d.tiff"}
    assert all("do not read this kind of file" in entry.reason for entry in dataset.rejected)


def test_captions_as_the_scripts_read_them(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("\n  second\nthird")
    (tmp_path / "b.caption").write_text("other file")
    (tmp_path / "c.txt").write_bytes("a\u2028b".encode("utf-8-sig"))
    read = {
        exact: [image.caption for image in scanned(tmp_path, exact=exact).subsets[0].images] for exact in (False, True)
    }
    assert read[False] == ["second", "other file", "a\u2028b"]
    assert read[True] == ["", None, "\ufeffa\u2028b"]


def paths(count: int) -> list[ImageInfo]:
    return [ImageInfo(Path(f"path{number}"), 1, 1, "PNG") for number in range(1, count + 1)]


def test_the_validation_share_has_kohyas_rounding() -> None:
    train, validation = split(paths(7), 0.2, 1234, kohya_exact=True)
    assert [str(image.path) for image in train] == ["path2", "path3", "path6", "path5", "path1", "path4"]
    assert [str(image.path) for image in validation] == ["path7"]
    train, validation = split(paths(3), 0.5, 1, kohya_exact=True)
    assert (len(train), len(validation)) == (2, 2) and train[1] == validation[0]
    assert [len(half) for half in split(paths(3), 0.5, 1)] == [2, 1]


def test_an_overlap_is_noted(tmp_path: Path) -> None:
    for name in "abc":
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    notes = scanned(tmp_path, exact=True, validation_split=0.5).notes
    assert any(note.endswith("of 3; 1 of them also trained on, as in Kohya (kohya_exact)") for note in notes)


@pytest.mark.parametrize(
    ("kernel", "old", "new", "expected"),
    [
        ("nearest", (64, 48), (32, 24), "561b54b71b3f4a7a"),
        ("nearest", (97, 61), (50, 40), "d97a0996584c34b8"),
        ("nearest", (60, 40), (90, 60), "d9ffe9335bd5ba6b"),
        ("nearest", (60, 40), (90, 30), "bdbd409a4cd834d6"),
        ("nearest", (60, 40), (33, 77), "fc9e4205b1a4fd73"),
        ("nearest", (120, 90), (119, 91), "a2907e53df0fca39"),
        ("nearest", (50, 50), (50, 25), "6a77bab8458ce96d"),
        ("nearest", (30, 20), (120, 80), "8a0ae36d0a09c1b5"),
        ("bilinear", (64, 48), (32, 24), "4bdf8b01d9b7be5f"),
        ("bilinear", (97, 61), (50, 40), "712e597c6175a673"),
        ("bilinear", (60, 40), (90, 60), "233ecc497bf974b1"),
        ("bilinear", (60, 40), (90, 30), "aaf0e32f8a68f40e"),
        ("bilinear", (60, 40), (33, 77), "c8196db9fcd2ba3d"),
        ("bilinear", (120, 90), (119, 91), "815c7ed09a275d54"),
        ("bilinear", (50, 50), (50, 25), "09e4806c524fbecd"),
        ("bilinear", (30, 20), (120, 80), "335837619a88b9f3"),
        ("area", (64, 48), (32, 24), "4bdf8b01d9b7be5f"),
        ("area", (97, 61), (50, 40), "6aa881b8c91b0547"),
        ("area", (60, 40), (90, 60), "12f0074a9d9909dc"),
        ("area", (60, 40), (90, 30), "e0db751e4b5681e7"),
        ("area", (60, 40), (33, 77), "65292052ad3f9c7a"),
        ("area", (120, 90), (119, 91), "6c7c91d06613368e"),
        ("area", (50, 50), (50, 25), "53c7d5785de164cc"),
        ("area", (30, 20), (120, 80), "8a0ae36d0a09c1b5"),
    ],
)
def test_kernels_of_opencv(kernel: str, old: tuple[int, int], new: tuple[int, int], expected: str) -> None:
    """Golden: SHA-256 of what cv2.resize (OpenCV 4.12) has with INTER_NEAREST_EXACT, INTER_LINEAR and INTER_AREA."""
    numbers = np.arange(old[0] * old[1] * 3, dtype=np.int64) ** 2 * 37 // 11 % 256
    image = Image.fromarray(numbers.astype(np.uint8).reshape(old[1], old[0], 3))
    resized = np.asarray(resize(image, new, kernel, opencv=True))
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == expected
    grey = np.asarray(resize(image.getchannel("G"), new, kernel, opencv=True))
    assert np.array_equal(grey, resized[..., 1])


def test_bicubic_of_opencv() -> None:
    """Golden: cv2.resize of OpenCV 4, INTER_CUBIC, on a 9 x 7 image; one level may differ."""
    image = Image.fromarray((np.arange(7 * 9 * 3).reshape(7, 9, 3) * 37 % 256).astype(np.uint8))
    small = [[108, 71, 2, 150], [76, 10, 216, 150], [229, 194, 155, 192]]
    large = [194, 131, 128, 227, 126, 94, 183, 73, 60, 158, 198, 164, 108]
    shrunk = np.asarray(resize(image, (4, 3), "cubic", opencv=True)).astype(int)
    grown = np.asarray(resize(image, (13, 11), "bicubic", opencv=True)).astype(int)
    assert np.abs(shrunk[..., 0] - small).max() <= 1 and np.abs(grown[3, :, 1] - large).max() <= 1


@pytest.mark.parametrize("kernel", ["bilinear", "cubic"])
def test_without_it_every_pixel_counts_when_shrinking(kernel: str) -> None:
    image = Image.fromarray((np.arange(7 * 9 * 3).reshape(7, 9, 3) * 37 % 256).astype(np.uint8))
    ours, theirs = (np.asarray(resize(image, (4, 3), kernel, opencv=exact)).astype(int) for exact in (False, True))
    assert np.abs(ours - theirs).max() > 20


def test_halves_are_rounded_up_where_an_image_shrinks_by_two() -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 2], [0, 1, 2, 4]], np.uint8))
    assert np.asarray(resize(image, (2, 1), None)).tolist() == [[0, 2]]
    assert np.asarray(resize(image, (2, 1), None, opencv=True)).tolist() == [[1, 3]]


def test_latents_of_both_modes_have_different_keys(tmp_path: Path) -> None:
    """The file and its placement are the same, the pixels are not."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(folder / "a.png")
    values = {}
    for exact in (False, True):
        small = {"resolution": 64, "min_bucket_reso": 64, "num_repeats": 1}
        items = make_items(
            scanned(folder, exact=exact, **small), BucketGrid((64, 64), True, False, 64, 64, 64, ((64, 64),))
        )
        cache = LatentCache(tmp_path / "cache", "vae", RunConfig().dataset)
        cache.build(items, lambda pixels: torch.nn.functional.avg_pool2d(pixels, 8))
        values[exact] = float(cache.get(items[0], False)[0].mean())
    assert values == {False: 1.0, True: -1.0}


def test_cached_captions_are_those_that_were_read(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (512, 512)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{name};;x")
    config = RunConfig().changed(
        dataset={"train_data_dir": str(tmp_path), "caption_prefix": "zed", "secondary_separator": ";;",
                 "caption_dropout_every_n_epochs": 1, "num_repeats": 1},
    )  # fmt: skip
    dataset, grid = scan(config), BucketGrid.from_table(config.dataset)
    items, plan, rules = make_items(dataset, grid), plan_steps(dataset, grid, config), CaptionRules.from_config(config)
    assert set(run_captions(items, rules, plan, 1, raw=True)) == {"a;;x", "b;;x"}
    assert item_caption(items[0], 0, rules, plan, seed=1, epoch=1, step=0) == "", "the live captions of FLUX's CLIP-L"
    shuffled = CaptionRules(caption_prefix="zed", shuffle_caption=True)
    assert item_caption(items[0], 0, shuffled, plan, seed=1, epoch=1, step=0, raw=True) == "zed a;;x"
