"""Another batch size in the middle of a run: it continues at the same fraction of the same epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.dataset.arithmetic import StepPlan

PLAN = StepPlan(
    subsets=(), num_train_images=0, num_reg_images=0, items=0, buckets=(), batch_size=1, num_processes=1,
    gradient_accumulation_steps=1, batches_per_epoch=0, updates_per_epoch=0, epochs=0, max_train_steps=0,
    by_epochs=True, num_enlarged=0, mean_img_ar_error=0.0,
)  # fmt: skip


def plan(updates: int, epochs: int) -> StepPlan:
    return replace(PLAN, updates_per_epoch=updates, epochs=epochs, max_train_steps=updates * epochs)


def by_steps(updates: int, steps: int) -> StepPlan:
    return replace(PLAN, updates_per_epoch=updates, by_epochs=False, max_train_steps=steps, epochs=-(-steps // updates))


def test_as_many_updates_change_nothing() -> None:
    assert plan(10, 5).continued(37, 10, 0) == plan(10, 5)


def test_fewer_updates_an_epoch() -> None:
    """Step 55 of 10 an epoch is the middle of epoch 6; with 8 an epoch four of its updates are done."""
    now = plan(8, 10).continued(55, 10, 0)
    assert now.place(55) == (6, 4)
    assert now.max_train_steps == 55 + 4 + 4 * 8 and now.epochs == 10
    assert now.place(now.max_train_steps - 1) == (10, 7) and now.place(now.max_train_steps) == (11, 0)


def test_at_an_epochs_end_the_next_one_begins() -> None:
    now = plan(8, 10).continued(50, 10, 0)
    assert now.place(50) == (6, 0) and now.max_train_steps == 50 + 5 * 8


def test_an_epoch_does_not_end_twice() -> None:
    """Step 51 of 10 an epoch is a tenth of epoch 6, less than one of 8 updates: its first counts as done."""
    assert plan(8, 10).continued(51, 10, 0).place(51) == (6, 1)


def test_before_the_first_step_nothing_moves() -> None:
    assert plan(8, 10).continued(0, 10, 0) == plan(8, 10)


def test_changed_twice() -> None:
    once = plan(8, 10).continued(55, 10, 0)
    twice = plan(20, 10).continued(59, 8, once.shift)
    assert twice.place(59) == (7, 0), "four of 8 after the middle of epoch 6"
    assert twice.max_train_steps == 59 + 4 * 20


@pytest.mark.parametrize("updates", [1, 2, 3, 7, 10, 24, 1000])
@pytest.mark.parametrize("before", [1, 3, 10, 24])
def test_no_step_is_lost_and_none_comes_twice(before: int, updates: int) -> None:
    total = before * 6
    for step in range(total + 1):
        now = plan(updates, 6).continued(step, before, 0)
        epoch, inside = now.place(step)
        old_epoch, old_inside = divmod(step, before)
        assert now.max_train_steps >= step and now.continued(step, updates, now.shift) == now
        assert abs((epoch - 1 + inside / updates) - (old_epoch + old_inside / before)) <= 1 / updates
        assert (inside == 0) <= (old_inside == 0 or updates == 1)


def test_a_length_in_steps_stays() -> None:
    now = by_steps(8, 100).continued(55, 10, 0)
    assert now.max_train_steps == 100 and now.place(55) == (6, 4)
    assert now.epochs == now.place(99)[0] == 12
