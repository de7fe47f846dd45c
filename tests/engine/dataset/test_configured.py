"""Scanning what a dataset configuration names: several datasets, metadata captions, masks, and the arithmetic of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.dataset.arithmetic import make_items, plan_steps, validation_items
from engine.dataset.batches import epoch_batches, item_caption, run_captions
from engine.dataset.buckets import BucketGrid
from engine.dataset.captions import CaptionRules
from engine.dataset.pixels import load_pixels
from engine.dataset.scan import scan
from tests.refusals import refused


def run(path: Path, **tables: dict[str, object]) -> RunConfig:
    dataset = {"dataset_config": str(path), **tables.pop("dataset", {})}
    return RunConfig().changed(dataset=dataset, **tables)


@pytest.fixture
def two_sizes(tmp_path, draw):
    """The same folder at two resolutions, and regularization images for the first."""
    for index in range(3):
        draw(tmp_path / "a" / f"{index}.png", (128, 128))
        (tmp_path / "a" / f"{index}.txt").write_text("zed, red, blue")
    draw(tmp_path / "r" / "r.png", (128, 128))
    path = tmp_path / "d.toml"
    path.write_text(f"""
        [general]
        min_bucket_reso = 64
        [[datasets]]
        resolution = 128
        batch_size = 2
          [[datasets.subsets]]
          image_dir = "{tmp_path}/a"
          num_repeats = 3
          shuffle_caption = true
          keep_tokens = 1
          [[datasets.subsets]]
          image_dir = "{tmp_path}/r"
          is_reg = true
          class_tokens = "dog"
        [[datasets]]
        resolution = 64
        batch_size = 5
          [[datasets.subsets]]
          image_dir = "{tmp_path}/a"
          caption_prefix = "small"
    """)
    return path


def test_each_dataset_has_its_own_size_batch_and_captions(two_sizes):
    config = run(two_sizes)
    dataset = scan(config)
    grid = BucketGrid.from_table(config.dataset)
    plan = plan_steps(dataset, grid, config)
    items = make_items(dataset, grid)
    # 3 x 3 training and 9 regularization items in batches of 2, then 3 items in one of 5
    assert (plan.num_train_images, plan.items, plan.batches_per_epoch) == (12, 21, 10)
    assert plan.batch_sizes == (2, 5) and plan.num_short_batches == 1
    assert any("10 batches of 2, 5 (1 not full)" in line for line in plan.lines()), plan.lines()
    batches = epoch_batches(items, 1, seed=1, epoch=1)
    assert sorted(map(len, batches)) == [2] * 9 + [3]
    assert all(len({items[index].dataset for index in batch}) == 1 for batch in batches)
    assert {item.placement.bucket for item in items} == {(128, 128), (64, 64)}
    rules = CaptionRules.from_config(config)
    captions = run_captions(items, rules, plan, seed=1)
    assert "small zed, red, blue" in captions and "dog" in captions
    assert {c for c in captions if c.startswith("zed")} == {"zed, red, blue", "zed, blue, red"}
    small = next(index for index, item in enumerate(items) if item.dataset == 1)
    assert item_caption(items[small], small, rules, plan, seed=1, epoch=1, step=0) == "small zed, red, blue"


def test_a_share_is_for_validation_and_never_mirrored(two_sizes):
    config = run(two_sizes, dataset={"flip_aug": True, "validation_split": 0.34})
    validation = validation_items(scan(config), BucketGrid.from_table(config.dataset))
    assert validation and not any(item.table.flip_aug for item in validation)


def test_captions_from_metadata(tmp_path, draw):
    for name in ("a.png", "b.jpg", "c.webp"):
        draw(tmp_path / "images" / name, (64, 64))
    entries = {"a": {"caption": "a dog", "tags": "red, big"}, str(tmp_path / "images" / "b.jpg"): {"tags": "cat"},
               "gone": {"caption": "x"}}  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(entries))
    path = tmp_path / "d.toml"
    path.write_text(f"""[[datasets]]
        [[datasets.subsets]]
        image_dir = "{tmp_path}/images"
        metadata_file = "{tmp_path}/m.json"
    """)
    dataset = scan(run(path))
    (subset,) = dataset.subsets
    assert {image.path.name: image.caption for image in subset.images} == {
        "a.png": "a dog,red, big", "b.jpg": "cat",
    }  # fmt: skip
    assert any("1 entry of" in note and "gone" in note for note in dataset.notes)
    assert subset.tags == ("red, big",), "b has no caption, so that its tags are the caption"
    (tmp_path / "m.json").write_text(json.dumps({"a": {"caption": " "}}))
    with refused("metadata-entry-empty"):
        scan(run(path))


def test_in_json_is_one_folder_with_captions_of_a_file(tmp_path, draw):
    """As the same file in a dataset configuration, with the settings and the repeats of `[dataset]`."""
    for name in ("a.png", "b.jpg"):
        draw(tmp_path / "10_images" / name, (64, 64))
    (tmp_path / "10_images" / "a.txt").write_text("not read")
    entries = {"a": {"caption": "a dog", "tags": "red, big", "train_resolution": [64, 64]}, "b": {"tags": "cat"}}
    (tmp_path / "m.json").write_text(json.dumps({**entries, "gone": {"caption": "x"}}))
    lines = [json.dumps({"image_path": name, **entry}) for name, entry in entries.items()]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    folder = {"train_data_dir": str(tmp_path / "10_images"), "resolution": 64, "min_bucket_reso": 64}
    results = []
    for name in ("m.json", "m.jsonl"):
        config = RunConfig().changed(dataset={**folder, "in_json": str(tmp_path / name), "num_repeats": 3})
        dataset = scan(config)
        (subset,) = dataset.subsets
        results.append([(image.path.name, image.caption) for image in subset.images])
        assert (subset.num_repeats, subset.tags, subset.table, subset.batch_size) == (3, ("red, big",), None, None)
        assert any("train_resolution of 1 entry has no effect" in note for note in dataset.notes)
        assert any("gone" in note for note in dataset.notes) is (name == "m.json")
        assert plan_steps(dataset, BucketGrid.from_table(config.dataset), config).items == 6
    assert results == [[("a.png", "a dog,red, big"), ("b.jpg", "cat")]] * 2
    assert (
        scan(RunConfig().changed(dataset={**folder, "in_json": str(tmp_path / "m.json")})).subsets[0].num_repeats == 1
    )
    for name, code in (("none.json", "metadata-missing"), ("10_images/a.txt", "metadata-unreadable")):
        with refused(code, "dataset.in_json"):
            scan(RunConfig().changed(dataset={**folder, "in_json": str(tmp_path / name)}))


def test_masks_scale_the_loss(tmp_path, draw):
    from PIL import Image

    for name in ("a.png", "b.png"):
        draw(tmp_path / "images" / name, (64, 64))
    mask = Image.new("RGB", (32, 32), "black")
    mask.paste((255, 0, 0), (0, 0, 16, 32))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "a.webp", lossless=True)
    config = RunConfig().changed(
        dataset={"train_data_dir": str(tmp_path / "images"), "conditioning_data_dir": str(tmp_path / "masks"),
                 "masked_loss": True, "resolution": 64, "min_bucket_reso": 64},
    )  # fmt: skip
    dataset = scan(config)
    with_mask, without = dataset.subsets[0].images
    assert with_mask.mask_path == tmp_path / "masks" / "a.webp" and without.mask_path is None
    assert any("1 image without a mask have full loss weight: b.png" in note for note in dataset.notes)
    placement = BucketGrid.from_table(config.dataset).place(64, 64)
    _, weights = load_pixels(with_mask, placement, config.dataset)
    assert weights[:, :28].min() > 0.95 and weights[:, 36:].max() < 0.05
    assert load_pixels(without, placement, config.dataset)[1] is None


def test_masks_that_fit_no_image_are_an_error(tmp_path, draw):
    draw(tmp_path / "images" / "a.png")
    draw(tmp_path / "masks" / "other.png")
    config = RunConfig().changed(
        dataset={"train_data_dir": str(tmp_path / "images"), "conditioning_data_dir": str(tmp_path / "masks"),
                 "masked_loss": True},
    )  # fmt: skip
    with refused("no-mask", "1 image", tmp_path / "masks"):
        scan(config)


def test_missing_folders_and_only_regularization_are_errors(tmp_path, draw):
    path = tmp_path / "d.toml"
    path.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path}/nowhere"')
    with refused("folder-missing"):
        scan(run(path))
    draw(tmp_path / "r" / "a.png")
    path.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path}/r"\nis_reg = true')
    with refused("no-subset-to-train", path):
        scan(run(path))


def test_the_order_of_one_dataset_is_what_it_was(tmp_path, draw):
    """With and without a dataset configuration the same folder gives the same batches."""
    for index in range(5):
        draw(tmp_path / "2_x" / f"{index}.png", (64 + 64 * (index % 2), 64))
    plain = RunConfig().changed(
        dataset={"train_data_dir": str(tmp_path), "resolution": 64, "min_bucket_reso": 64},
    )
    path = tmp_path / "d.toml"
    path.write_text(f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{tmp_path}/2_x"\nnum_repeats = 2')
    configured = run(path, dataset={"resolution": 64, "min_bucket_reso": 64}, training={"train_batch_size": 2})
    orders = []
    for config in (plain, configured):
        items = make_items(scan(config), BucketGrid.from_table(config.dataset))
        orders.append([[items[i].image.path for i in batch] for batch in epoch_batches(items, 2, seed=3, epoch=2)])
    assert orders[0] == orders[1]


def test_another_file_of_kohyas_is_reported_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "gui.json"
    path.write_text(json.dumps({"LoRA_type": "Standard", "epoch": 1, "max_resolution": "512,512"}))
    with refused("no-dataset-config") as caught:
        scan(run(path))
    assert "--preset" in caught.value.hint
