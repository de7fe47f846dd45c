"""Settings in Kohya's format, "key=value", and the parser of their values.

Python's, TOML's and the shell's spellings mean the same: True, true, TRUE, "true", 1; None, none, null; (0.9, 0.99),
[0.9, 0.99], 0.9,0.99.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from engine.errors import UsageError
from engine.text import printable

_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NOTHING = frozenset({"none", "null"})
_LONGEST = 1000
"""Characters of a value; one number or a few need no more."""


class _NotAllowed(ValueError):
    """A value of the right type that is not one of the choices, or out of range."""


@dataclass(frozen=True)
class Parameter:
    """The values that a setting can have."""

    kind: str
    """"flag", "integer", "number", "numbers:N" or "text"."""
    optional: bool = False
    """None is allowed too."""
    infinite: bool = False
    choices: tuple[Any, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    each: tuple[Mapping[str, float], ...] = ()
    """Of "numbers:N": the limits of each of them."""

    @property
    def count(self) -> int:
        """N of "numbers:N"."""
        return int(self.kind.partition(":")[2])

    def expected(self) -> str:
        """What is allowed, in words: "a number from 0 on"."""
        if self.choices:
            words = " or ".join(map(str, self.choices))
        elif self.kind.startswith("numbers"):
            inner = {_range(limits) for limits in self.each}
            words = f"{self.count} numbers{inner.pop() if len(inner) == 1 else ''}, as 0.9,0.99"
            if inner:
                words = f"{self.count} numbers ({', '.join('any' + _range(limits) for limits in self.each)})"
        else:
            names = {"flag": "True or False", "integer": "a whole number", "number": "a number", "text": "text"}
            words = names[self.kind] + _range(self.limits)
        return f"{words}, or None" if self.optional else words

    @property
    def limits(self) -> dict[str, float]:
        """Its limits by name."""
        limits = {name: getattr(self, name) for name in ("ge", "gt", "le", "lt")}
        return {name: value for name, value in limits.items() if value is not None}


def _range(limits: Mapping[str, float]) -> str:
    words = {"ge": "from {:g} on", "gt": "above {:g}", "le": "up to {:g}", "lt": "below {:g}"}
    return "".join(f" {words[name].format(limits[name])}" for name in words if name in limits)


def split_arguments(arguments: Sequence[str], where: str) -> dict[str, str]:
    """The texts by key; the last of two with one key counts, as in Kohya's scripts.

    Raises:
        UsageError: one has no "=" or no key.
    """
    texts: dict[str, str] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        hint = 'Write "key=value", and several numbers without blanks: "betas=0.9,0.99".'
        if not equals:
            raise UsageError(f"{where}: {printable(text)!r} has no value.", hint, code="argument-without-value")
        if not key.strip():
            raise UsageError(f"{where}: {printable(text)!r} has no key.", hint, code="argument-without-key")
        texts[key.strip()] = value.strip()
    return texts


def read_settings(
    arguments: Sequence[str], parameters: Mapping[str, Parameter], where: str, owner: str
) -> tuple[dict[str, Any], list[UsageError]]:
    """The settings with parsed values, and all errors.

    Args:
        arguments: in Kohya's format.
        parameters: of `owner`.
        where: the key of the configuration, "training.optimizer_args".
        owner: to which the settings belong: "AdamW".
    """
    try:
        texts = split_arguments(arguments, where)
    except UsageError as error:
        return {}, [error]
    errors = []
    strange = [key for key in texts if key not in parameters]
    if strange:
        near = [match for key in strange for match in difflib.get_close_matches(key, parameters, n=1)]
        takes = f"It takes: {', '.join(parameters)}." if parameters else "It takes none."
        hint = f"Did you mean {' and '.join(dict.fromkeys(near))}? {takes}" if near else takes
        names = ", ".join(map(printable, strange))
        errors.append(
            UsageError(f"{where}: {owner} does not take these settings: {names}.", hint, code="argument-unknown")
        )
    values: dict[str, Any] = {}
    for key in texts.keys() & parameters.keys():
        try:
            values[key] = read_value(texts[key], parameters[key])
        except ValueError as error:
            errors.append(_refusal(f"{where}: {key}={printable(texts[key][:_LONGEST])}", key, parameters[key], error))
    return {key: values[key] for key in texts if key in values}, errors


def _refusal(setting: str, key: str, parameter: Parameter, error: ValueError) -> UsageError:
    hint = f"Change {key}, or remove it."
    if isinstance(error, _NotAllowed):
        return UsageError(f"{setting} is not valid: enter {parameter.expected()}.", hint, code="argument-not-allowed")
    if parameter.kind == "number" and "," in setting:
        hint = "A point is the decimal mark."
    return UsageError(f"{setting} is not valid: enter {parameter.expected()}.", hint, code="argument-wrong-type")


def parse_arguments(arguments: Sequence[str], where: str) -> dict[str, Any]:
    """The settings of an unknown class, with types guessed from the text (`guess_value`).

    Raises:
        UsageError: one has no "=" or no key.
    """
    return {key: guess_value(text) for key, text in split_arguments(arguments, where).items()}


def read_value(text: str, parameter: Parameter) -> Any:
    """Parse the value of a setting.

    Raises:
        ValueError: of another type, or not allowed.
    """
    bare = _unquoted(text)
    if len(bare) > _LONGEST:
        raise ValueError("too long")
    if bare.lower() in _NOTHING and parameter.optional:
        return None
    value = _typed(bare, parameter)
    if parameter.choices and value not in parameter.choices:
        raise _NotAllowed("not one of the choices")
    limits = parameter.each if parameter.kind.startswith("numbers") else (parameter.limits,)
    numbers = value if isinstance(value, tuple) else (value,)
    if parameter.kind not in ("flag", "text"):
        for number, range_ in zip(numbers, limits, strict=False):
            if not _within(number, range_):
                raise _NotAllowed("out of range")
    return value


def guess_value(text: str) -> Any:
    """Guess the value of an unknown setting: a flag, None, a number, several numbers, or else text."""
    bare = _unquoted(text)
    if bare.lower() in _NOTHING:
        return None
    if bare.lower() in ("true", "false"):
        return bare.lower() == "true"
    for kind in ("number", f"numbers:{bare.strip('()[] ').removesuffix(',').count(',') + 1}"):
        try:
            return read_value(bare, Parameter(kind))
        except ValueError:
            continue
    return bare


def _typed(bare: str, parameter: Parameter) -> Any:
    if parameter.kind == "flag":
        if bare.lower() not in _FLAGS:
            raise ValueError("not a flag")
        return _FLAGS[bare.lower()]
    if parameter.kind == "text":
        if not bare:
            raise ValueError("empty")
        return bare
    if parameter.kind.startswith("numbers"):
        inner = bare[1:-1] if bare[:1] + bare[-1:] in ("()", "[]") else bare
        parts = inner.strip().removesuffix(",").split(",")
        if len(parts) != parameter.count:
            raise ValueError("another number of values")
        return tuple(_number(_unquoted(part), parameter) for part in parts)
    number = _number(bare, parameter)
    if parameter.kind == "integer":
        if number != int(number):
            raise ValueError("not whole")
        return int(number)
    return number


def _number(text: str, parameter: Parameter) -> int | float:
    """A number as it is written: 1 stays an integer, as metadata contain it."""
    bare = text.strip()
    number = float(bare)
    if math.isnan(number) or (math.isinf(number) and not parameter.infinite):
        raise ValueError("not finite")
    is_integer = bare.lstrip("+-").replace("_", "").isdecimal() and abs(number) < 2**63
    return int(bare) if is_integer else number


def _within(number: float, limits: Mapping[str, float]) -> bool:
    tests = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
    return all(tests[name](float(number), float(limit)) for name, limit in limits.items())


def _unquoted(text: str) -> str:
    """The text without surrounding blanks and one pair of quotation marks."""
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        return bare[1:-1].strip()
    return bare


def is_off(text: str) -> bool:
    """Whether a text means nothing, None, False or 0, in any spelling."""
    bare = _unquoted(text).lower()
    return not bare or bare in _NOTHING or _FLAGS.get(bare) is False or bare == "0.0"


def number_text(number: float) -> str:
    """A number that reads back as the same, without an exponent, which Kohya's scripts do not read in a prompt, and
    without needless zeros: 8, 0.00001."""
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
