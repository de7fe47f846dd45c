from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.config.dataset import DatasetTable
from engine.dataset.buckets import BucketGrid, Placement, make_buckets
from engine.errors import UsageError
from tests.refusals import refused

GOLDEN = json.loads((Path(__file__).parent / "fixtures/golden_buckets.json").read_text())
KOHYA = {
    "sd15": {"resolution": 512, "max_bucket_reso": 1024},
    "sdxl": {"resolution": 1024, "max_bucket_reso": 2048},
}


def grid(*, multiple: int = 64, downscale: int = 8, **dataset: Any) -> BucketGrid:
    config = RunConfig.model_validate({"dataset": dataset})
    return BucketGrid.from_table(config.dataset, multiple=multiple, downscale=downscale)


@pytest.mark.parametrize(("name", "buckets"), GOLDEN["bucket_lists"].items())
def test_bucket_lists_are_kohyas(name: str, buckets: list[list[int]]) -> None:
    width, height, minimum, maximum, step = map(int, re.findall(r"\d+", name))
    assert [list(size) for size in make_buckets((width, height), minimum, maximum, step)] == buckets


@pytest.mark.parametrize("case", GOLDEN["select"], ids=lambda case: f"{case['cfg']} {case['image']}")
def test_placements_are_kohyas(case: dict[str, Any]) -> None:
    name, _, no_upscale = case["cfg"].partition(" ")
    placement = grid(**KOHYA[name], bucket_no_upscale=bool(no_upscale)).place(*case["image"])
    assert [list(placement.bucket), list(placement.resized)] == [case["bucket"], case["resized"]]
    ratio, own = placement.bucket[0] / placement.bucket[1], case["image"][0] / case["image"][1]
    assert round(ratio - own, 6) == case["ar_error"]
    assert placement.crop == tuple((a - b) // 2 for a, b in zip(placement.resized, placement.bucket, strict=True))


def test_the_demos_small_sizes() -> None:
    small = grid(resolution=64, min_bucket_reso=32, max_bucket_reso=128, bucket_reso_steps=16, multiple=16, downscale=4)
    assert small.place(200, 200) == Placement((64, 64), (64, 64), (0, 0))
    assert small.place(200, 100).bucket == (80, 48)
    assert all(side % 16 == 0 for size in small.buckets for side in size)


def test_without_buckets_every_image_is_cropped_to_one_size() -> None:
    single = grid(resolution=[512, 768], enable_bucket=False)
    assert single.place(1000, 1000) == Placement((512, 768), (768, 768), (128, 0))
    assert single.place(100, 400) == Placement((512, 768), (512, 2048), (0, 640))


def test_limits_are_rounded_to_the_step_and_noted() -> None:
    rounded = grid(resolution=512, min_bucket_reso=300, max_bucket_reso=1000)
    assert (rounded.minimum, rounded.maximum) == (256, 1024)
    assert rounded.notes == (
        "dataset.min_bucket_reso: 300 becomes 256, a multiple of bucket_reso_steps = 64",
        "dataset.max_bucket_reso: 1000 becomes 1024, a multiple of bucket_reso_steps = 64",
    )


@pytest.mark.parametrize("size", [(10_000, 20), (20, 10_000), (50, 300), (30, 30), (100, 30_000)])
def test_slivers_get_a_bucket_without_upscaling_too(size: tuple[int, int]) -> None:
    placement = grid(resolution=512, bucket_no_upscale=True).place(*size)
    assert min(placement.bucket) == 64 and max(placement.bucket) <= 2048
    assert all(side % 64 == 0 for side in placement.bucket)
    assert all(a >= b for a, b in zip(placement.resized, placement.bucket, strict=True))


@pytest.mark.parametrize("no_upscale", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (17, 4000), (513, 511), (5000, 17), (1, 1)])
def test_the_scaled_image_always_covers_its_bucket(size: tuple[int, int], no_upscale: bool) -> None:
    placement = grid(resolution=768, bucket_no_upscale=no_upscale).place(*size)
    assert all(a >= b > 0 for a, b in zip(placement.resized, placement.bucket, strict=True))
    assert min(placement.crop) >= 0


@pytest.mark.parametrize(
    ("settings", "code", "parts"),
    [
        (
            {"resolution": 128},
            "resolution-outside-buckets",
            ("dataset.resolution = 128×128", "dataset.min_bucket_reso = 256"),
        ),
        (
            {"resolution": 1024, "max_bucket_reso": 768},
            "resolution-outside-buckets",
            ("dataset.resolution = 1024×1024", "dataset.max_bucket_reso = 768"),
        ),
        ({"bucket_reso_steps": 32}, "bucket-step-not-possible", ("dataset.bucket_reso_steps = 32", "64")),
        (
            {"resolution": 650, "enable_bucket": False},
            "resolution-not-possible",
            ("dataset.resolution = 650×650", "8 px"),
        ),
    ],
)
def test_contradictions_name_their_keys(settings: dict[str, Any], code: str, parts: tuple[str, ...]) -> None:
    with refused(code, *parts) as raised:
        grid(**settings)
    assert raised.value.hint and raised.value.exit_code == 2


def test_all_problems_are_reported_at_once() -> None:
    table = DatasetTable(resolution=128, bucket_reso_steps=60, min_bucket_reso=256)
    with pytest.raises(UsageError) as caught:
        BucketGrid.from_table(table)
    assert "bucket_reso_steps = 60" in str(caught.value) and "min_bucket_reso = 256" in str(caught.value)
    assert caught.value.code == "bucket-step-not-possible"
