"""When a run is measured, and within which share of its time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan
from engine.results.check_plan import CheckPlan, CheckScope, compared_images, compared_samples, plan_checks, saved_steps

PLAN = StepPlan((), 100, 0, 100, ((512, 512, 100),), 1, 1, 1, 100, 100, 10, 1000, True, 0, 0.0)
"""Ten epochs of 100 steps with one image each."""


def config(**keys: Any) -> RunConfig:
    """`config(training__max_check_share=0.1)`"""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in keys.items():
        table, _, key = name.partition("__")
        tables.setdefault(table, {})[key] = value
    return RunConfig().changed(**tables)


@pytest.mark.parametrize(
    ("settings", "shift", "expected"),
    [
        ({"saving__save_every_n_epochs": 5}, 0, [500, 1000]),
        ({"saving__save_every_n_epochs": 0}, 0, [1000]),
        ({"saving__save_every_n_epochs": 5}, 30, [470, 970, 1000]),
        ({"saving__save_every_n_epochs": 0, "saving__save_every_n_steps": 300}, 0, [300, 600, 900, 1000]),
        ({"saving__save_every_n_epochs": 4, "saving__save_every_n_steps": 500}, 0, [400, 500, 800, 1000]),
    ],
)
def test_every_saved_file(settings: dict[str, Any], shift: int, expected: list[int]) -> None:
    assert saved_steps(config(**settings), replace(PLAN, shift=shift)) == expected


@pytest.mark.parametrize("share", [0.001, 0.01, 0.03, 0.1, 0.5])
@pytest.mark.parametrize("every", [1, 2, 5])
@pytest.mark.parametrize("validation", [0, 2, 4])
def test_the_share_is_kept_or_there_is_one_check_at_the_end(share: float, every: int, validation: int) -> None:
    settings = config(training__max_check_share=share, saving__save_every_n_epochs=every)
    plan = plan_checks(settings, PLAN, validation=validation, training=4)
    assert plan is not None and 1000 in plan.steps
    assert plan.share <= share or plan.steps == {1000}
    assert f"{plan.share * 100:.1f} %" in plan.text


def test_more_time_buys_images_timesteps_and_checks() -> None:
    plans = [
        plan_checks(config(training__max_check_share=share), PLAN, validation=4, training=4)
        for share in (0.02, 0.05, 0.2, 0.9)
    ]
    sizes = [(len(plan.steps), plan.scope.validation * plan.scope.points) for plan in plans if plan]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == (10, 16)


def test_images_that_the_user_chose_are_all_measured() -> None:
    settings = config(dataset__validation_split=0.5)
    plan = plan_checks(settings, PLAN, validation=50, training=4)
    assert plan is not None and (plan.scope.validation, plan.scope.points) == (50, 4)


def test_a_share_of_nothing_leaves_only_what_the_user_chose() -> None:
    assert plan_checks(config(training__max_check_share=0), PLAN, validation=4, training=4) is None
    own = config(training__max_check_share=0, dataset__validation_split=0.1)
    expected = CheckPlan(CheckScope(4, 0, 4, 0), frozenset(), 11 * 4 * 4, 11 * 4 * 4 / 3000, 0.0)
    assert plan_checks(own, PLAN, validation=4, training=4) == expected


def test_a_share_of_one_measures_every_file() -> None:
    short = replace(PLAN, max_train_steps=10, epochs=1)
    plan = plan_checks(
        config(training__max_check_share=1, saving__save_every_n_steps=2), short, validation=4, training=4
    )
    assert plan is not None and plan.steps == {2, 4, 6, 8, 10} and plan.share > 1


def test_checkpointing_makes_steps_dearer_and_checks_relatively_cheaper() -> None:
    settings = {"training__max_check_share": 0.9}
    plain, cheap = (
        plan_checks(config(**settings, memory__gradient_checkpointing=on), PLAN, validation=4, training=4)
        for on in (False, True)
    )
    assert plain and cheap and cheap.share == pytest.approx(plain.share * 3 / 4)


@pytest.mark.parametrize(("share", "is_beyond"), [(0.0001, True), (0.5, False), (1.0, False)])
def test_a_share_that_is_too_small_for_one_measurement_is_explained(share: float, is_beyond: bool) -> None:
    plan = plan_checks(config(training__max_check_share=share), PLAN, validation=4, training=4)
    assert plan is not None and ("always measured at least once" in plan.text) == is_beyond


@pytest.mark.parametrize(("share", "expected"), [(0.9, 16), (0.35, 8), (0.15, 4), (0.1, 2), (0.05, 0)])
def test_samples_of_everyday_prompts_are_a_part_of_the_share(share: float, expected: int) -> None:
    settings = {"saving__save_every_n_epochs": 10, "training__max_check_share": share}
    plan = plan_checks(config(**settings), replace(PLAN, max_train_steps=300), validation=4, training=4)
    assert plan is not None and plan.scope.everyday == expected and plan.share <= share
    assert ("everyday sample" in plan.text) == bool(expected)


@pytest.mark.parametrize(
    ("share", "passes", "expected"),
    [
        (0.0, [56] * 4, 0), (1.0, [1] * 4, 4), (0.03, [56] * 4, 4), (0.03, [40] * 4, 3), (0.03, [28] * 4, 2),
        (0.001, [56] * 4, 1), (0.03, [], 0), (0.5, [56] * 4, 4),
    ],
)  # fmt: skip
def test_samples_are_compared_within_the_share_of_their_drawing(share: float, passes: list[int], expected: int) -> None:
    assert compared_samples(share, passes) == expected


@pytest.mark.parametrize(
    ("share", "images", "cached", "expected"),
    [
        (0.03, 20, True, 20), (0.03, 5000, True, 300), (1.0, 5000, False, 300), (0.03, 5000, False, 30),
        (0.03, 20, False, 20), (0.0001, 20, False, 2), (0.03, 1, False, 1),
    ],
)  # fmt: skip
def test_training_images_are_encoded_within_the_share_of_the_run(
    share: float, images: int, cached: bool, expected: int
) -> None:
    assert compared_images(share, PLAN, images, cached=cached) == expected
