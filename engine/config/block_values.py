"""Settings with a value for each block or for named layers, in Kohya's form (facts: sd-scripts `networks/lora.py` and
`networks/lora_flux.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from engine.config.patterns import compiled

LARGEST_RANK = 1024
MOST_NUMBERS = 200
CURVES: Mapping[str, Callable[[int, int], float]] = {
    "cosine": lambda place, length: math.sin(math.pi * ((length - 1 - place) / (length - 1)) / 2),
    "sine": lambda place, length: math.sin(math.pi * (place / (length - 1)) / 2),
    "linear": lambda place, length: place / (length - 1),
    "reverse_linear": lambda place, length: (length - 1 - place) / (length - 1),
    "zeros": lambda place, length: 0.0,
}
"""Name of a curve to its value at a place in a list of that length."""
_Number = TypeVar("_Number", int, float)


def as_text(value: object) -> object:
    """A list as Kohya's text, "1,2,4"; anything else is returned as it is."""
    if isinstance(value, list | tuple) and all(isinstance(item, int | float | str) for item in value):
        return ",".join(str(item) for item in value)
    return value


def ranks(text: str) -> tuple[int, ...]:
    """ "4,8,0": the rank of each block; 0 is none.

    Raises:
        ValueError: another form.
    """
    numbers = _numbers(text, int)
    if any(not 0 <= rank <= LARGEST_RANK for rank in numbers):
        raise ValueError(f"whole numbers from 0 to {LARGEST_RANK}, separated by commas")
    return numbers


def alphas(text: str) -> tuple[float, ...]:
    """ "1,4,0.5": the alpha of each block; 0 is its rank.

    Raises:
        ValueError: another form.
    """
    numbers = _numbers(text, float)
    if any(alpha < 0 for alpha in numbers):
        raise ValueError("numbers from 0 on, separated by commas")
    return numbers


def weights(text: str, length: int = 0) -> tuple[float, ...]:
    """The factors on the learning rate of a row of blocks: numbers, where an empty one is 0, or a curve.

    Args:
        text: "0,0.5,1", "cosine" or "sine+0.25", whose last number is added to each value.
        length: of the curve.

    Raises:
        ValueError: another form.
    """
    name, plus, base = text.strip().partition("+")
    if name.strip() in CURVES:
        added = _number(base, float) if plus else 0.0
        return tuple(CURVES[name.strip()](place, length) + added for place in range(length))
    if "," not in text:
        names = ", ".join(CURVES)
        raise ValueError(f"numbers separated by commas, or a curve ({names}), also with a number as in sine+0.25")
    return plain_weights(text)


def plain_weights(text: str) -> tuple[float, ...]:
    """The same without curves: also a single number.

    Raises:
        ValueError: another form.
    """
    words = [word.strip() or "0" for word in text.split(",")]
    factors = _numbers(",".join(words), float)
    if any(factor < 0 for factor in factors):
        raise ValueError("numbers from 0 on, separated by commas")
    return factors


def fitted(numbers: Sequence[float], length: int) -> tuple[float, ...]:
    """A list of that length: missing values are 1, further ones are left out."""
    return (*numbers[:length], *[1.0] * (length - len(numbers)))


def pairs(text: str, number: type[_Number]) -> dict[str, _Number]:
    """ "attn1=8,ff=0": patterns with their values, the first match counts.

    Raises:
        ValueError: another form, or an invalid pattern.
    """
    values: dict[str, _Number] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        pattern, equals, value = entry.partition("=")
        if not (pattern.strip() and equals):
            raise ValueError("pattern=value, several separated by commas")
        compiled(pattern.strip())
        values[pattern.strip()] = _number(value, number)
        if not 0 <= values[pattern.strip()] <= LARGEST_RANK:
            raise ValueError(f"pattern=value with a value from 0 to {LARGEST_RANK}")
    if not values:
        raise ValueError("pattern=value, several separated by commas")
    return values


def selected(text: str, count: int) -> frozenset[int]:
    """The numbers of the blocks in "all", "none" or "0-3,7,9-11".

    Args:
        count: of the model's blocks.

    Raises:
        ValueError: another form, or a number that no block has.
    """
    words = text.strip()
    if words == "all":
        return frozenset(range(count))
    numbers: set[int] = set()
    for entry in words.split(",") if words not in ("none", "") else ():
        first, dash, last = (part.strip() for part in entry.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError("all, none, or numbers of blocks as in 0-3,7,9-11")
        begin, end = int(first), int(last if dash else first)
        if not begin <= end < count:
            raise ValueError(f"numbers of blocks from 0 to {count - 1}, the lower one of a range first")
        numbers |= set(range(begin, end + 1))
    return frozenset(numbers)


def _numbers(text: str, number: type[_Number]) -> tuple[_Number, ...]:
    words = text.split(",")
    if len(words) > MOST_NUMBERS:
        raise ValueError(f"up to {MOST_NUMBERS} numbers")
    return tuple(_number(word, number) for word in words)


def _number(word: str, number: type[_Number]) -> _Number:
    try:
        value = number(word.strip())
    except ValueError:
        noun = "whole numbers" if number is int else "numbers"
        raise ValueError(f"{noun}, not {word.strip()!r}") from None
    if not math.isfinite(value):
        raise ValueError("finite numbers")
    return value
