"""What holds for any input: buckets, batches, the allocator's estimate, configurations as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config import RunConfig, dump_toml, load_config
from engine.config.dataset import DatasetTable
from engine.config.fields import Table
from engine.config.write import update_toml
from engine.dataset.batches import epoch_batches
from engine.dataset.buckets import BucketGrid, Placement
from engine.dataset.items import Item
from engine.errors import UsageError
from engine.estimate.worker.segments import BLOCK, PAGES, Segments, rounded
from tests.fuzz.search import examples, search

SIDES = st.integers(1, 20_000)
GRIDS = st.fixed_dictionaries({
    "resolution": st.sampled_from([256, 512, "512,768", 1024, 1000]),
    "enable_bucket": st.booleans(),
    "bucket_no_upscale": st.booleans(),
    "min_bucket_reso": st.sampled_from([64, 128, 256, 300]),
    "max_bucket_reso": st.sampled_from([768, 1024, 2048]),
    "bucket_reso_steps": st.sampled_from([8, 32, 64, 128]),
})  # fmt: skip


@examples(quick=300, long=5000)
def test_every_image_has_a_bucket_that_it_fills(examples: int) -> None:
    def check(case: tuple[dict[str, Any], int, int]) -> None:
        settings, width, height = case
        try:
            grid = BucketGrid.from_table(DatasetTable(**settings), multiple=8, downscale=8)
        except UsageError:
            return
        placement = grid.place(width, height)
        (left, top), bucket, resized = placement.crop, placement.bucket, placement.resized
        assert all(side > 0 and side % grid.step == 0 for side in bucket)
        assert 0 <= left <= resized[0] - bucket[0] and 0 <= top <= resized[1] - bucket[1], "cut out, never filled up"
        assert grid.no_upscale or bucket in grid.buckets
        if grid.no_upscale and min(bucket) > grid.step:
            assert resized[0] <= width and resized[1] <= height

    search(st.tuples(GRIDS, SIDES, SIDES), check, examples)


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    """Items of a few buckets and datasets; a dataset has one batch size."""
    sizes = {0: None, 1: draw(st.none() | st.integers(1, 5))}
    kinds = draw(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([(64, 64), (64, 96), (96, 64)])), max_size=40))
    return [
        Item(None, 0, Placement(bucket, bucket, (0, 0)), False, "", dataset=dataset, batch_size=sizes[dataset])  # type: ignore[arg-type]
        for dataset, bucket in kinds
    ]


@examples(quick=200, long=3000)
def test_an_epoch_is_a_partition_into_batches_of_one_bucket(examples: int) -> None:
    def check(case: tuple[list[Item], int, int, int]) -> None:
        some, size, seed, epoch = case
        batches = epoch_batches(some, size, seed, epoch)
        assert sorted(index for batch in batches for index in batch) == list(range(len(some)))
        for batch in batches:
            kinds = {(some[index].dataset, some[index].placement.bucket) for index in batch}
            assert len(kinds) == 1 and len(batch) <= (some[batch[0]].batch_size or size)
        short = sum(len(batch) < (some[batch[0]].batch_size or size) for batch in batches)
        assert short <= len({(item.dataset, item.placement.bucket) for item in some}), "one short batch a bucket"
        assert batches == epoch_batches(some, size, seed, epoch), "the same each time"

    search(st.tuples(items(), st.integers(1, 6), st.integers(0, 2**31), st.integers(1, 9)), check, examples)


@examples(quick=200, long=3000)
def test_what_is_reserved_holds_what_is_allocated(examples: int) -> None:
    """Allocations and their ends in any order; the peak of the driver's pages is never below that of the tensors."""

    def check(operations: list[tuple[int, bool]]) -> None:
        segments, live, key = Segments(), dict[int, int](), 0
        for size, ends in operations:
            if ends and live:
                gone = sorted(live)[size % len(live)]
                segments.free(gone)
                del live[gone]
            else:
                key += 1
                live[key] = rounded(size)
                segments.allocate(key, live[key])
            assert segments.reserved >= sum(live.values()) and segments.reserved % PAGES[True] == 0
        for key in sorted(live):
            segments.free(key)
        segments.trim()
        assert segments.reserved == 0
        assert all(size % BLOCK == 0 for size in live.values())

    sizes = st.integers(1, 2**12) | st.integers(1, 2**26)
    search(st.lists(st.tuples(sizes, st.booleans()), max_size=60), check, examples)


def _values(table: type[Table]) -> st.SearchStrategy[dict[str, Any]]:
    """Some settings of a table with values that may do or not."""
    some = st.none() | st.booleans() | st.integers(0, 4000) | st.floats(0, 2) | st.text(max_size=6)
    values = {
        name: st.just(field.default) | some | st.sampled_from(getattr(field.annotation, "__args__", (1,)))
        for name, field in table.model_fields.items()
    }
    return st.sampled_from(sorted(values)).flatmap(lambda name: values[name].map(lambda value: {name: value}))


@examples(quick=60, long=4000)
def test_a_configuration_as_text_is_itself(tmp_path: Path, examples: int) -> None:
    path, comments = tmp_path / "a.toml", "# mine\n[training]\nunet_lr = 2e-4  # as always\n"

    def check(changes: list[tuple[str, dict[str, Any]]]) -> None:
        config = RunConfig()
        for name, values in changes:
            try:
                config = config.changed(**{name: values})
            except (ValidationError, ValueError):
                continue
        path.write_text(dump_toml(config))
        assert load_config(str(path)) == config
        updated = update_toml(comments, config)
        assert updated.startswith("# mine\n")
        path.write_text(updated)
        assert load_config(str(path)) == config

    tables = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    table = st.sampled_from(sorted(tables)).flatmap(
        lambda name: _values(tables[name]).map(lambda values: (name, values))  # type: ignore[arg-type]
    )
    search(st.lists(table, min_size=1, max_size=5), check, examples)
