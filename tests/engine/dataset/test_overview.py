"""The overview of images before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.dataset.overview import overview
from engine.errors import DataError
from engine.paths import ASSETS

Draw = Callable[..., Path]
Configured = Callable[..., RunConfig]


def test_buckets_and_sizes(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    for name, size in {"a": (512, 512), "b": (600, 600), "c": (255, 400), "wide": (2049, 1000)}.items():
        draw(tmp_path / f"{name}.png", size=size)
    progress: list[tuple[int, int]] = []
    seen = overview(configured(tmp_path), lambda *numbers: progress.append(numbers))
    assert sum(seen.buckets.values()) == 4
    assert seen.buckets[512, 512] == 2
    assert [image.path.name for image in seen.small] == ["c.png"]
    assert [image.path.name for image in seen.large] == ["wide.png"]
    assert seen.lines()[:2] == [
        "1 image with a side below 256 px, enlarged: c.png (255×400 px)",
        "1 image with a side above 2048 px, shrunk: wide.png (2049×1000 px)",
    ]
    assert progress[-1] == (4, 4)
    assert not seen.numbered


def test_the_model_decides_the_grid(tmp_path: Path) -> None:
    """The demo base has cells of 4 px and no buckets; its images are as large as it trains them, so not small."""
    values: dict[str, dict[str, object]] = {
        "model": {"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
        "dataset": {"train_data_dir": str(ASSETS / "demo_pictures"), "resolution": 68, "enable_bucket": False},
    }
    seen = overview(RunConfig.model_validate(values))
    assert seen.buckets == {(68, 68): 16}
    values["dataset"]["resolution"] = 66
    assert "is not a multiple of 4 px" in overview(RunConfig.model_validate(values)).trouble


def test_a_model_that_is_none_does_not_matter_here(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png", size=(512, 512))
    config = configured(tmp_path).changed(model={"pretrained_model_name_or_path": str(tmp_path / "none.safetensors")})
    assert overview(config).buckets == {(512, 512): 1}


def test_settings_that_make_no_buckets(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "a.png", size=(512, 512))
    seen = overview(configured(tmp_path, bucket_reso_steps=40))
    assert seen.buckets == {}
    assert "bucket_reso_steps" in seen.lines()[0]


def test_numbered_folders(tmp_path: Path, draw: Draw, configured: Configured) -> None:
    draw(tmp_path / "10_fox" / "a.png", size=(300, 300))
    assert overview(configured(tmp_path)).numbered
    assert not overview(configured(tmp_path / "10_fox")).numbered


def test_no_images(tmp_path: Path, configured: Configured) -> None:
    with pytest.raises(DataError):
        overview(configured(tmp_path))
