"""When a loss is not a number: skip, go back once, then stop with a diagnosis."""

from __future__ import annotations

import math

import pytest

from engine.exit_codes import ExitCode
from engine.training.recovery import Recovery
from tests.refusals import refused


def test_three_in_a_row_go_back_once_and_then_stop() -> None:
    recovery = Recovery()
    assert [recovery.count_bad(), recovery.count_bad()] == [False, False]
    assert recovery.problem_of(1.0, 1.0, scaled=False) == ""
    assert [recovery.count_bad(), recovery.count_bad(), recovery.count_bad()] == [False, False, True]
    recovery.roll_back("fp16", {"unet": 1e-4})
    assert (recovery.in_a_row, recovery.halvings) == (0, 1)
    with refused("loss-not-finite", "unet 0.0001", "fp16") as caught:
        recovery.roll_back("fp16", {"unet": 1e-4})
    assert caught.value.exit_code == ExitCode.TRAINING_FAILED


@pytest.mark.parametrize(
    ("loss", "norm", "problem"),
    [
        (1.0, 2.0, ""),
        (math.nan, math.nan, "loss nan"),
        (math.inf, 1.0, "loss inf"),
        (1.0, math.inf, "gradient norm inf"),
        (1.0, math.nan, "gradient norm nan"),
    ],
)
def test_what_is_wrong_with_a_step(loss: float, norm: float, problem: str) -> None:
    recovery = Recovery(in_a_row=1)
    assert recovery.problem_of(loss, norm, scaled=False) == problem
    assert recovery.in_a_row == bool(problem)


def test_the_scaler_may_search_for_a_while_but_not_for_ever() -> None:
    recovery = Recovery()
    assert not any(recovery.problem_of(1.0, math.inf, scaled=True) for _ in range(20))
    assert recovery.problem_of(1.0, math.inf, scaled=True) == "gradient norm inf"
    assert recovery.problem_of(1.0, 1.0, scaled=True) == ""
    assert recovery.problem_of(1.0, math.inf, scaled=True) == ""
    assert recovery.problem_of(math.nan, math.inf, scaled=True) == "loss nan"
