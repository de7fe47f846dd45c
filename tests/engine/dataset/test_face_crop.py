"""`face_crop_aug_range`: which names have a face, and where the crop is, against sd-scripts' own steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.config import RunConfig
from engine.config.dataset import DatasetTable
from engine.config.resolve import resolve
from engine.dataset.buckets import BucketGrid, Placement
from engine.dataset.face_crop import Face, face_of, place_face
from engine.dataset.images import ImageInfo
from engine.dataset.pixels import load_pixels

RANGE: dict[str, Any] = {"enable_bucket": False, "face_crop_aug_range": [2.0, 4.0]}
NAMES: dict[str, Face | None] = {
    "ann_600_300_200_220.png": Face(600, 300, 220), "a_b_c_1_2_30_4.jpg": Face(1, 2, 30), "ann_600_300_200.png": None,
    "600_300_200_220.png": None, "my_cat_in_the_hat.png": None, "ann_0_3_4_5.png": None, "ann_3_3_0_0.png": None,
    "ann_1_2_3_4_.png": None, "ann_²_2_3_4.png": None, "ann_-1_2_3_4.png": None,
}  # fmt: skip


@pytest.mark.parametrize(("name", "face"), NAMES.items())
def test_names(name: str, face: Face | None) -> None:
    assert face_of(Path("dir") / name, DatasetTable(**RANGE)) == face
    assert face_of(Path("dir") / name, DatasetTable(**{**RANGE, "enable_bucket": True})) is None
    assert face_of(Path("dir") / name, DatasetTable(enable_bucket=False)) is None


PLACES: list[tuple[tuple[int, int], tuple[int, int], Face, float, Placement]] = [
    # (image, crop, face, multiple of the face) -> placement, by sd-scripts' formula on paper
    ((1000, 800), (512, 512), Face(600, 300, 220), 2.0, Placement((512, 512), (1000, 800), (344, 44))),
    ((1000, 800), (512, 512), Face(600, 300, 220), 4.0, Placement((512, 512), (640, 512), (128, 0))),
    ((1000, 800), (512, 512), Face(600, 300, 320), 2.0, Placement((512, 512), (800, 640), (224, 0))),
    ((1000, 800), (512, 512), Face(990, 790, 320), 2.0, Placement((512, 512), (800, 640), (288, 128))),
    ((1200, 1200), (512, 640), Face(100, 100, 64), 8.0, Placement((512, 640), (1200, 1200), (0, 0))),
    ((512, 512), (512, 512), Face(100, 100, 64), 8.0, Placement((512, 512), (512, 512), (0, 0))),
    ((400, 300), (512, 512), Face(100, 100, 64), 2.0, Placement((512, 512), (683, 512), (0, 0))),
]


@pytest.mark.parametrize(("image", "size", "face", "factor", "expected"), PLACES)
def test_one_multiple_is_no_chance(
    image: tuple[int, int], size: tuple[int, int], face: Face, factor: float, expected: Placement
) -> None:
    for seed in range(3):
        actual = place_face(image, size, face, [factor, factor], random.Random(seed), random_crop=False)
        assert actual == expected


def by_hand(
    width: int, height: int, size: int, face: Face, sizes: list[float], rng: random.Random, random_crop: bool
) -> tuple[int, int, int, int]:
    """sd-scripts' `crop_target` for a square crop: (width, height, left, top) after scaling."""
    least = max(size / height, size / width)
    low = min(1.0, max(least, size / (face.size * sizes[1])))
    high = min(1.0, max(low, size / (face.size * sizes[0])))
    scale = low if low >= high else rng.uniform(low, high)
    new_height, new_width = int(height * scale + 0.5), int(width * scale + 0.5)
    starts = []
    for length, place in ((new_height, int(face.y * scale + 0.5)), (new_width, int(face.x * scale + 0.5))):
        start = place - size // 2
        if random_crop:
            reach = max(length - place, place)
            start = start + (rng.randint(0, reach) + rng.randint(0, reach)) - reach
        elif sizes[0] != sizes[1] and face.size > size // 10 and face.size >= 40:
            start = start + rng.randint(-face.size // 20, +face.size // 20)
        starts.append(max(0, min(start, length - size)))
    return new_width, new_height, starts[1], starts[0]


@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("face", [Face(600, 300, 220), Face(30, 790, 30), Face(500, 400, 900)])
def test_the_same_chances(face: Face, random_crop: bool) -> None:
    places = set()
    for seed in range(40):
        ours = place_face((1000, 800), (512, 512), face, [1.5, 4.0], random.Random(seed), random_crop=random_crop)
        theirs = by_hand(1000, 800, 512, face, [1.5, 4.0], random.Random(seed), random_crop)
        assert (*ours.resized, *ours.crop) == theirs
        places.add(ours)
    assert len(places) > 1 or face.size in (30, 900)


def test_pixels_and_the_cache(tmp_path: Path, draw: Callable[..., Path]) -> None:
    image = Image.new("RGB", (400, 300), "white")
    image.paste("red", (200, 100, 300, 200))
    path = tmp_path / "ann_250_150_100_100.png"
    image.save(path)
    info = ImageInfo(path, 400, 300, "PNG")
    table = DatasetTable(enable_bucket=False, face_crop_aug_range=[1.0, 1.0], resolution=64)
    placement = BucketGrid.from_table(table).place(400, 300)
    cropped, _ = load_pixels(info, placement, table, rng=random.Random(0))
    plain, _ = load_pixels(info, placement, table)
    assert cropped.shape == plain.shape == (3, 64, 64)
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    assert bool(torch.isclose(cropped, red, atol=0.02).all()), "the crop is the face alone"
    assert not bool(torch.isclose(plain, red, atol=0.02).all())

    crops = RunConfig().changed(dataset={**RANGE, "face_crop_aug_range": "2.0,4.0"})
    resolved, notes = resolve(crops)
    assert not resolved.memory.cache_latents and any(
        "face_crop_aug_range gives each image new pixels" in n for n in notes
    )
    exact, notes = resolve(crops.changed(training={"kohya_exact": True}))
    assert exact.memory.cache_latents and any("crop no faces where latents are cached" in note for note in notes)
    _, notes = resolve(crops.changed(dataset={"enable_bucket": True}))
    assert any("face_crop_aug_range has no effect: enable_bucket is on" in note for note in notes)
