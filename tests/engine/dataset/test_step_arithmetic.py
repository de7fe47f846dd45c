from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan, balance, make_items, plan_steps, validation_items
from engine.dataset.batches import epoch_batches, is_flipped, item_caption, run_captions, updates_before
from engine.dataset.buckets import BucketGrid
from engine.dataset.captions import CaptionRules
from engine.dataset.images import ImageInfo, Scan, Subset
from tests.refusals import refused

SIZES = [(512, 512), (768, 512), (512, 768), (1024, 512), (512, 1024)]


def subset(
    counts: list[int], repeats: int, *, is_reg: bool = False, is_validation: bool = False, name: str = "s"
) -> Subset:
    """`counts[i]` images of the i-th size: each size has a bucket of its own."""
    images = [
        ImageInfo(
            Path(f"/{name}/{bucket}-{number}.png"), *SIZES[bucket], "PNG", caption=f"{name}, b{bucket}, n{number}"
        )
        for bucket, count in enumerate(counts)
        for number in range(count)
    ]
    return Subset(Path(f"/{name}"), repeats, name, is_reg, is_validation, tuple(images))


def planned(*subsets: Subset, **training: Any) -> StepPlan:
    config = RunConfig.model_validate({"training": training})
    return plan_steps(Scan(subsets, (), []), BucketGrid.from_table(config.dataset), config)


@pytest.mark.parametrize(
    ("subsets", "batch_size", "batches"),
    [
        ([subset([20], 10)], 2, 100),
        ([subset([7, 13], 10)], 2, 100),
        ([subset([5, 5, 5], 1)], 4, 6),
        ([subset([20], 10), subset([50], 1, is_reg=True, name="r")], 2, 200),
        ([subset([20], 10), subset([500], 1, is_reg=True, name="r")], 2, 200),
    ],
)
def test_kohyas_examples(subsets: list[Subset], batch_size: int, batches: int) -> None:
    assert planned(*subsets, train_batch_size=batch_size).batches_per_epoch == batches


@pytest.mark.parametrize(
    ("training", "updates", "epochs", "steps"),
    [
        ({"max_train_steps": 1600}, 100, 16, 1600),
        ({"max_train_steps": 1601}, 100, 17, 1601),
        ({"max_train_epochs": 3}, 100, 3, 300),
        ({"max_train_epochs": 3, "gradient_accumulation_steps": 3}, 34, 3, 102),
        ({"max_train_epochs": 2, "num_processes": 3}, 34, 2, 68),
        ({"max_train_epochs": 2, "num_processes": 3, "gradient_accumulation_steps": 4}, 9, 2, 18),
        ({"max_train_steps": 50, "gradient_accumulation_steps": 2}, 50, 1, 50),
    ],
)
def test_steps_and_epochs(training: dict[str, int], updates: int, epochs: int, steps: int) -> None:
    plan = planned(subset([20], 10), train_batch_size=2, **training)
    assert (plan.updates_per_epoch, plan.epochs, plan.max_train_steps) == (updates, epochs, steps)


@pytest.mark.parametrize(
    ("repeats", "target", "balanced"),
    [
        ([1, 1, 1], 7, [3, 2, 2]),
        ([2, 2, 2], 3, [2, 2, 0]),
        ([5], 3, [5]),
        ([1, 1, 1, 1], 2, [1, 1, 0, 0]),
        ([], 5, []),
        ([3, 1], 6, [4, 2]),
    ],
)
def test_regularization_is_balanced_as_kohya_does(repeats: list[int], target: int, balanced: list[int]) -> None:
    assert balance(repeats, target) == balanced


def test_counts_that_go_into_the_metadata() -> None:
    plan = planned(
        subset([3, 2], 4), subset([2], 3, is_reg=True, name="r"), subset([4], 1, is_validation=True, name="v"),
        train_batch_size=3,
    )  # fmt: skip
    assert (plan.num_train_images, plan.num_reg_images, plan.items) == (20, 6, 40)
    assert plan.buckets == ((512, 512, 32), (640, 384, 8))
    assert plan.batches_per_epoch == 11 + 3
    # 3 and 2 square images without error, two of 768x512 in 640x384
    assert plan.mean_img_ar_error == pytest.approx(2 * (640 / 384 - 1.5) / 7)


def test_the_arithmetic_in_words() -> None:
    plan = planned(subset([10, 7, 3, 2, 1], 17), train_batch_size=2, max_train_steps=1600)
    assert plan.lines() == [
        "23 images × 17 repeats = 391 items",
        "391 items in 5 buckets → 197 batches of 2 (3 not full) → 197 steps an epoch",
        "1600 steps = 9 epochs (the last one ends after 24 steps)",
    ]
    plan = planned(
        subset([20], 10, name="fox"), subset([50], 1, is_reg=True, name="dog"),
        train_batch_size=2, max_train_epochs=1, num_processes=2, gradient_accumulation_steps=2,
    )  # fmt: skip
    assert plan.lines() == [
        "fox: 20 images × 10 repeats = 200 items",
        "dog: 50 regularization images × 1 repeat = 50",
        "regularization: 50 cycled to match 200 training items",
        "200 + 200 = 400 items",
        "400 items in 1 bucket → 200 batches of 2 → 50 steps an epoch (2 processes, 2 batches a step)",
        "Each step trains up to 8 images (2 processes × 2 × 2). A learning rate that was chosen for one process is "
        "safe here, but learns less per epoch; Adam allows up to 1.4 times that rate.",
        "1 epoch × 50 steps = 50 steps",
    ]


def test_surplus_and_enlargement_are_reported() -> None:
    plan = planned(subset([20], 10), subset([500], 1, is_reg=True, name="r"))
    assert "regularization: the first 200 of 500 used, to match the training items" in plan.lines()
    config = RunConfig.model_validate({"dataset": {"bucket_no_upscale": True}})
    sliver = Subset(Path("/x"), 1, "", False, False, (ImageInfo(Path("/x/a.png"), 600, 40, "PNG"),))
    plan = plan_steps(Scan((sliver, subset([3], 1)), (), []), BucketGrid.from_table(config.dataset), config)
    assert plan.lines()[-1] == "1 image narrower than one bucket step enlarged, in spite of dataset.bucket_no_upscale"


def test_nothing_to_train_on_is_reported() -> None:
    with refused("no-images"):
        planned(subset([], 1))


def items_of(*subsets: Subset) -> list[Any]:
    return make_items(Scan(subsets, (), []), BucketGrid.from_table(RunConfig().dataset))


def test_items_carry_subset_and_caption() -> None:
    bare = Subset(Path("/x"), 2, "tokens", False, False, (ImageInfo(Path("/x/a.png"), 512, 512, "PNG"),))
    items = items_of(subset([1], 2), bare, subset([1], 1, is_reg=True, name="r"))
    assert [item.text for item in items] == ["s, b0, n0"] * 2 + ["tokens"] * 2 + ["r, b0, n0"] * 4
    assert [item.subset_index for item in items] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [item.is_reg for item in items] == [False] * 4 + [True] * 4
    validation = subset([2], 1, is_validation=True)
    assert (
        len(validation_items(Scan((subset([1], 5), validation), (), []), BucketGrid.from_table(RunConfig().dataset)))
        == 2
    )


def test_an_epoch_has_every_item_once_in_batches_of_one_bucket() -> None:
    items = items_of(subset([7, 5, 1], 3))
    batches = epoch_batches(items, 4, seed=7, epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(39))
    assert all(len({items[index].placement.bucket for index in batch}) == 1 for batch in batches)
    assert len(batches) == 6 + 4 + 1
    assert batches == epoch_batches(items, 4, seed=7, epoch=1)
    assert batches != epoch_batches(items, 4, seed=7, epoch=2) != epoch_batches(items, 4, seed=8, epoch=2)


def test_the_order_is_pinned() -> None:
    # golden: a resume on another machine must continue in the same order
    assert epoch_batches(items_of(subset([3, 3], 1)), 2, seed=42, epoch=1) == [[1], [4], [3, 5], [2, 0]]
    assert [is_flipped(42, 1, index) for index in range(8)] == [True, True, False, False, False, True, False, True]


def test_updates_before_a_batch() -> None:
    shared = {"num_processes": 3, "gradient_accumulation_steps": 4}
    plan = planned(subset([20], 10), train_batch_size=2, max_train_epochs=2, **shared)
    assert [updates_before(plan, 1, position) for position in (0, 11, 12, 99)] == [0, 0, 1, 8]
    assert updates_before(plan, 2, 0) == 9


def test_all_captions_of_a_run_are_known_before_it() -> None:
    subsets = (subset([4, 3], 2),)
    items = items_of(*subsets)
    plan = planned(*subsets, train_batch_size=2, max_train_steps=19)
    assert len(run_captions(items, CaptionRules(), plan, seed=1)) == 7
    rules = CaptionRules(shuffle_caption=True, caption_dropout_rate=0.1, token_warmup_step=0.5)
    expected = run_captions(items, rules, plan, seed=1)
    assert len(expected) == len(set(expected)) and "" in expected
    captions, step = set(), 0
    for epoch in range(1, plan.epochs + 1):
        for batch in epoch_batches(items, 2, seed=1, epoch=epoch):
            if step == plan.max_train_steps:
                break
            captions |= {item_caption(items[i], i, rules, plan, seed=1, epoch=epoch, step=step) for i in batch}
            step += 1
    assert step == 19 and captions == set(expected)


def test_epochs_that_make_more_steps_than_a_run_can_have_are_refused() -> None:
    with refused("length-too-long"):
        planned(subset([100], 1), max_train_epochs=200_000)
