"""The metadata of a LoRA file about its images: Kohya's `ss_dataset_dirs`, `ss_tag_frequency`, `ss_bucket_info`, and
`ss_datasets` of a dataset configuration (shapes: sd-scripts `train_network.py`, `BaseDataset.set_tag_frequency`)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.dataset import DatasetTable
from engine.config.kohya.dataset_file import SubsetSpec, kohya_path


@dataclass(frozen=True)
class SubsetMetadata:
    """One folder of images."""

    directory: Path
    num_repeats: int
    captions: Sequence[str]
    """One for each image, without repeats; "" where there is none."""
    is_reg: bool = False
    dataset: int = 0
    """Number of its dataset in a dataset configuration."""
    spec: SubsetSpec | None = None
    """Its entry in the dataset configuration; None without one."""
    tags: Sequence[str] = ()
    """The tags of a metadata file, which are counted instead of the captions."""

    @property
    def name(self) -> str:
        """Kohya's name for it: the folder's name, or that of the metadata file."""
        return (
            kohya_path(self.spec.metadata_file).name if self.spec and self.spec.metadata_file else self.directory.name
        )


@dataclass(frozen=True)
class BucketMetadata:
    """Images (with repeats) per bucket, and the mean error of the aspect ratio."""

    buckets: Sequence[tuple[tuple[int, int], int]]
    """((width, height), images)"""
    mean_ar_error: float


def tag_frequency(subsets: Sequence[SubsetMetadata]) -> dict[str, dict[str, int]]:
    """{folder: {tag: images}}: captions split at commas whatever the separator is, lower case, without repeats.

    Of a metadata file only the tags of entries that have a caption too, as Kohya counts.
    """
    folders: dict[str, Counter[str]] = {}
    for subset in subsets:
        counts = folders.setdefault(subset.name, Counter())
        for caption in subset.tags if subset.spec and subset.spec.metadata_file else subset.captions:
            counts.update(tag.strip().lower() for tag in caption.split(",") if tag.strip())
    return {name: dict(counts) for name, counts in folders.items()}


def directories(subsets: Sequence[SubsetMetadata], *, is_reg: bool) -> dict[str, dict[str, int]]:
    """{folder: {"n_repeats", "img_count"}}; folders with the same name are numbered: "cat (2)"."""
    result: dict[str, dict[str, int]] = {}
    for subset in subsets:
        if subset.is_reg == is_reg:
            name, number = subset.name, 2
            while name in result:
                name, number = f"{subset.name} ({number})", number + 1
            result[name] = {"n_repeats": subset.num_repeats, "img_count": len(subset.captions)}
    return result


def buckets_of(info: BucketMetadata | None) -> dict[str, Any] | None:
    """`ss_bucket_info` before it becomes text; None when bucketing is off."""
    if info is None:
        return None
    buckets = {
        str(index): {"resolution": list(size), "count": count} for index, (size, count) in enumerate(info.buckets)
    }
    return {"buckets": buckets, "mean_img_ar_error": info.mean_ar_error}


def bucket_limits(table: DatasetTable) -> tuple[int | None, int | None]:
    """(min_bucket_reso, max_bucket_reso) as they are used: multiples of the step; None when bucketing is off."""
    step = table.bucket_reso_steps
    if not table.enable_bucket:
        return None, None
    return table.min_bucket_reso // step * step, -(-table.max_bucket_reso // step) * step


def configured_values(subsets: Sequence[SubsetMetadata], buckets: Sequence[BucketMetadata | None]) -> dict[str, str]:
    """The keys of a dataset configuration, which replace those of folders.

    Args:
        buckets: of each dataset, in their order; None where its bucketing is off.
    """
    datasets: list[dict[str, Any]] = []
    frequency: dict[str, dict[str, int]] = {}
    for number, info in enumerate(buckets):
        members = [subset for subset in subsets if subset.dataset == number]
        counts = tag_frequency(members)
        datasets.append(_dataset(members, counts, info))
        for name, tags in counts.items():
            frequency.setdefault(name, tags)  # a folder of several datasets counts once
    return {
        "ss_datasets": json.dumps(datasets),
        "ss_tag_frequency": json.dumps(frequency),
        "ss_dataset_dirs": json.dumps(directories(subsets, is_reg=False)),
    }


def _dataset(
    subsets: Sequence[SubsetMetadata], frequency: dict[str, dict[str, int]], info: BucketMetadata | None
) -> dict[str, Any]:
    spec = subsets[0].spec
    assert spec is not None
    table = spec.table
    minimum, maximum = bucket_limits(table)
    images = {
        is_reg: sum(subset.num_repeats * len(subset.captions) for subset in subsets if subset.is_reg is is_reg)
        for is_reg in (False, True)
    }
    return {
        "is_dreambooth": spec.metadata_file is None,
        "batch_size_per_device": spec.batch_size,
        "num_train_images": images[False],
        "num_reg_images": images[True],
        "resolution": list(table.size),
        "enable_bucket": table.enable_bucket,
        "min_bucket_reso": minimum,
        "max_bucket_reso": maximum,
        "tag_frequency": frequency,
        "bucket_info": buckets_of(info),
        "resize_interpolation": table.resize_interpolation,
        "subsets": [_subset(subset) for subset in subsets],
    }


def _subset(subset: SubsetMetadata) -> dict[str, Any]:
    spec = subset.spec
    assert spec is not None
    table = spec.table
    values: dict[str, Any] = {
        "img_count": len(subset.captions),
        "num_repeats": subset.num_repeats,
        "color_aug": table.color_aug,
        "flip_aug": table.flip_aug,
        "random_crop": table.random_crop,
        "shuffle_caption": table.shuffle_caption,
        "keep_tokens": table.keep_tokens,
        "keep_tokens_separator": table.keep_tokens_separator or "",
        "secondary_separator": table.secondary_separator,
        "enable_wildcard": table.enable_wildcard,
        "caption_prefix": table.caption_prefix,
        "caption_suffix": table.caption_suffix,
        "resize_interpolation": table.resize_interpolation,
    }
    if spec.image_dir:
        values["image_dir"] = subset.directory.name
    if spec.metadata_file is None:
        return {**values, "class_tokens": spec.class_tokens or None, "is_reg": subset.is_reg}
    return {**values, "metadata_file": subset.name}
