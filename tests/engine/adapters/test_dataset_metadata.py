"""`ss_datasets` and its companions: the shapes that sd-scripts' train_network.py writes for a dataset configuration."""

from __future__ import annotations

import json
from pathlib import Path

from engine.adapters.dataset_metadata import BucketMetadata, SubsetMetadata, bucket_limits, configured_values
from engine.config import RunConfig
from engine.config.kohya.dataset_file import SubsetSpec, read_dataset_config

TEXT = """
[general]
keep_tokens_separator = "|||"
[[datasets]]
resolution = [512, 640]
batch_size = 4
min_bucket_reso = 300
max_bucket_reso = 1000
  [[datasets.subsets]]
  image_dir = "/p/cats"
  num_repeats = 10
  class_tokens = "zed cat"
  shuffle_caption = true
  [[datasets.subsets]]
  image_dir = "/r/animals/"
  is_reg = true
[[datasets]]
resolution = 768
enable_bucket = false
  [[datasets.subsets]]
  image_dir = "/p/cats"
[[datasets]]
resolution = 768
  [[datasets.subsets]]
  image_dir = "/q/dogs"
  metadata_file = "/q/meta.json"
  [[datasets.subsets]]
  metadata_file = "/q/other.json"
"""
CAPTIONS = {"cats": ["Cat, red", "cat,, "], "animals": ["animal"], "dogs": ["a dog, tall", "cat"]}


def metadata_of(spec: SubsetSpec) -> SubsetMetadata:
    folder = Path(spec.image_dir or "/q/dogs")
    tags = ["Tall, wet"] if spec.metadata_file else []
    captions = CAPTIONS[folder.name]
    return SubsetMetadata(folder, spec.num_repeats, captions, spec.is_reg, spec.dataset, spec, tags)


def values(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "d.toml"
    path.write_text(TEXT)
    specs, _ = read_dataset_config(path, RunConfig())
    bucket = BucketMetadata([((512, 640), 20), ((448, 704), 1)], 0.25)
    return configured_values([metadata_of(spec) for spec in specs], [bucket, None, bucket])


def test_a_dataset_of_folders(tmp_path: Path) -> None:
    first, second, _ = json.loads(values(tmp_path)["ss_datasets"])
    shared = {
        "color_aug": False, "flip_aug": False, "random_crop": False, "keep_tokens": 0, "keep_tokens_separator": "|||",
        "secondary_separator": None, "enable_wildcard": False, "caption_prefix": None, "caption_suffix": None,
        "resize_interpolation": None,
    }  # fmt: skip
    assert first == {
        "is_dreambooth": True,
        "batch_size_per_device": 4,
        "num_train_images": 20,
        "num_reg_images": 1,
        "resolution": [512, 640],
        "enable_bucket": True,
        "min_bucket_reso": 256,
        "max_bucket_reso": 1024,
        "tag_frequency": {"cats": {"cat": 2, "red": 1}, "animals": {"animal": 1}},
        "bucket_info": {
            "buckets": {"0": {"resolution": [512, 640], "count": 20}, "1": {"resolution": [448, 704], "count": 1}},
            "mean_img_ar_error": 0.25,
        },
        "resize_interpolation": None,
        "subsets": [
            {"img_count": 2, "num_repeats": 10, **shared, "shuffle_caption": True, "image_dir": "cats",
             "class_tokens": "zed cat", "is_reg": False},
            {"img_count": 1, "num_repeats": 1, **shared, "shuffle_caption": False, "image_dir": "animals",
             "class_tokens": None, "is_reg": True},
        ],
    }  # fmt: skip
    assert (second["enable_bucket"], second["min_bucket_reso"], second["max_bucket_reso"]) == (False, None, None)
    assert second["bucket_info"] is None


def test_a_dataset_of_metadata_files(tmp_path: Path) -> None:
    *_, third = json.loads(values(tmp_path)["ss_datasets"])
    assert third["is_dreambooth"] is False
    named, bare = third["subsets"]
    assert (named["image_dir"], named["metadata_file"]) == ("dogs", "meta.json")
    assert "image_dir" not in bare and bare["metadata_file"] == "other.json"
    assert not {"class_tokens", "is_reg"} & set(named)
    assert third["tag_frequency"] == {"meta.json": {"tall": 1, "wet": 1}, "other.json": {"tall": 1, "wet": 1}}


def test_what_all_datasets_have_together(tmp_path: Path) -> None:
    """No regularization images among the directories; a folder of two datasets has its tags once, and two names."""
    metadata = values(tmp_path)
    assert set(metadata) == {"ss_datasets", "ss_tag_frequency", "ss_dataset_dirs"}
    assert json.loads(metadata["ss_dataset_dirs"]) == {
        "cats": {"n_repeats": 10, "img_count": 2},
        "cats (2)": {"n_repeats": 1, "img_count": 2},
        "meta.json": {"n_repeats": 1, "img_count": 2},
        "other.json": {"n_repeats": 1, "img_count": 2},
    }
    assert list(json.loads(metadata["ss_tag_frequency"])) == ["cats", "animals", "meta.json", "other.json"]


def test_limits_are_rounded_to_the_step() -> None:
    table = RunConfig().dataset.model_copy(update={"min_bucket_reso": 300, "bucket_reso_steps": 32})
    assert bucket_limits(table) == (288, 2048)
