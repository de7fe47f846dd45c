"""When a loss is not a number: skip, go back once, then stop with a diagnosis."""

from __future__ import annotations

from engine.exit_codes import ExitCode
from engine.training.recovery import Recovery
from tests.refusals import refused


def test_three_in_a_row_go_back_once_and_then_stop() -> None:
    recovery = Recovery()
    assert [recovery.count_bad(), recovery.count_bad()] == [False, False]
    recovery.count_good()
    assert [recovery.count_bad(), recovery.count_bad(), recovery.count_bad()] == [False, False, True]
    recovery.roll_back("fp16", {"unet": 1e-4})
    assert (recovery.in_a_row, recovery.halvings) == (0, 1)
    with refused("loss-not-finite", "unet 0.0001", "fp16") as caught:
        recovery.roll_back("fp16", {"unet": 1e-4})
    assert caught.value.exit_code == ExitCode.TRAINING_FAILED


def test_the_scaler_may_search_for_a_while_but_not_for_ever() -> None:
    recovery = Recovery()
    assert all(recovery.count_overflow(False) for _ in range(20))
    assert not recovery.count_overflow(False)
    assert recovery.count_overflow(True)
    assert recovery.count_overflow(False)
