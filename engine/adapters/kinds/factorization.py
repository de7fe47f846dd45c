"""How LyCORIS splits the side of a layer into two numbers (LyCORIS 4.1 `functional/general.py`). Loads no torch."""

from __future__ import annotations


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two numbers whose product is `dimension`, the smaller one first.

    Args:
        factor: a divisor is one of the two; of another number the largest divisor up to it is, as long as that makes
            the split more even. Below 0: without limit.
    """
    if factor > 0 and dimension % factor == 0:
        other = dimension // factor
        return min(factor, other), max(factor, other)
    limit = dimension if factor < 0 else factor
    small, large = 1, dimension
    while small < large:
        divisor = next(number for number in range(small + 1, dimension + 1) if dimension % number == 0)
        if divisor > limit:
            break
        small, large = divisor, dimension // divisor
    return min(small, large), max(small, large)


def butterfly_factorization(dimension: int, largest: int) -> tuple[int, int] | None:
    """An even number up to `largest`, and the power of two that it has to be multiplied by to give `dimension`: the
    largest such number; None if there is none."""
    sides = (side for side in range(largest - largest % 2, 1, -2) if dimension % side == 0)
    return next(((side, dimension // side) for side in sides if (dimension // side).bit_count() == 1), None)
