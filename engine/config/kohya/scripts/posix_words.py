"""The text of a POSIX shell script (bash, zsh, dash) as words and operators, with quotation marks handled."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from engine.config.kohya.scripts.script import UnclosedError

_SIGN = re.compile(r"\d*(?:<<<|<<-|<<|<&|<>|<(?!\()|>>|>&|>\||>(?!\())|&>>|&>|;;&|;;|;&|;|&&|\|\||\|&|\||&|\(|\)|\n")
_USE = re.compile(r"\$(?:[A-Za-z_]\w*|[0-9@*#?$!-])")
_PLAIN = re.compile(r"[^ \t\n'\"\\$`<>;&|()]+")
_QUOTED = re.compile(r"[^\"\\$`]+")
_BLANKS = re.compile(r"(?:[ \t]|\\\n|\\\Z)*(?:#[^\n]*)?")
_LIST = re.compile(r"[A-Za-z_]\w*\+?=")


@dataclass(frozen=True)
class Part:
    """A part of a word: text, or the use of a variable or another program's output (`use`)."""

    text: str
    quoted: bool
    use: bool = False


@dataclass
class Word:
    """One word; `items` are those of a list in brackets, `NAME=(…)`."""

    start: int
    parts: list[Part] = field(default_factory=list)
    items: list[Word] | None = None

    def keyword(self) -> str:
        """The word if it has no quotation marks and variables, else ""."""
        return "".join(part.text for part in self.parts) if all(not p.quoted and not p.use for p in self.parts) else ""


@dataclass(frozen=True)
class Sign:
    """An operator, a redirection or the end of a line."""

    start: int
    text: str


class Scanner:
    """Words and signs, one after the other.

    Raises:
        UnclosedError: from each method, where a quotation mark or bracket has no end.
    """

    def __init__(self, text: str, place: int = 0) -> None:
        self.text, self.place = text, place
        self._after_bodies = 0
        """Where to continue after the texts of `<<`, at the end of the line."""

    def next(self) -> Word | Sign | None:
        """The next word or sign; None at the end."""
        if blanks := _BLANKS.match(self.text, self.place):
            self.place = blanks.end()
        if self.place >= len(self.text):
            return None
        start, match = self.place, _SIGN.match(self.text, self.place)
        if match is None:
            return self.word()
        self.place = match.end()
        if match[0] == "\n" and self._after_bodies:
            self.place, self._after_bodies = max(self.place, self._after_bodies), 0
        return Sign(start, match[0])

    def body(self, delimiter: str, *, tabs: bool) -> str:
        """The lines up to `delimiter`, from the end of this line or after the last such text."""
        end = self.text.find("\n", self.place)
        lines: list[str] = []
        place = self._after_bodies or (end + 1 if end >= 0 else len(self.text))
        while place < len(self.text):
            end = self.text.find("\n", place)
            line = self.text[place : end if end >= 0 else len(self.text)]
            place = end + 1 if end >= 0 else len(self.text)
            line = line.lstrip("\t") if tabs else line
            if line == delimiter:
                self._after_bodies = place
                return "".join(f"{line}\n" for line in lines)
            lines.append(line)
        raise UnclosedError(max(0, self.place - 1), f"<<{delimiter}")

    def word(self, *, to_end: bool = False) -> Word:
        """The word at this place; with `to_end` everything up to the end, as in `${NAME:-…}`."""
        word, text = Word(self.place), self.text
        while self.place < len(text):
            sign = text[self.place]
            if plain := _PLAIN.match(text, self.place):
                word.parts.append(Part(plain[0], quoted=False))
                self.place = plain.end()
            elif sign == "'":
                end = self._find("'")
                word.parts.append(Part(text[self.place + 1 : end], quoted=True))
                self.place = end + 1
            elif sign == '"':
                self._double(word)
            elif sign == "\\":
                if not text.startswith("\\\n", self.place):
                    word.parts.append(Part(text[self.place + 1 : self.place + 2], quoted=True))
                self.place = min(len(text), self.place + 2)
            elif sign in "$`":
                self._use(word, quoted=False)
            elif sign in "<>" and text.startswith("(", self.place + 1):
                word.parts.append(self._bracketed(self.place + 1, ")", quoted=False))
            elif to_end:
                word.parts.append(Part(sign, quoted=False))
                self.place += 1
            elif sign == "(" and _LIST.fullmatch(word.keyword()):
                word.items = self._items()
            else:
                break
        return word

    def inside(self) -> Word:
        """Everything up to the end, as between double quotation marks."""
        word = Word(self.place)
        while self.place < len(self.text):
            self._piece(word)
        return word

    def skip_arithmetic(self, start: int) -> None:
        """Skip `((…))` from its first bracket."""
        self._bracketed(start, ")", quoted=False)

    def _double(self, word: Word) -> None:
        start = self.place
        self.place += 1
        word.parts.append(Part("", quoted=True))
        while self.place < len(self.text) and self.text[self.place] != '"':
            self._piece(word)
        if self.place >= len(self.text):
            raise UnclosedError(start, '"')
        self.place += 1

    def _piece(self, word: Word) -> None:
        """One step between double quotation marks."""
        text, sign = self.text, self.text[self.place]
        if quoted := _QUOTED.match(text, self.place):
            word.parts.append(Part(quoted[0], quoted=True))
            self.place = quoted.end()
        elif sign == "\\":
            following = text[self.place + 1 : self.place + 2]
            if following != "\n":
                escaped = following if following in ('"', "\\", "$", "`") else f"\\{following}"
                word.parts.append(Part(escaped, quoted=True))
            self.place += 1 + len(following)
        elif sign in "$`":
            self._use(word, quoted=True)
        else:
            word.parts.append(Part(sign, quoted=True))
            self.place += 1

    def _use(self, word: Word, *, quoted: bool) -> None:
        """Read a part that begins with `$` or a backtick."""
        text, start = self.text, self.place
        following = text[start + 1 : start + 2]
        if text[start] == "`":
            end = self._find("`") + 1
            if following != "#" or "\n" in text[start:end]:  # `# a comment` is nothing
                word.parts.append(Part(text[start:end], quoted, use=True))
            self.place = end
        elif following in ("(", "{"):
            word.parts.append(self._bracketed(start + 1, ")" if following == "(" else "}", quoted=quoted))
        elif following in ("'", '"') and not quoted:
            self.place += 1
            if following == "'":
                end = self._find("'")
                escapes = "\\" in text[start:end]
                word.parts.append(Part(text[start : end + 1] if escapes else text[start + 2 : end], True, use=escapes))
                self.place = end + 1
        elif match := _USE.match(text, start):
            word.parts.append(Part(match[0], quoted, use=True))
            self.place = match.end()
        else:
            word.parts.append(Part("$", quoted))
            self.place += 1

    def _bracketed(self, begin: int, last: str, *, quoted: bool) -> Part:
        """The use with the bracket at `begin`, up to its closing bracket."""
        text, start, first = self.text, self.place, self.text[begin]
        depth, place = 0, begin
        while place < len(text):
            sign = text[place]
            if sign == "\\":
                place += 1
            elif sign in "'\"" and not (quoted and sign == "'" and first == "{"):
                place = text.find(sign, place + 1)
                if place < 0:
                    break
            elif sign == first:
                depth += 1
            elif sign == last:
                depth -= 1
                if not depth:
                    self.place = place + 1
                    return Part(text[start : self.place], quoted, use=True)
            place += 1
        raise UnclosedError(begin, first)

    def _items(self) -> list[Word]:
        start, items = self.place, []
        self.place += 1
        while (token := self.next()) is not None:
            if isinstance(token, Word):
                items.append(token)
            elif token.text == ")":
                return items
            elif token.text != "\n":
                break
        raise UnclosedError(start, "(")

    def _find(self, sign: str) -> int:
        place = self.text.find(sign, self.place + 1)
        if place < 0:
            raise UnclosedError(self.place, sign)
        return place
