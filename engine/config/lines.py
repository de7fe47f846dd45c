"""The line of each key in a TOML or JSON document, for messages.

Neither `tomllib` nor `json` reports the lines of keys. These scanners read documents that one of the two has accepted
already, so they only find keys, in every spelling, and check nothing.
"""

from __future__ import annotations

import bisect
import json.decoder
import re
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]
"""Keys from the top level down, with a number for an index of a list: ("datasets", 0, "subsets", 1, "image_dir")."""

_BLANK = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_SPACES = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[^,\]}#\r\n]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (r'"""(?:\\.|[^\\])*?"""(?!")', r"'''.*?'''(?!')", r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'")
)
_JSON_BLANK = re.compile(r"[ \t\r\n]*")


def toml_lines(text: str) -> dict[KeyPath, int]:
    """Line, from 1, of each table and key of a valid TOML document; a table is where it is first named."""
    return _Toml(text).read()


def json_lines(text: str) -> dict[KeyPath, int]:
    """Line, from 1, of each key of a valid JSON document; of a repeated key the last one, which counts."""
    return _Json(text).read()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[KeyPath, int] = {}
        self._breaks = [match.start() for match in re.finditer("\n", text)]

    def skip(self, pattern: re.Pattern[str]) -> str:
        """Move behind the match of `pattern` here, and return it."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return match[0] if match else ""

    def next_is(self, sign: str) -> bool:
        """Whether the text continues with `sign`; if so, move behind it."""
        if not self.text.startswith(sign, self.at):
            return False
        self.at += len(sign)
        return True

    def line(self) -> int:
        """Number of the current line."""
        return bisect.bisect_left(self._breaks, self.at) + 1


class _Toml(_Scanner):
    def read(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        arrays: dict[KeyPath, int] = {}
        while True:
            self.skip(_BLANK)
            before, line = self.at, self.line()
            if self.next_is("[["):
                table = self._placed(self._key(), arrays)
                arrays[table] = arrays.get(table, -1) + 1
                self._record(table, line)
                table = (*table, arrays[table])
                self._record(table, line)
                self.next_is("]]")
            elif self.next_is("["):
                table = self._placed(self._key(), arrays)
                self._record(table, line)
                self.next_is("]")
            else:
                self._pair(table)
            if self.at == before:
                return self.lines

    def _record(self, path: KeyPath, line: int) -> None:
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], line)

    @staticmethod
    def _placed(key: KeyPath, arrays: dict[KeyPath, int]) -> KeyPath:
        """The full path of a table: arrays of tables in it, except the last part, are replaced by their newest
        member."""
        path: KeyPath = ()
        for part in key:
            if path in arrays:
                path = (*path, arrays[path])
            path = (*path, part)
        return path

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self.skip(_SPACES)
            quoted = self._string()
            parts.append(_unquoted(quoted) if quoted else self.skip(_BARE))
            self.skip(_SPACES)
            if not self.next_is("."):
                return tuple(parts)

    def _string(self) -> str:
        return next((text for pattern in _STRINGS if (text := self.skip(pattern))), "")

    def _pair(self, table: KeyPath) -> None:
        line, key = self.line(), self._key()
        if not self.next_is("="):
            return
        self._record((*table, *key), line)
        self.skip(_SPACES)
        self._value((*table, *key))

    def _value(self, path: KeyPath) -> None:
        if self.next_is("["):
            for number in self._members("]"):
                self._value((*path, number))
        elif self.next_is("{"):
            for _ in self._members("}"):
                self._pair(path)
        elif not self._string():
            self.skip(_PLAIN)

    def _members(self, end: str) -> Iterator[int]:
        number = 0
        while True:
            self.skip(_BLANK)
            before = self.at
            if self.next_is(end):
                return
            yield number
            if self.at == before:
                return
            number += 1


def _unquoted(text: str) -> str:
    import tomllib

    return next(iter(tomllib.loads(f"{text} = 0")))


class _Json(_Scanner):
    def read(self) -> dict[KeyPath, int]:
        self._value(())
        return self.lines

    def _value(self, path: KeyPath) -> None:
        self.skip(_JSON_BLANK)
        if self.next_is("{"):
            while self._more("}"):
                line = self.line()
                key, self.at = json.decoder.scanstring(self.text, self.at + 1)  # type: ignore[attr-defined]
                self.lines[(*path, key)] = line
                self._more(":")
                self._value((*path, key))
        elif self.next_is("["):
            number = 0
            while self._more("]"):
                self._value((*path, number))
                number += 1
        elif self.next_is('"'):
            _, self.at = json.decoder.scanstring(self.text, self.at)  # type: ignore[attr-defined]
        else:
            self.skip(_PLAIN)

    def _more(self, end: str) -> bool:
        """Move to the next member; False after `end`."""
        self.skip(_JSON_BLANK)
        self.next_is(",")
        self.skip(_JSON_BLANK)
        return not self.next_is(end)
