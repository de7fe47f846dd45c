"""A card that spills is distinguished from one that is just slow."""

from engine.oom.spill import IN_A_ROW, MIN_STEPS, SpillWatch

GIB = 2**30


def watch(free: int) -> SpillWatch:
    return SpillWatch(lambda: (free, 8 * GIB))


def test_slow_steps_on_a_full_card() -> None:
    seen = watch(GIB // 10)
    assert not any(seen.slow_step_warning(1.0) for _ in range(MIN_STEPS))
    warnings = [seen.slow_step_warning(9.0) for _ in range(IN_A_ROW)]
    assert warnings[:-1] == [None] * (IN_A_ROW - 1)
    assert warnings[-1] is not None and warnings[-1].startswith(
        "Steps take 9.0 s instead of 1.0 s while the card is full"
    )


def test_slow_steps_with_room_left_are_something_else() -> None:
    seen = watch(GIB)
    assert not any(seen.slow_step_warning(1.0) for _ in range(MIN_STEPS))
    assert not any(seen.slow_step_warning(9.0) for _ in range(2 * IN_A_ROW))


def test_one_slow_step_and_the_first_ones_do_not_count() -> None:
    seen = watch(0)
    assert not any(
        seen.slow_step_warning(seconds) for seconds in (20.0, 20.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 9.0)
    )
