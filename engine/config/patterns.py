"""Regular expressions of a user, matched in time that grows with the length of a name, never exponentially.

Python's `re` tries one alternative after the other: "(a+)+$" takes hours on a name of 60 letters. Here all alternatives
are followed at once, as a set of states (Thompson 1968). What cannot be matched so (look-around, references to groups)
is refused.
"""

from __future__ import annotations

import re
import string
import warnings
from dataclasses import dataclass, field
from functools import lru_cache

LONGEST = 200
"""Characters of a pattern."""
_MOST_STATES, _MOST_KNOWN = 4000, 20_000
_UNLIMITED = 10**9
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_WORD = frozenset(string.ascii_letters + string.digits + "_")
START, END, EDGE = 1, 2, 4
"""Places in a name: before the first character, behind the last, at an end of a word."""
_ASSERTIONS = {"^": START, "$": END, r"\A": START, r"\Z": END, r"\b": EDGE}
_ALPHABET = tuple(map(chr, range(32, 127)))
"""The characters of names of layers."""

_Node = tuple[str, object]
"""("set", characters), ("assert", place), ("all", nodes), ("any", nodes) or ("repeat", (node, least, most))."""


@lru_cache(1000)
def compiled(text: str) -> Pattern:
    """The pattern that `text` describes.

    Raises:
        ValueError: it is too long, invalid, or needs what is not supported.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a regular expression of up to {LONGEST} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"a regular expression; {text!r} is none ({error})") from None
    return Pattern(_Parser(text).parsed())


class Pattern:
    """A pattern that is searched in names."""

    def __init__(self, node: _Node) -> None:
        self._states: list[_State] = []
        self._end = self._state()
        self._start = self._built(node, self._end)
        self._has_edges = any(condition == EDGE for state in self._states for condition, _ in state.free)
        self._known: dict[tuple[frozenset[int], int, str], frozenset[int] | None] = {}
        self.is_in = lru_cache(_MOST_KNOWN)(self._is_in)
        """Whether a part of a name matches, as `re.search`."""

    def _is_in(self, name: str) -> bool:
        active: frozenset[int] | None = frozenset()
        before = ""
        for place, here in enumerate((*name, "")):
            conditions = (START if place == 0 else 0) | (END if not here else 0)
            if self._has_edges and (before in _WORD) != (here in _WORD):
                conditions |= EDGE
            assert active is not None
            key = (active, conditions, here)
            active = self._known[key] if key in self._known else self._step(*key)
            if active is None:
                return True
            before = here
        return False

    def _step(self, active: frozenset[int], conditions: int, here: str) -> frozenset[int] | None:
        """The states behind the character `here`; None where the pattern ends before it."""
        reached = {*active, self._start}
        waiting = list(reached)
        while waiting:
            for condition, state in self._states[waiting.pop()].free:
                if state not in reached and condition & conditions == condition:
                    reached.add(state)
                    waiting.append(state)
        after = frozenset(self._states[state].after for state in reached if here in self._states[state].characters)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[active, conditions, here] = None if self._end in reached else after
        return self._known[active, conditions, here]

    def _state(self) -> int:
        if len(self._states) >= _MOST_STATES:
            raise ValueError("a regular expression with fewer repetitions")
        self._states.append(_State())
        return len(self._states) - 1

    def _built(self, node: _Node, after: int) -> int:
        """The first state of `node`, which continues at the state `after`."""
        kind, value = node
        if kind == "all":
            for part in reversed(value):  # type: ignore[call-overload]
                after = self._built(part, after)
            return after
        if kind == "repeat":
            return self._repeated(*value, after)  # type: ignore[misc]
        state = self._state()
        if kind == "set":
            self._states[state].characters, self._states[state].after = value, after  # type: ignore[assignment]
        elif kind == "assert":
            self._states[state].free.append((int(value), after))  # type: ignore[call-overload]
        else:
            starts = [self._built(part, after) for part in value]  # type: ignore[attr-defined]
            self._states[state].free += [(0, start) for start in starts]
        return state

    def _repeated(self, node: _Node, least: int, most: int, after: int) -> int:
        if most == _UNLIMITED:
            loop = self._state()
            self._states[loop].free += [(0, self._built(node, loop)), (0, after)]
            after = loop
        for _ in range(0 if most == _UNLIMITED else most - least):
            choice = self._state()
            self._states[choice].free += [(0, self._built(node, after)), (0, after)]
            after = choice
        for _ in range(least):
            after = self._built(node, after)
        return after


@dataclass
class _State:
    characters: frozenset[str] = frozenset()
    after: int = -1
    """The next state behind one of them."""
    free: list[tuple[int, int]] = field(default_factory=list)
    """Further next states, without a character: (what must hold, state)."""


class _Parser:
    """Reads an expression that `re` accepts."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0

    def parsed(self) -> _Node:
        """The whole expression."""
        return self._alternatives()

    def _alternatives(self) -> _Node:
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else ("any", parts)

    def _sequence(self) -> _Node:
        parts = []
        while self.place < len(self.text) and self.text[self.place] not in "|)":
            parts.append(self._quantified(self._atom()))
        return ("all", parts)

    def _atom(self) -> _Node:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise ValueError(
                    "a regular expression without look-around, flags and named groups, which begin with (?"
                )
            inner = self._alternatives()
            self._take(")")
            return inner
        token = self._token()
        if token in _ASSERTIONS:
            return ("assert", _ASSERTIONS[token])
        if re.match(r"\\[B0-9xuUN]", token):
            raise ValueError(f"a regular expression without {token[:2]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ("set", frozenset(filter(re.compile(token).fullmatch, _ALPHABET)))

    def _token(self) -> str:
        """What stands for one character, or for a place."""
        start = self.place
        self.place += 2 if self.text[start] == "\\" else 1
        if self.text[start] == "[":
            self._take("^")
            self._take("]")
            while not self._take("]"):
                self.place += 2 if self.text[self.place] == "\\" else 1
        return self.text[start : self.place]

    def _quantified(self, node: _Node) -> _Node:
        while (counts := self._counts()) is not None:
            if self._take("+"):
                raise ValueError("a regular expression without possessive repetitions")
            self._take("?")
            node = ("repeat", (node, *counts))
        return node

    def _counts(self) -> tuple[int, int] | None:
        for sign, counts in (("*", (0, _UNLIMITED)), ("+", (1, _UNLIMITED)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        match = _COUNT.match(self.text, self.place)
        if match is None or match[0] == "{}":
            return None
        self.place = match.end()
        least = int(match[1] or 0)
        most = (int(match[3]) if match[3] else _UNLIMITED) if match[2] else least
        return least, most

    def _take(self, sign: str) -> bool:
        found = self.text.startswith(sign, self.place)
        self.place += len(sign) if found else 0
        return found
