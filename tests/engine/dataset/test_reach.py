"""Which images a run comes to, against the batches that its steps really take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.config import RunConfig
from engine.config.changes import at_the_end
from engine.dataset.arithmetic import make_items, plan_steps
from engine.dataset.buckets import BucketGrid
from engine.dataset.images import ImageInfo, Scan, Subset
from engine.dataset.items import Item
from engine.dataset.latents import LatentCache
from engine.dataset.reach import Direction, last_update, most_latents, reached
from engine.dataset.scan import scan
from engine.training.batch_source import BatchSource
from tests.packed import packed

SIZES = [(512, 512), (768, 512), (512, 768)]
COUNTS = (5, 4, 2)


def config_of(**tables: Any) -> RunConfig:
    return RunConfig.model_validate(tables)


def pictured(repeats: int = 1) -> Scan:
    images = [
        ImageInfo(Path(f"/s/{bucket}-{number}.png"), *SIZES[bucket], "PNG", caption="c")
        for bucket, count in enumerate(COUNTS)
        for number in range(count)
    ]
    return Scan((Subset(Path("/s"), repeats, "s", False, False, tuple(images)),), (), [])


def seen(directions: list[Direction]) -> set[tuple[Path, bool]]:
    return {(item.image.path, flip) for item, flip in directions}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("processes", "accumulation", "batch"), [(1, 1, 2), (1, 3, 1), (2, 1, 2), (3, 2, 1)])
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_what_is_reached_is_what_the_steps_take(
    flip: bool, processes: int, accumulation: int, batch: int, shift: int
) -> None:
    config = config_of(
        dataset={"flip_aug": flip},
        training={
            "num_processes": processes, "gradient_accumulation_steps": accumulation, "train_batch_size": batch,
            "max_train_epochs": 3,
        },
    )  # fmt: skip
    grid, dataset = BucketGrid.from_table(config.dataset), pictured(repeats=2)
    items = make_items(dataset, grid)
    plan = plan_steps(dataset, grid, config)
    plan = plan.continued(2, plan.updates_per_epoch, shift) if shift else plan
    sources = [
        BatchSource(config, items, plan, None, torch.device("cpu"), None, rank=rank, num_processes=processes)  # type: ignore[arg-type]
        for rank in range(processes)
    ]
    begin = max(0, -plan.shift)
    for first in range(begin, plan.max_train_steps):
        for end in range(first, plan.max_train_steps + 1):
            expected = [
                direction for step in range(first, end) for batches in sources for direction in batches.directions(step)
            ]
            directions = reached(items, config, plan, first, end)
            if directions is None:
                assert {path for path, _ in seen(expected)} == {item.image.path for item in items}
                assert end - first >= plan.updates_per_epoch
            else:
                assert seen(directions) == seen(expected)
                assert end - first < 2 * plan.updates_per_epoch


@pytest.mark.parametrize(
    ("training", "end"),
    [
        ({"max_train_steps": 7}, 7),
        ({"max_train_epochs": 2}, 22),
        ({"max_train_steps": 7, "changes": ["3: training.max_train_steps=9"]}, 9),
        ({"max_train_steps": 7, "changes": ["7: training.max_train_steps=9"]}, 9),
        ({"max_train_steps": 7, "changes": ["8: training.max_train_steps=9"]}, 7),
        ({"max_train_steps": 7, "changes": ["3: training.max_train_steps=5"]}, 5),
        ({"max_train_steps": 7, "changes": ["3: training.max_train_epochs=1"]}, 11),
        ({"max_train_steps": 7, "changes": ["3: training.unet_lr=1e-5"]}, 7),
    ],
)
def test_where_a_run_ends(training: dict[str, Any], end: int) -> None:
    config = config_of(training={"train_batch_size": 1, **training})
    plan = plan_steps(pictured(), BucketGrid.from_table(config.dataset), config)
    assert last_update(config, plan) == end


@pytest.mark.parametrize(
    ("tables", "latents"),
    [
        ({"training": {"max_train_steps": 11}}, 11),
        ({"training": {"max_train_steps": 11}, "dataset": {"flip_aug": True}}, 22),
        ({"training": {"max_train_steps": 2}}, 11),  # samples are compared with up to 300 images
        ({"training": {"max_train_steps": 2}, "sampling": {"sample_every_n_steps": 0}}, 2 + 4),
        ({"training": {"max_train_steps": 2, "max_check_share": 0}}, 2 + 4),
        ({"training": {"max_train_steps": 2, "train_batch_size": 2, "max_check_share": 0}}, 2 * 2 + 4),
        ({"training": {"max_train_steps": 1, "max_check_share": 0}, "memory": {"vae_batch_size": 2}}, (1 + 4) * 2),
        ({"training": {"max_train_steps": 2, "max_check_share": 0}, "memory": {"vae_batch_size": 2}}, 11),
    ],
)
def test_the_most_that_is_cached(tables: dict[str, Any], latents: int) -> None:
    config = at_the_end(config_of(**{**tables, "training": {"train_batch_size": 1, **tables["training"]}}))
    plan = plan_steps(pictured(), BucketGrid.from_table(config.dataset), config)
    assert most_latents(config, plan) == latents


class Encoder:
    """A VAE whose latents depend on how many images are encoded together, and on their order."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixels))
        small = torch.nn.functional.avg_pool2d(pixels, 8)
        places = torch.arange(len(pixels)).reshape(-1, 1, 1, 1) + 10 * len(pixels)
        return torch.cat([small + places, small.abs()], 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine squares and two wide images; the first and the last square are the same."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(9):
        Image.new("RGB", (64, 64), (20 * (number % 8), 100, 50)).save(folder / f"{number}.png")
    for number in range(2):
        Image.new("RGB", (96, 64), (9, 9, 99 * number)).save(folder / f"w{number}.png")
    return folder


def items_in(folder: Path, **dataset: Any) -> tuple[list[Item], RunConfig]:
    table = {"resolution": 64, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16, **dataset}
    config = config_of(dataset={"train_data_dir": str(folder), "num_repeats": 1, **table})
    return make_items(scan(config), BucketGrid.from_table(config.dataset, multiple=16, downscale=8)), config


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("names", [["4"], ["8"], ["0", "8"], ["w1"], ["2", "3", "w0"], []])
def test_the_bytes_of_a_latent_do_not_depend_on_the_needed_items(
    names: list[str], batch_size: int, flip: bool, tmp_path: Path, folder: Path
) -> None:
    items, config = items_in(folder, flip_aug=flip)
    LatentCache(tmp_path / "all", "vae", config.dataset).build(items, Encoder(), batch_size)
    all_files = packed(tmp_path / "all")
    cache, encoder = LatentCache(tmp_path / "some", "vae", config.dataset), Encoder()
    only = [(item, flip) for item in items if item.image.path.stem in names]
    calls: list[tuple[int, int]] = []
    cache.build(items, encoder, batch_size, lambda *call: calls.append(call), only=only)
    assert all(cache.has(*direction) and cache.get(*direction)[0].ndim == 3 for direction in only)
    some = packed(tmp_path / "some")
    assert some.items() <= all_files.items()
    assert len(encoder.batches) <= len(names) and len(some) <= len(names) * batch_size
    assert calls[-1:] == ([(sum(encoder.batches),) * 2] if names else [])
    second = Encoder()
    assert cache.build(items, second, batch_size, only=only).encoded == 0 and second.batches == []
    LatentCache(tmp_path / "some", "vae", config.dataset).build(items, Encoder(), batch_size)
    assert packed(tmp_path / "some") == all_files


def test_only_needed_latents_are_available(tmp_path: Path, folder: Path) -> None:
    items, config = items_in(folder, flip_aug=True)
    cache = LatentCache(None, "vae", config.dataset)
    assert not cache.has(items[2])
    cache.build(items, Encoder(), only=[(items[2], True)])
    assert cache.has(items[2], True) and not cache.has(items[2]) and not cache.has(items[3])


def test_an_image_that_changed_since_the_first_build_is_named(tmp_path: Path, folder: Path) -> None:
    items, config = items_in(folder)
    cache = LatentCache(tmp_path / "cache", "vae", config.dataset)
    assert not cache.build(items, Encoder(), only=[(items[2], False)]).changed
    Image.new("RGB", (64, 64), "red").save(folder / "5.png")
    report = cache.build(items, Encoder(), only=[(items[5], False)])
    assert [path.name for path in report.changed] == ["5.png"]
