"""Regular expressions of a user, matched in time that grows with the length of a name, never exponentially.

Python's `re` tries one alternative after the other: "(a+)+$" takes hours on a name of 60 letters. Here all alternatives
are followed at once, as a set of states (Thompson 1968). What cannot be matched so (look-around, references to groups)
is refused.
"""

from __future__ import annotations

import re
import string
import warnings
from collections.abc import Sequence
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


@dataclass(frozen=True)
class _Set:
    """One of these characters."""

    characters: frozenset[str]


@dataclass(frozen=True)
class _Place:
    """No character, but a place in the name."""

    condition: int


@dataclass(frozen=True)
class _All:
    """These, one after the other."""

    parts: Sequence[_Node]


@dataclass(frozen=True)
class _Any:
    """One of these."""

    parts: Sequence[_Node]


@dataclass(frozen=True)
class _Repeat:
    """A node several times."""

    node: _Node
    least: int
    most: int


_Node = _Set | _Place | _All | _Any | _Repeat


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
            conditions = (START if place == 0 else 0) | (0 if here else END)
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

    def _state(self, *free: tuple[int, int]) -> int:
        if len(self._states) >= _MOST_STATES:
            raise ValueError("a regular expression with fewer repetitions")
        self._states.append(_State(free=list(free)))
        return len(self._states) - 1

    def _built(self, node: _Node, after: int) -> int:
        """The first state of `node`, which continues at the state `after`."""
        match node:
            case _Set():
                state = self._state()
                self._states[state].characters, self._states[state].after = node.characters, after
                return state
            case _Place():
                return self._state((node.condition, after))
            case _All():
                for part in reversed(node.parts):
                    after = self._built(part, after)
                return after
            case _Any():
                return self._state(*[(0, self._built(part, after)) for part in node.parts])
            case _Repeat():
                return self._repeated(node, after)

    def _repeated(self, repeat: _Repeat, after: int) -> int:
        if repeat.most == _UNLIMITED:
            loop = self._state()
            self._states[loop].free += [(0, self._built(repeat.node, loop)), (0, after)]
            after = loop
        else:
            for _ in range(repeat.most - repeat.least):
                after = self._state((0, self._built(repeat.node, after)), (0, after))
        for _ in range(repeat.least):
            after = self._built(repeat.node, after)
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
        return parts[0] if len(parts) == 1 else _Any(parts)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self.place < len(self.text) and self.text[self.place] not in "|)":
            parts.append(self._quantified(self._atom()))
        return _All(parts)

    def _atom(self) -> _Node:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise ValueError(
                    "a regular expression without look-around, flags and named groups, all of the form (?…"
                )
            inner = self._alternatives()
            self._take(")")
            return inner
        token = self._token()
        if token in _ASSERTIONS:
            return _Place(_ASSERTIONS[token])
        if re.match(r"\\[B0-9xuUN]", token):
            raise ValueError(f"a regular expression without {token[:2]}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Set(frozenset(filter(re.compile(token).fullmatch, _ALPHABET)))

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
            node = _Repeat(node, *counts)
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
        follows = self.text.startswith(sign, self.place)
        self.place += len(sign) if follows else 0
        return follows
