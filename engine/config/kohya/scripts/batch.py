"""A batch file of Windows (cmd): its statements, blocks and variables."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from engine.config.kohya.scripts.script import REST, UNSURE, Command, Script, plain, program

_USE = re.compile(r"%%(?![A-Za-z]\b)|%%[A-Za-z]\b|%\*|%\d|%~[A-Za-z]*\d|%([^%\n:]+)%|%[^%\n:]+:[^%\n]*%|%")
_DELAYED = re.compile(r"!([^!\n\0]+)!")
_SET = re.compile(r'\s*set\s+(?!/)(?:"([^"=]+)=(.*)"[^"]*|([^"=\s][^"=]*)=(.*))', re.IGNORECASE | re.DOTALL)
_SET_ANY = re.compile(r'\bset\s+(?:/[ap]\s+)?"?\s*([^"=\s]+?)\s*[-+*/%&|^]?=', re.IGNORECASE)
_HEAD = re.compile(r"\s*(?:@\s*)?(?:(?:if|for|else)\b|$)", re.IGNORECASE)
_FOR = re.compile(r"\s*for\b.*?\bin\s*", re.IGNORECASE)
_IF = re.compile(
    r"\s*if\s+(?:/i\s+)?(?:not\s+)?(?:/i\s+)?"
    r"(?:(?:exist|defined|errorlevel|cmdextversion)\s+(?:\"[^\"]*\"|\S+)"
    r"|(?:\"[^\"]*\"|[^\s=\"])*\s*(?:==|\s(?:equ|neq|lss|leq|gtr|geq)\s)\s*(?:\"[^\"]*\"|[^\s\"])+)",
    re.IGNORECASE,
)
_DO = re.compile(r"\s*for\b.*?\)\s*do\b", re.IGNORECASE | re.DOTALL)
_ELSE = re.compile(r"\s*else\b", re.IGNORECASE)
_COMMENT = re.compile(r"\s*(?:@\s*)?(?:rem(?:\s|$)|::)", re.IGNORECASE)
_LABEL = re.compile(r"\s*:([^\s:]+)")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_LEADING = " \t@,;="
_REDIRECTION = re.compile(r"\d?(?:>>|>|<)(?:&\d)?")
_FIRST = re.compile(r"\"[^\"]*\"|[^\s(]+")
_PRINTING = re.compile(r"(?:echo|title|rem|prompt)\b|::", re.IGNORECASE)
_CERTAIN = re.compile(r"(?:echo|title|rem|set|cls)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Statement:
    line: int
    text: str
    targets: list[str]
    condition: str
    sure: bool
    """It does not depend on anything before it on its line."""


class BatchScript(Script):
    """A `.bat` or `.cmd` file."""

    joiner = "^"
    comment = ("rem", "::", "@rem")
    windows = True

    def __init__(self, text: str, own_folder: str = "") -> None:
        super().__init__(text, own_folder)
        self.values.setdefault("CD", os.environ.get("PWD", "."))
        self._delayed = False
        self._chain, self._line_condition = "", ""
        self._blocks: list[tuple[int, str]] = []
        """Line and text before each open bracket."""
        self._jumps: list[tuple[int, str, bool]] = []
        self._labels: dict[str, int] = {}

    def read(self) -> None:
        """Read all statements."""
        number = 0
        while number < len(self.lines):
            first, line = number + 1, self.lines[number]
            number += 1
            if _COMMENT.match(line):
                continue
            if label := _LABEL.match(line):
                self._labels.setdefault(label[1].lower(), first)
                continue
            text = self._filled(line)
            while _continues(text) and number < len(self.lines):
                text = text[:-1] + self._filled(self.lines[number])
                number += 1
            self._logical_line(first, text)
        if self._blocks:
            self.refuse(self._blocks[-1][0], f"{self.quoted(self._blocks[-1][0])} is not closed.")
        self._check_jumps()

    def _filled(self, line: str) -> str:
        """A line with `%NAME%` expanded, which cmd does first of all."""

        def put(use: re.Match[str]) -> str:
            if use[0] == "%%":
                return "%"
            if use[0] == "%*":
                return REST
            if use[0].lower() == "%~dp0":
                return self.own_folder(use[0], os.sep)
            value = self.value_of(use[1]) if use[1] else None
            if isinstance(value, str):
                return value
            return self.unsure(use[0], "a percent sign is written %%" if use[0] == "%" else "", name=use[1] or "")

        return _USE.sub(put, line)

    def _logical_line(self, number: int, text: str) -> None:
        """Split a line at operators and brackets, and handle each statement."""
        piece: list[str] = []
        targets: list[str] = []
        self._chain, self._line_condition = "", ""
        place, quoted = 0, False
        while place < len(text):
            sign = text[place]
            if match := UNSURE.match(text, place):
                piece.append(match[0])
                place = match.end()
                continue
            if sign == '"':
                quoted = not quoted
            elif not quoted and sign == "^":
                place += 1
                sign = text[place : place + 1]
            elif not quoted and sign in "&|":
                length = 2 if text.startswith(sign * 2, place) else 1
                self._statement(number, "".join(piece), targets, text[place : place + length])
                piece, targets = [], []
                place += length
                continue
            elif not quoted and (match := _REDIRECTION.match(text, place)) and (sign in "<>" or _at_blank(text, place)):
                place = self._redirection(text, match, targets)
                continue
            elif not quoted and sign == "(" and _HEAD.match("".join(piece[:99])):
                place = self._bracket(number, text, place, piece)
                continue
            elif not quoted and sign == ")" and self._blocks:
                self._statement(number, "".join(piece), targets, "&")
                piece, targets = [], []
                opened = self._blocks.pop()[0]
                self._line_condition = self._line_condition or f"line {opened}, {self.quoted(opened)}"
                place += 1
                continue
            piece.append(sign)
            place += 1
        self._statement(number, "".join(piece), targets, "\n")

    def _bracket(self, number: int, text: str, place: int, piece: list[str]) -> int:
        """Handle an opening bracket: the set of a `for`, which is text, or a block."""
        head = "".join(piece)
        if _FOR.fullmatch(head):
            end = text.find(")", place)
            end = len(text) if end < 0 else end + 1
            piece.append(text[place:end])
            return end
        self._blocks.append((number, head))
        if head.strip():
            self._statement(number, head, [], "(")
        piece.clear()
        return place + 1

    def _redirection(self, text: str, match: re.Match[str], targets: list[str]) -> int:
        place = match.end()
        if "&" not in match[0]:
            target = re.compile(r"\s*(\"[^\"]*\"|(?:[^\s&|<>()\"\0]|\0[^\0]*\0)+)").match(text, place)
            if target is not None:
                place = target.end()
                if ">" in match[0]:
                    targets.append(target[1].strip('"'))
        return place

    def _statement(self, number: int, text: str, targets: list[str], following: str) -> None:
        """Handle one statement; `following` is the operator after it."""
        text = text.lstrip(_LEADING)
        if head := _ELSE.match(text):
            text = self._conditional(number, text, head)
        while head := _IF.match(text) or _DO.match(text):
            text = self._conditional(number, text, head)
        condition = self._condition(number)
        if text.strip() or targets:
            self._command(_Statement(number, text, targets, condition, not self._chain and not condition))
        if following in ("&&", "||", "|"):
            self._chain = self._chain if following == "&&" and _CERTAIN.match(text) else following
        elif following == "&":
            self._chain = ""

    def _conditional(self, number: int, text: str, head: re.Match[str]) -> str:
        """The statement after an `if`, `for` or `else`; marks the line as conditional."""
        self._line_condition = self._line_condition or f"line {number}, {self.quoted(number)}"
        return text[head.end() :].lstrip(_LEADING)

    def _condition(self, number: int) -> str:
        if self._blocks:
            return f"line {self._blocks[0][0]}, {self.quoted(self._blocks[0][0])}"
        return self._line_condition or (f"a test in line {number}" if self._chain == "||" else "")

    def _command(self, statement: _Statement) -> None:
        number, text = statement.line, statement.text
        if assignment := _SET.fullmatch(text):
            name, value = (assignment[1], assignment[2]) if assignment[1] else (assignment[3], assignment[4])
            self.assign(name, self._late(value), number, sure=statement.sure)
            return
        first = _FIRST.match(text)
        name = program(first[0].strip('"')) if first is not None else ""
        if name == "set":
            self.doubt(number, *(_IDENTIFIER.findall(text) if "/a" in text.lower() else _SET_ANY.findall(text)))
        if name == "set" or _PRINTING.match(text):
            self.run(Command(number, [], statement.condition, statement.targets))
            return
        words = self._words(number, text)
        if name == "setlocal":
            options = [word.lower() for word in words]
            self._delayed = "enabledelayedexpansion" in options or (
                self._delayed and "disabledelayedexpansion" not in options
            )
        elif name == "endlocal":
            self._delayed = False
            self.doubt(number, *self.values)
        elif name == "goto" or (name == "call" and words[1:] and words[1].startswith(":")):
            label = words[1].lstrip(":").lower() if words[1:] else ""
            self._jumps.append((number, label, bool(statement.condition) and name == "goto"))
        elif name in ("if", "for"):
            self.refuse(number, f"{self.quoted(number)} is not understood.")
        else:
            self.run(Command(number, words, statement.condition, statement.targets))

    def _late(self, text: str) -> str:
        """`text` with `!NAME!` expanded, where the file enables that."""

        def put(use: re.Match[str]) -> str:
            value = self.value_of(use[1])
            if self._delayed:
                return value if isinstance(value, str) else self.unsure(use[0], name=use[1])
            if value is None and not self.doubted(use[1]):
                return use[0]
            return self.unsure(use[0], "without setlocal enabledelayedexpansion it is not a variable")

        filled = _DELAYED.sub(put, text)
        if self._delayed and "!" in _DELAYED.sub("", text):
            return self.unsure(plain(filled), "with enabledelayedexpansion a single ! is removed")
        return filled

    def _words(self, number: int, text: str) -> list[str]:
        """Words as a Windows program splits its command line: a backslash is an escape before a quotation mark only."""
        words: list[str] = []
        word, begun, quoted, escaped, place = "", False, False, False, 0
        text = self._late(text)
        while place < len(text):
            sign = text[place]
            if match := UNSURE.match(text, place):
                word, begun, place = word + match[0], True, match.end()
                continue
            if sign in " \t" and not quoted:
                if begun:
                    words.append(word)
                word, begun, escaped = "", False, False
            elif sign == '"' and quoted and text.startswith('""', place):
                word, place = word + '"', place + 1
            elif sign == '"':
                quoted, begun = not quoted, True
            elif text.startswith('\\"', place) and quoted and not escaped and text[place + 2 : place + 3] in ("", " "):
                remark = 'it is taken as the end of the path; Windows itself reads \\" as a quotation mark'
                self.notes.append((f"line {number}", f'{plain(word)}\\"', remark))
                word += sign
            elif text.startswith('\\"', place):
                word, begun, escaped, place = word + '"', True, True, place + 1
            elif text.startswith('\\\\"', place):
                word, begun, place = word + "\\", True, place + 1
            else:
                word, begun = word + sign, True
            place += 1
        if quoted:
            self.refuse(number, f"{self.quoted(number)}: a quotation mark is not closed.")
        return [*words, word] if begun else words

    def _check_jumps(self) -> None:
        """A jump may leave the script or go to a label after the call; any other one makes the order uncertain."""
        called = self.call.line if self.call is not None else 0
        for number, label, conditional in self._jumps:
            target = len(self.lines) + 1 if label == "eof" else self._labels.get(label, 0)
            if target <= called or (number < called and not conditional):
                self.refuse(number, f"{self.quoted(number)} jumps, so that it is not certain what runs.")


def _continues(text: str) -> bool:
    """Whether a line ends with a `^` that joins the next one: outside quotation marks, and not escaped itself."""
    quoted, place = False, 0
    while place < len(text):
        if match := UNSURE.match(text, place):
            place = match.end()
            continue
        if text[place] == '"':
            quoted = not quoted
        elif text[place] == "^" and not quoted:
            if place == len(text) - 1:
                return True
            place += 1
        place += 1
    return False


def _at_blank(text: str, place: int) -> bool:
    return place == 0 or text[place - 1] in " \t"
