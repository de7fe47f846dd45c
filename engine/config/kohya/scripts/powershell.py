"""A PowerShell script: its statements, blocks and variables."""

from __future__ import annotations

import re

from engine.config.kohya.scripts.programs import SOURCED
from engine.config.kohya.scripts.script import MENTION, REST, Command, Script, UnclosedError, program, runs_script

_BLANKS = re.compile(r"(?:[ \t]|`(?:\n|\Z)|<#.*?#>)*(?:#[^\n]*)?", re.DOTALL)
_SPACE = re.compile(r"(?:\s|`\n|<#.*?#>|#[^\n]*)*", re.DOTALL)
_ASSIGNED = re.compile(r"(\[[\w.\[\]]+\]\s*)?\$(?:\{([^}\n]+)\}|((?:\w+:)?\w+))\s*(\+?=)(?!=)[ \t]*")
_KEYWORD = re.compile(
    r"(if|elseif|else|foreach|for|while|do|until|switch|try|catch|finally|function|filter|trap|begin|process|end)"
    r"(?=[\s({\[])",
    re.IGNORECASE,
)
_LEAVING = re.compile(r"(exit|return|throw|break|continue)\b", re.IGNORECASE)
_PARAMETERS = re.compile(r"param\s*(?=\()", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{([^}\n]+)\}|((?:\w+:)?\w+))")
_HERE = re.compile(r"@([\"'])[ \t]*(?=\n)")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?![\w.])")
_REDIRECTION = re.compile(r"(?:\*|\d)?(?:>>|>)(?:&\d)?")
_HARMLESS = re.compile(r"(?:\[(?:system\.)?(?:console\]::|net\.)|\$(?:host|psstyle)\.|\$[\w:]+\s*$)", re.IGNORECASE)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}
_DOT = re.compile(r"\.[ \t'\"$]")
_BRACE = re.compile(r"\s*\{")
_PAIRS = {"(": ")", "{": "}", "[": "]"}
_SCOPES = re.compile(r"(?:script|global|local|private|variable):", re.IGNORECASE)


class PowerShellScript(Script):
    """A `.ps1` file."""

    joiner = "`"
    windows = True

    def __init__(self, text: str, own_folder: str = "") -> None:
        super().__init__(text, own_folder)
        self._place = 0
        self._blocks: list[tuple[int, bool]] = []
        """The line of each, and whether it is an argument of a command, which may continue after it."""
        self._chain = ""
        self.values |= {"TRUE": "True", "FALSE": "False"}

    def read(self) -> None:
        """Read all statements."""
        while self._place < len(self.text):
            self._blanks()
            if self._place >= len(self.text):
                break
            sign = self.text[self._place]
            if sign in "\n;":
                self._place += 1
                self._chain = ""
            elif self.text.startswith(("&&", "||"), self._place):
                self._chain = self.text[self._place : self._place + 2]
                self._place += 2
            elif sign == "|":
                self._place += 1
                self._place = self._space(self._place)
            elif sign == "}":
                self._close()
            else:
                self._statement()
        if self._blocks:
            number = self._blocks[-1][0]
            self.refuse(number, f"{self.quoted(number)} is not closed.")

    def _blanks(self) -> None:
        match = _BLANKS.match(self.text, self._place)
        self._place = match.end() if match is not None else self._place

    def _space(self, place: int) -> int:
        """The place after blanks, comments and ends of lines."""
        match = _SPACE.match(self.text, place)
        return match.end() if match is not None else place

    def _refuse_here(self, start: int) -> None:
        """Refuse the statement at `start`, and skip it."""
        number = self.line_at(start)
        self.refuse(number, f"{self.quoted(number)} is not understood.")
        self._place = max(self._end_of_statement(start), start + 1)

    def _statement(self) -> None:
        start = self._place
        if match := _ASSIGNED.match(self.text, start):
            self._assignment(match)
        elif match := _PARAMETERS.match(self.text, start):
            self._place = self._behind(match.end())
            names = [use[1] or use[2] for use in _VARIABLE.finditer(self.text[start : self._place])]
            self.doubt(self.line_at(start), *map(self.key, names))
        elif match := _LEAVING.match(self.text, start):
            self._place = self._end_of_statement(start)
            self._check_mention(start)
            self.run(Command(self.line_at(start), [match[1].lower()], self._condition()))
        elif match := _KEYWORD.match(self.text, start):
            self._head(match)
        elif self.text[start] == "{":
            self._open(start, command=False)
        elif self.text[start] in "&." and self.text[start + 1 : start + 2] in (" ", "\t", "'", '"', "$"):
            self._place += 1
            self._blanks()
            self._command(start)
        elif self.text[start] in "$[(@'\"0123456789+":
            self._expression_statement(start)
        else:
            self._command(start)

    def _head(self, keyword: re.Match[str]) -> None:
        """Skip the part between a keyword and its block."""
        start, place = keyword.start(), keyword.end()
        while place < len(self.text) and self.text[place] != "{":
            if self.text[place] in "\n;" and not _BRACE.match(self.text, place):
                break
            place = self._behind(place)
        head = self.text[start:place]
        if keyword[1].lower() == "foreach":
            self.doubt(self.line_at(start), *(self.key(use[1] or use[2]) for use in _VARIABLE.finditer(head)))
        self._place = place
        self._check_mention(start)
        if place < len(self.text) and self.text[place] == "{":
            self._open(start, command=False)

    def _check_mention(self, start: int) -> None:
        """Refuse a skipped part that runs one of the scripts."""
        if runs_script(self.text[start : self._place]):
            number = self.line_at(start)
            self.refuse(number, f"{self.quoted(number)} is not understood.")

    def _open(self, start: int, *, command: bool) -> None:
        self._blocks.append((self.line_at(start), command))
        self._place = self.text.index("{", self._place) + 1

    def _close(self) -> None:
        self._place += 1
        if not self._blocks:
            self._refuse_here(self._place - 1)
        elif self._blocks.pop()[1]:
            self._words()

    def _condition(self) -> str:
        if self._blocks:
            return f"line {self._blocks[0][0]}, {self.quoted(self._blocks[0][0])}"
        return "the command before its ||" if self._chain == "||" else ""

    def _assignment(self, match: re.Match[str]) -> None:
        start, line = self._place, self.line_at(self._place)
        name = self.key(_SCOPES.sub("", match[2] or match[3]))
        self._place = match.end()
        value = self._value()
        end = self._place
        self._blanks()
        ends = self.text[self._place : self._place + 1] in ("", "\n", ";", "}")
        if value is None or not ends or not _keeps(match[1] or "", value):
            self._place = self._end_of_statement(match.end())
            self._check_mention(start)
            value = self.unsure(self.text[match.end() : max(end, self._place)].strip()[:80])
        if match[4] == "+=":
            before = self.value_of(name)
            if isinstance(before, list):
                value = before + (value if isinstance(value, list) else [value])
            elif isinstance(before, str) and isinstance(value, str) and not _NUMBER.fullmatch(before):
                value = before + value
            else:
                self.doubt(line, name)
                return
        self.assign(name, value, line, sure=not self._blocks and not self._chain)

    def _value(self) -> str | list[str] | None:
        """A literal, a variable, or a list of them; None for anything else."""
        if self.text.startswith("@(", self._place):
            start, items = self._place, []
            self._place = self._space(start + 2)
            while not self.text.startswith(")", self._place):
                value = self._single_value()
                if value is None or self._place >= len(self.text):
                    return None
                items += value if isinstance(value, list) else [value]
                self._place = self._space(self._place)
                if self.text.startswith(",", self._place):
                    self._place = self._space(self._place + 1)
            self._place += 1
            return items
        first = self._single_value()
        values = first if isinstance(first, list) else [first or ""]
        listed = isinstance(first, list)
        while first is not None:
            self._blanks()
            if not self.text.startswith(",", self._place):
                return values if listed else first
            self._place = self._space(self._place + 1)
            first, listed = self._single_value(), True
            values = [*values, *(first if isinstance(first, list) else [first or ""])]
        return None

    def _single_value(self) -> str | list[str] | None:
        text, place = self.text, self._place
        if (here := _HERE.match(text, place)) and (end := text.find(f"\n{here[1]}@", here.end())) >= 0:
            self._place = end + 3
            body = text[here.end() + 1 : end]
            return body if here[1] == "'" or not re.search(r"[$`]", body) else self.unsure(text[place : end + 3][:80])
        if text.startswith("'", place):
            return self._single()
        if text.startswith('"', place):
            return self._double()
        if number := _NUMBER.match(text, place):
            self._place = number.end()
            value = float(number[0])
            return f"{int(number[0])}" if re.fullmatch(r"[-+]?\d+", number[0]) else f"{value:.15G}"
        if use := _VARIABLE.match(text, place):
            self._place = use.end()
            if text[self._place : self._place + 1] in (".", "[", ":"):
                return None
            return self._variable(use)
        return None

    def _variable(self, use: re.Match[str]) -> str | list[str]:
        name = _SCOPES.sub("", use[1] or use[2])
        value = self.own_folder(use[0]) if name.lower() == "psscriptroot" else self.value_of(name)
        return value if value is not None else self.unsure(use[0], name=name)

    def _expression_statement(self, start: int) -> None:
        """A value that is printed, or a change of an object: skipped only if it certainly has no effect."""
        value = self._value()
        self._blanks()
        ends = self._place >= len(self.text) or self.text[self._place] in "\n;|}"
        if value is not None and ends:
            return
        source = self.text[start : self._end_of_statement(start)]
        if _HARMLESS.match(source) and not MENTION.search(source):
            self._place = start + len(source)
            return
        self._refuse_here(start)

    def _command(self, start: int) -> None:
        words, targets = self._words()
        number, sourced = self.line_at(start), _DOT.match(self.text, start) is not None
        if not words and not targets:
            self._refuse_here(start)
            return
        mentioned = any(MENTION.search(word) for word in words)
        if self.text.startswith("{", self._place):  # a block is an argument
            self.run(Command(number, [] if mentioned else words, self._condition(), targets))
            self._open(start, command=True)
            if mentioned:
                self.refuse(number, f"{self.quoted(number)} is not understood.")
        elif sourced and (not words or program(words[0]) not in SOURCED):
            self.refuse(number, f"{self.quoted(number)} is not understood.")
        else:
            self.run(Command(number, words, self._condition(), targets))

    def _words(self) -> tuple[list[str], list[str]]:
        """The words of a command, and the files of its output."""
        words: list[str] = []
        targets: list[str] = []
        while True:
            self._blanks()
            place = self._place
            if place >= len(self.text) or self.text[place] in "\n;|{})" or self.text[place] == "&":
                return words, targets
            if match := _REDIRECTION.match(self.text, place):
                self._place = match.end()
                self._blanks()
                if "&" not in match[0]:
                    targets += self._word()
                continue
            for word in self._word():
                if word == "--%" or ('"' in word and "\0" not in word):
                    word = self.unsure(word, "PowerShell passes it differently from version to version")
                elif not word:
                    word = self.unsure('""', "PowerShell may leave an empty argument out")
                words.append(word)

    def _word(self) -> list[str]:
        """Expand the word at this place."""
        start, text, expanded = self._place, self.text, ""
        while self._place < len(text):
            place, sign = self._place, text[self._place]
            if sign in " \t\n;|{})&" or (sign == "`" and text.startswith("`\n", place)) or sign == ">":
                break
            if sign == "`":
                expanded += _ESCAPES.get(text[place + 1 : place + 2], text[place + 1 : place + 2])
                self._place += 2
            elif sign == "'":
                expanded += self._single()
            elif sign == '"':
                expanded += self._double()
            elif sign == "@" and place == start and (splat := re.compile(r"@(\w+)").match(text, place)):
                self._place = splat.end()
                return self._spread(splat[1], splat[0])
            elif sign == "(" or text.startswith(("$(", "@(", "@{"), place):
                self._place = self._behind(place + (sign != "("))
                expanded += self.unsure(text[place : self._place])
            elif use := _VARIABLE.match(text, place):
                self._place = use.end()
                following = text[self._place : self._place + 1]
                if place == start and following in ("", *" \t\n;|{})&"):
                    return self._spread(use[1] or use[2], use[0])
                if following in ("[", ":") or (following == "." and place == start):
                    self._place = self._behind(self._place)
                    expanded += self.unsure(text[place : self._place])
                else:
                    value = self._variable(use)
                    expanded += value if isinstance(value, str) else " ".join(value)
            elif sign == "," and (place == start or text[place + 1 : place + 2] in ("", *" \t\n`")):
                expanded += self.unsure(",", "it makes a list: write it in quotation marks")
                self._place += 1
            else:
                expanded += sign
                self._place += 1
        return [expanded]

    def _spread(self, name: str, source: str) -> list[str]:
        """The words of a variable that is a complete word."""
        value = self.value_of(_SCOPES.sub("", name))
        if value is None and name.lower() == "args" and not self.doubted(name):
            return [REST]
        if value is None:
            return [self.unsure(source, name=_SCOPES.sub("", name))]
        return value if isinstance(value, list) else [value]

    def _single(self) -> str:
        match = re.compile(r"'((?:[^']|'')*)'").match(self.text, self._place)
        if match is None:
            raise UnclosedError(self._place, "'")
        self._place = match.end()
        return match[1].replace("''", "'")

    def _double(self) -> str:
        start, text, expanded = self._place, self.text, ""
        self._place += 1
        while self._place < len(text):
            place, sign = self._place, text[self._place]
            if sign == '"' and not text.startswith('""', place):
                self._place += 1
                return expanded
            if sign in '"`':
                following = text[place + 1 : place + 2]
                expanded += _ESCAPES.get(following, following) if sign == "`" else '"'
                self._place += 2
            elif text.startswith("$(", place):
                self._place = self._behind(place + 1)
                expanded += self.unsure(text[place : self._place])
            elif use := _VARIABLE.match(text, place):
                self._place = use.end()
                if text.startswith(":", self._place):
                    expanded += self.unsure(f"{use[0]}:")
                    self._place += 1
                else:
                    value = self._variable(use)
                    expanded += value if isinstance(value, str) else " ".join(value)
            else:
                expanded += sign
                self._place += 1
        raise UnclosedError(start, '"')

    def _behind(self, place: int) -> int:
        """The place after the bracket, quotation mark, comment or sign at `place`."""
        text, waiting, start = self.text, [], place
        while place < len(text):
            sign = text[place]
            if text.startswith("<#", place) or (sign == "#" and text[place - 1 : place] in ("", *" \t\n({;")):
                end = text.find("#>" if sign == "<" else "\n", place)
                place = end + (2 if sign == "<" else 0) if end >= 0 else len(text)
            elif (here := _HERE.match(text, place)) and (end := text.find(f"\n{here[1]}@", here.end())) >= 0:
                place = end + 3
            elif sign in "'\"":
                kept, self._place = self._place, place
                _ = self._single() if sign == "'" else self._double()
                place, self._place = self._place, kept
            elif sign == "`":
                place = min(place + 2, len(text))
            else:
                if sign in _PAIRS:
                    waiting.append(_PAIRS[sign])
                elif waiting and sign == waiting[-1]:
                    waiting.pop()
                place += 1
            if not waiting:
                return place
        if waiting:
            raise UnclosedError(start, text[start])
        return place

    def _end_of_statement(self, place: int) -> int:
        while place < len(self.text) and self.text[place] not in "\n;}":
            place = self._behind(place)
            if self.text[place - 1] in "|,+" and self.text.startswith("\n", place):
                place += 1
        return place


def _keeps(kind: str, value: str | list[str]) -> bool:
    """Whether a value is certainly unchanged in a variable of a type, `[int]`."""
    kind = kind.strip().lower()
    if isinstance(value, list):
        return kind in ("", "[string[]]", "[object[]]", "[array]")
    return kind in ("", "[string]") or ("int" in kind and bool(re.fullmatch(r"0|-?[1-9]\d{0,8}", value)))
