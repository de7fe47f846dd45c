"""A shell or batch file line by line: what its variables surely hold where a script of Kohya's is called.

Nothing is run. A variable that may have been set or not, as in one branch of an `if`, is not known.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

_COMMENT = re.compile(r"\s*(#|@?rem\b|::|@?echo\b)", re.IGNORECASE)
_WINDOWS = re.compile(r"^\s*@?(echo off|set\s|rem\b|::)|[A-Za-z]:\\|\^\s*$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
_KEYWORD = re.compile(
    r"\s*(?:(if|while|until|for|case|select|elif|else|then|do|fi|done|esac)(?=\s|$)|(?:\(\s*)?[^\s()=]+\)(?=\s|$))"
)
_EXPORT = re.compile(r"\s*(?:export|local|readonly|declare|typeset)\s+(?:-\w+\s+)*")
_BATCH_SET = re.compile(r"\s*@?set\s+\"?([A-Za-z_]\w*)=(.*?)\"?\s*", re.IGNORECASE)
_BATCH_ANY = re.compile(r"\bset\s+(?:/[ap]\s+)?\"?([A-Za-z_]\w*)[-+*/]?=", re.IGNORECASE)
_SHELL_USE = re.compile(r"\$\{(\w+)(?::?[-=]([^}]*))?\}|\$(\w+)")
_LIST_USE = re.compile(r"(\"?)\$\{(\w+)\[[@*]\]\}\1")
_LIST_BEGINS = re.compile(r"(?:\s|\b(?:declare|local|export|readonly|typeset)\b|-a)*\w+\+?=\(")
_ENDING_COMMENT = re.compile(r"(?<!\S)#[^'\"]*$")
_BATCH_USE = re.compile(r"%(\w+)%|%%(?![A-Za-z]\b)")
_CHANGED = re.compile(r"^\s*(?:cd|pushd)\s+(?:/d\s+)?(.+?)\s*(?:[&;|]|$)", re.IGNORECASE)
_FROM_OUTSIDE = ("HOME", "USERPROFILE", "PWD")
"""Variables of the machine that may be put in: those that name a folder, and never what may be a secret."""


def is_comment(line: str) -> bool:
    """Whether a line says nothing to the shell, or only prints."""
    return bool(_COMMENT.match(line))


@dataclass
class ScriptText:
    """A shell or batch file."""

    text: str
    variables: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    folder: str = ""
    """Where it changes to before the call."""
    _blocks: list[set[str]] = field(default_factory=list)
    """Of each open block, the variables that it has set."""

    def __post_init__(self) -> None:
        self.batch = not self.text.startswith("#!") and bool(_WINDOWS.search(self.text))
        self.variables.update({name: os.environ[name] for name in _FROM_OUTSIDE if name in os.environ})

    def lines(self) -> Iterator[str]:
        """Lines that are no comment, those that go on joined."""
        joined = re.sub(r"[\^`][ \t]*\r?\n" if self.batch else r"[\\`][ \t]*\r?\n", " ", self.text)
        whole = ""
        for line in joined.splitlines():
            if is_comment(line):
                continue
            if not self.batch and (whole or _LIST_BEGINS.match(line)):
                whole = f"{whole} {_ENDING_COMMENT.sub('', line).strip()}"
                if not whole.endswith(")"):
                    continue
            yield whole or line
            whole = ""

    def note(self, line: str) -> None:
        """Remember the variables that a line sets, and a change of folder."""
        if match := _CHANGED.match(line):
            self.folder = self.filled(match[1].strip("\"'"))
        for before, statement in self._statements(line):
            if self.batch:
                self._batch_statement(before, statement)
            else:
                self._shell_statement(before, statement)

    def filled(self, text: str) -> str:
        """`text` with the variables that the file sets itself."""
        if self.batch:
            return _BATCH_USE.sub(lambda use: self.variables.get(use[1], use[0]) if use[1] else "%", text)
        return _SHELL_USE.sub(lambda match: self._value(match), text)

    def words(self, text: str, *, parted: bool = True) -> list[str]:
        """Words as the shell would part them, with variables put in. A value's quotation marks are part of it, and on
        Windows a backslash is no escape, and `'` no quotation mark.

        Args:
            parted: blanks in the value of a variable without quotation marks begin a new word, as in a call.

        Raises:
            ValueError: a quotation mark is not closed.
        """
        if not self.batch:
            return shlex.split(self._quoted(text, parted=parted), comments=True)
        lexer = shlex.shlex(self.filled(text), posix=True)
        lexer.whitespace_split, lexer.commenters, lexer.escape, lexer.quotes = True, "", "", '"'
        return list(lexer)

    def _value(self, match: re.Match[str]) -> str:
        return self.variables.get(match[1] or match[3], match[0] if match[2] is None else match[2])

    def _quoted(self, text: str, *, parted: bool) -> str:
        """`text` with variables put in, and in their values everything escaped that the shell would not look at."""
        made, quote, place = [], "", 0
        while place < len(text):
            sign = text[place]
            listed = _LIST_USE.match(text, place) if not quote else None
            if listed is not None and listed[2] in self.lists:
                kept = r"([\\\"'#\s])" if listed[1] else r"([\\\"'#])"
                made.append(" ".join(re.sub(kept, r"\\\1", word) for word in self.lists[listed[2]]))
                place = listed.end()
                continue
            use = _SHELL_USE.match(text, place) if quote != "'" else None
            if use is not None:
                special = r'([\\"])' if quote else r"""([\\"'#])""" if parted else r"""([\\"'#\s])"""
                made.append(re.sub(special, r"\\\1", self._value(use)))
                place = use.end()
                continue
            if sign == "\\" and quote != "'":
                sign = text[place : place + 2]
            elif sign in "\"'" and quote in ("", sign):
                quote = "" if quote else sign
            made.append(sign)
            place += len(sign)
        return "".join(made)

    def _statements(self, line: str) -> Iterator[tuple[str, str]]:
        """The commands of a line, each with the sign before it."""
        signs = re.compile(r"&&|\|\||[&|]" if self.batch else r"&&|\|\||;;|[;&|]|(?<!\S)#.*")
        quote, before, begin, place = "", "", 0, 0
        while place < len(line):
            sign = line[place]
            found = signs.match(line, place) if not quote else None
            if found is not None:
                yield before, line[begin:place]
                before, begin = found[0], found.end()
                place = begin
                continue
            if sign == "\\" and not self.batch and quote != "'":
                place += 1
            elif sign in ('"' if self.batch else "\"'") and quote in ("", sign):
                quote = "" if quote else sign
            place += 1
        yield before, line[begin:]

    def _shell_statement(self, before: str, statement: str) -> None:
        while match := _KEYWORD.match(statement):
            word, statement = match[1], statement[match.end() :]
            if word in ("fi", "done", "esac"):
                self._forget(*(self._blocks.pop() if self._blocks else ()))
            elif word in ("else", "elif", None) and self._blocks:
                self._forget(*self._blocks[-1])
            elif word in ("if", "while", "until", "for", "case", "select"):
                self._blocks.append(set())
            if word in ("for", "select") and (name := re.match(r"\s*(\w+)", statement)):
                self._forget(name[1])
            if word not in ("then", "do", "else", None):
                return
        sure = before not in ("&&", "||")
        exported = _EXPORT.match(statement)
        statement = statement[exported.end() :] if exported else statement.lstrip()
        first = _NAME.match(statement)
        if first is None:
            if name := re.match(r"read\b.*?(\w+)\s*$", statement):
                self._forget(name[1])
            return
        if first[3].startswith("("):
            self._set_list(first[1], first[3].strip(), added=bool(first[2]), sure=sure)
            return
        try:
            parts = [_NAME.fullmatch(word) for word in self.words(statement, parted=False)]
        except ValueError:
            parts = [None]
        assigned = [part for part in parts if part is not None]
        if len(assigned) == len(parts):
            for part in assigned:
                self._set(part[1], part[3], added=bool(part[2]), sure=sure)
        elif "$(" in first[3] or "`" in first[3]:
            self._forget(first[1])  # what another program says

    def _batch_statement(self, before: str, statement: str) -> None:
        stripped = statement.strip()
        if stripped.startswith(")"):
            self._forget(*(self._blocks.pop() if self._blocks else ()))
        if match := _BATCH_SET.fullmatch(statement):
            self._set(match[1], self.filled(match[2].strip()), added=False, sure=before not in ("&&", "||"))
        else:
            self._forget(*_BATCH_ANY.findall(statement))
        if stripped.endswith("("):
            self._blocks.append(set())

    def _set(self, name: str, value: str, *, added: bool, sure: bool) -> None:
        if not sure or (added and name not in self.variables):
            self._forget(name)
            return
        self.variables[name] = self.variables[name] + value if added else value
        if self._blocks:
            self._blocks[-1].add(name)

    def _set_list(self, name: str, value: str, *, added: bool, sure: bool) -> None:
        before = self.lists.get(name) if added else []
        self._forget(name)
        if sure and before is not None and value.endswith(")"):
            with suppress(ValueError):
                self.lists[name] = before + self.words(value[1:-1])

    def _forget(self, *names: str) -> None:
        for name in names:
            self.variables.pop(name, None)
            self.lists.pop(name, None)
        for block in self._blocks[-1:]:
            block.update(names)
