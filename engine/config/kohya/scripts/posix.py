"""A POSIX shell script (bash, zsh, dash): its statements, blocks and variables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import takewhile

from engine.config.kohya.scripts.posix_words import Part, Scanner, Sign, Word
from engine.config.kohya.scripts.programs import RUNNERS, SOURCED, WRAPPERS
from engine.config.kohya.scripts.script import REST, Command, Script, plain, program, runs_script, split_words

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^]=]*\])?(\+?)=")
_USE = re.compile(r"\$(?:\{(\w+)(\[[@*]\])?(?:(:?[-=+?])(.*))?\}|(\w+))", re.DOTALL)
_PATTERN = re.compile(r"[*?]|\[.|\{[^{}]*(?:,|\.\.)[^{}]*\}")
_PATTERN_IN_VALUE = re.compile(r"[*?]|\[.")
_REDIRECTION = re.compile(r"\d*[<>]|&>")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_OPENING = {"if": "fi", "while": "done", "until": "done", "for": "done", "select": "done", "case": "esac", "{": "}"}
_DECLARING = frozenset(["export", "local", "readonly", "declare", "typeset"])
_SETTING = frozenset(["read", "mapfile", "readarray", "getopts", "let", "unset", "printf", "(("])
"""They change the variables in their arguments."""
_ALL = frozenset(["$@", "$*", "${@}", "${*}"])
_CERTAIN = frozenset(["echo", "true", ":", "export", "set", "shift", "local"])
"""They always succeed, so that the command after their `&&` runs."""
_TESTS = frozenset(["[", "[[", "test", "(("])
_OPTIONS = re.compile(r"(?:[-+]\w+|pipefail|errexit|nounset|xtrace|posix|verbose|noglob)")
_HOOK = re.compile(r"\$\((?:\S*/)?(?:conda|mamba|micromamba)(?:\.exe)? [\w. -]*\bhook\b[^)]*\)")
"""Sets up `conda activate`; changes no variable of the script."""
_THIS = r"(?:\$0|\$\{0\}|\$\{?BASH_SOURCE(?:\[0\])?\}?)"
_FOLDER = rf"\$\( ?dirname (?:{_THIS}|\$\( ?(?:readlink -f|realpath) {_THIS} ?\)) ?\)"
_OWN_FOLDER = re.compile(rf"{_FOLDER}|\$\( ?cd (?:-P )?{_FOLDER} (?:&?> ?/dev/null (?:2>&1 )?)?&& pwd(?: -P)? ?\)")
"""Without quotation marks, `--` and more than one blank."""
_TOO_POWERFUL = frozenset(["IFS", "BASH_ENV"])


@dataclass
class _Block:
    end: str
    """The word that closes it."""
    line: int
    function: str = ""
    pattern: bool = False
    """In a `case`, before the bracket that ends a pattern."""
    runs: bool = False
    """Everything in it certainly runs: a group in brackets, and the part between `if` and `then`."""


@dataclass
class _Pending:
    """A command while it is read."""

    words: list[Word] = field(default_factory=list)
    targets: list[Word] = field(default_factory=list)
    body: str | None = None
    appended: bool = False
    """Its output is appended to a file."""


class PosixScript(Script):
    """A script for bash and similar shells."""

    def __init__(self, text: str, own_folder: str = "") -> None:
        super().__init__(text, own_folder)
        self._scanner = Scanner(self.text)
        self._blocks: list[_Block] = []
        self._functions: dict[str, set[str]] = {}
        """The variables that each one sets."""
        self._line = 1
        self._named = ""
        """The function whose body comes next."""
        self._pending = _Pending()
        self._before = ""
        """The operator that joins the command to the previous one."""
        self._doubtful = self._tested = False
        """Whether the previous commands of the chain may keep it from running; whether that is a test."""

    def read(self) -> None:
        """Read all statements."""
        while (token := self._scanner.next()) is not None:
            if isinstance(token, Sign):
                self._sign(token)
            elif not self._blocks or not self._blocks[-1].pattern:
                if self._pending.words or not self._keyword(token):
                    self._pending.words.append(token)
            elif token.keyword() == "esac":
                self._close(token)
        self._end("\n")
        if self._blocks:
            number = self._blocks[-1].line
            self.refuse(number, f"{self.quoted(number)} is not closed.")

    def _sign(self, sign: Sign) -> None:
        block, words = self._blocks[-1] if self._blocks else None, self._pending.words
        if block is not None and block.pattern:
            block.pattern = sign.text != ")"
        elif _REDIRECTION.match(sign.text):
            self._redirection(sign)
        elif sign.text == "(" and self._scanner.text.startswith("(", self._scanner.place) and not words:
            self._scanner.skip_arithmetic(sign.start)
            source = self._scanner.text[sign.start : self._scanner.place]
            words += [Word(sign.start, [Part("((", quoted=False)]), Word(sign.start, [Part(source, quoted=True)])]
        elif sign.text == "(" and len(words) == 1 and words[0].keyword():
            self._named = words.pop().keyword()
            self._scanner.next()
        elif sign.text == "(" and not words:
            self._open(")", sign.start, runs=True)
        elif sign.text == "(":
            self.refuse(self.line_at(sign.start), f"{self.quoted(self.line_at(sign.start))} is not understood.")
        elif sign.text == ")":
            self._end(";")
            self._close(Word(sign.start, [Part(")", quoted=False)]))
        else:
            self._end(sign.text)
            if block is not None and block.end == "esac" and sign.text.startswith((";;", ";&")):
                block.pattern = True

    def _redirection(self, sign: Sign) -> None:
        word = self._scanner.next()
        if not isinstance(word, Word):
            self.refuse(self.line_at(sign.start), f"{self.quoted(self.line_at(sign.start))}: a file name is missing.")
        elif sign.text.lstrip("0123456789") in ("<<", "<<-"):
            text = self._scanner.body("".join(part.text for part in word.parts), tabs=sign.text.endswith("-"))
            literal = any(part.quoted for part in word.parts)
            self._pending.body = text if literal else self._joined(Scanner(text).inside())
        elif ">" in sign.text and not sign.text.endswith("&"):
            self._pending.targets.append(word)
            self._pending.appended = ">>" in sign.text

    def _keyword(self, word: Word) -> bool:
        """Handle a word at the position of a command, that belongs to a block, or is `[[`."""
        text, scanner = word.keyword(), self._scanner
        if text in ("then", "do", "else", "elif", "!", "time", "coproc"):
            if text == "then" and self._blocks:
                self._blocks[-1].runs = False
            return True
        if text in ("fi", "done", "esac", "}"):
            self._close(word)
        elif text == "function":
            name = scanner.next()
            self._named = name.keyword() if isinstance(name, Word) else ""
            if scanner.text.startswith("()", scanner.place):
                scanner.place += 2
        elif text in _OPENING:
            self._open(_OPENING[text], word.start, runs=text in ("if", "{"))
            if text in ("for", "select", "case"):
                self._head(text)
        elif text == "[[":
            while (token := scanner.next()) is not None and not (isinstance(token, Word) and token.keyword() == "]]"):
                pass
            return False
        else:
            return False
        return True

    def _head(self, kind: str) -> None:
        """Read the part between `for` or `case` and the commands: a variable, values, or `((…))`."""
        last = "in" if kind == "case" else "do"
        first = True
        while (token := self._scanner.next()) is not None:
            if isinstance(token, Word):
                if first and kind != "case":
                    self._doubt(self.line_at(token.start), token.keyword())
                if token.keyword() == last:
                    break
                first = False
            elif token.text == "(" and kind == "for":
                self._scanner.skip_arithmetic(token.start)
                self._doubt(self.line_at(token.start), *_names(self.text[token.start : self._scanner.place]))
        self._blocks[-1].pattern = kind == "case"

    def _open(self, end: str, start: int, *, runs: bool) -> None:
        runs = runs and not self._named and not self._doubtful
        self._blocks.append(_Block(end, self.line_at(start), self._named, runs=runs))
        if self._named:
            self._functions.setdefault(self._named, set())
            if self._named.lower() in RUNNERS | WRAPPERS:
                self.refuse(self.line_at(start), f"{self.quoted(self.line_at(start))} redefines a program.")
        self._named = ""

    def _close(self, word: Word) -> None:
        if self._blocks and self._blocks[-1].end == word.keyword():
            self._blocks.pop()
        else:
            self.refuse(self.line_at(word.start), f"{self.quoted(self.line_at(word.start))} closes nothing.")

    def _end(self, sign: str) -> None:
        """Handle a complete command, followed by `sign`."""
        pending, self._pending = self._pending, _Pending()
        name = ""
        if pending.words or pending.targets:
            name = self._command(pending)
        elif sign == "\n" and self._before:
            return  # the chain continues in the next line
        self._before = sign if sign in ("&&", "||", "|", "|&") else ""
        self._doubtful = bool(self._before) and (self._doubtful or sign != "&&" or name not in _CERTAIN)
        self._tested = bool(self._before) and (self._tested or sign == "||" or (sign == "&&" and name in _TESTS))

    def _condition(self, line: int) -> str:
        """The condition of the present command, in words."""
        if block := next((block for block in self._blocks if not block.runs), None):
            what = f"the function {block.function}" if block.function else self.quoted(block.line)
            return f"line {block.line}, {what}"
        if self._tested:
            return f"a test in line {line}"
        return ""

    def _command(self, pending: _Pending) -> str:
        """Handle a complete command; returns its name, or "" if it only sets variables."""
        words, line = pending.words, self.line_at((pending.words or pending.targets)[0].start)
        self._line = line
        assigned = list(takewhile(lambda pair: pair[0], ((_assignment(word), word) for word in words)))
        words = words[len(assigned) :]
        for assignment, word in assigned:
            if assignment and words:  # for this command only
                self.note_cards(assignment[1], self._joined(_without(word, assignment.end())))
            elif assignment:
                self._set(assignment, word, line)
        if not words:
            for target in pending.targets:
                self.run(Command(line, [], targets=[self._joined(target)]))
            return "true"
        name = program(words[0].keyword())
        while name == "builtin" and len(words) > 1:
            words, name = words[1:], program(words[1].keyword())
        if name in _DECLARING:
            self._declare(words[1:], line)
            return name
        fields = [field for word in words for field in self._fields(word)]
        if words[0].keyword() in ("[", "[["):
            fields = [words[0].keyword()]
        targets = [self._joined(target) for target in pending.targets]
        command = Command(line, fields, self._condition(line), targets, None if pending.appended else pending.body)
        if name in self._functions:
            self._doubt(line, *self._functions[name])
        elif (name == "set" and all(_OPTIONS.fullmatch(word) for word in fields[1:])) or (
            name == "eval" and len(words) == 2 and _HOOK.fullmatch("".join(part.text for part in words[1].parts))
        ):
            pass
        elif name in ("source", "."):
            if len(fields) < 2 or program(fields[1]) not in SOURCED:
                self._unknown(command)
        elif name in _SETTING and (name != "printf" or "-v" in fields):
            self._doubt(line, *_names(" ".join(fields[1:])))
        else:
            self.run(command)
        return name

    def _declare(self, words: list[Word], line: int) -> None:
        for word in words:
            if assignment := _assignment(word):
                self._set(assignment, word, line)

    def _set(self, assignment: re.Match[str], word: Word, line: int) -> None:
        name, index, added = assignment.groups()
        if name in _TOO_POWERFUL:
            self.refuse(line, f"{self.quoted(line)} changes how the shell reads everything below it.")
            return
        sure = not self._blocks and not self._doubtful and not index
        value: str | list[str]
        if word.items is not None:
            value = [field for item in word.items for field in self._fields(item)]
            sure = sure and not any(item.keyword().startswith("[") for item in word.items)
        else:
            value = self._joined(_without(word, assignment.end()))
        if added:
            before = self.value_of(name)
            if isinstance(value, list) and isinstance(before, list):
                value = [*before, *value]
            elif isinstance(value, str) and isinstance(before, str):
                value = f"{before}{value}"
            else:
                sure = False
        for block in self._blocks:
            if block.function:
                self._functions[block.function].add(name)
        self.assign(name, value, line, sure=sure)

    def _doubt(self, line: int, *names: str) -> None:
        for block in self._blocks:
            if block.function:
                self._functions[block.function].update(names)
        self.doubt(line, *names)

    def _fields(self, word: Word) -> list[str]:
        """Expand a word in a call to none, one or several words."""
        if len(word.parts) == 1 and word.parts[0].use and word.parts[0].text in _ALL:
            return [REST]
        fields, begun = [""], bool(word.parts and word.parts[0].quoted)
        pattern = bool(_PATTERN.search("".join(part.text for part in word.parts if not part.quoted and not part.use)))
        for place, part in enumerate(word.parts):
            if not part.use:
                text = self._tilde(part) if not place else part.text
                reason = "the shell may replace it by file names; quotation marks prevent that"
                fields[-1] += self.unsure(text, reason) if pattern and not part.quoted else text
                begun = True
                continue
            value = self._value(part)
            if part.text.endswith("[*]}") and part.quoted and isinstance(value, list):
                value = " ".join(value)
            if part.quoted and isinstance(value, list):
                begun = bool(value) or begun
                fields[-1:] = [fields[-1] + (value or [""])[0], *value[1:]]
                if not value and len(word.parts) == 2:  # "${LIST[@]}" of an empty list is no word at all
                    return []
                continue
            if part.quoted and isinstance(value, str):
                fields[-1] += value
                begun = True
                continue
            text = value if isinstance(value, str) else " ".join(value)
            if "'" in part.text or '"' in part.text:
                text = self.unsure(part.text, "quotation marks in it keep words together")
            if _PATTERN_IN_VALUE.search(text) and "\0" not in text:
                text = self.unsure(part.text, "its value is a pattern of file names")
            pieces = split_words(text)
            if begun and text[:1].isspace() and pieces:
                fields.append("")
            fields[-1:] = [fields[-1] + (pieces or [""])[0], *pieces[1:]]
            if text[-1:].isspace() and pieces and place + 1 < len(word.parts):
                fields.append("")
            begun = begun or bool(pieces)
        return fields if begun else []

    def _joined(self, word: Word) -> str:
        """Expand a word as the value of a variable, without splitting."""
        texts = []
        for place, part in enumerate(word.parts):
            value = self._value(part) if part.use else part.text if place else self._tilde(part)
            texts.append(value if isinstance(value, str) else " ".join(value))
        return "".join(texts)

    def _tilde(self, part: Part) -> str:
        home = self.value_of("HOME")
        at_home = not part.quoted and (part.text == "~" or part.text.startswith("~/"))
        return f"{home}{part.text[1:]}" if at_home and isinstance(home, str) else part.text

    def _value(self, part: Part) -> str | list[str]:
        """The value of the use of a variable."""
        use = _USE.fullmatch(part.text)
        if use is None:
            if runs_script(part.text):
                self.refuse(self._line, f"{self.quoted(self._line)} is not understood.")
            own = _OWN_FOLDER.fullmatch(" ".join(re.sub(r"\"|(?<= )-- ", "", part.text).split()))
            return self.own_folder(part.text) if own else self.unsure(part.text)
        name, sign, default = use[1] or use[5], use[3] or "", use[4] or ""
        value = self.value_of(name)
        if isinstance(value, list) and not use[2]:
            return self.unsure(part.text, "bash uses the first of a list, zsh all of it")
        if value is not None and sign in ("", "?", ":?"):
            return value
        if value is not None:
            empty = not value and ":" in sign
            return self._default(part, default) if empty != sign.endswith("+") else "" if sign.endswith("+") else value
        if sign.endswith(("-", "=")) and not self.doubted(name):
            fallback = self._default(part, default)
            remark = "the file does not set it: its default is used"
            if (name, plain(fallback), remark) not in self.notes:
                self.notes.append((name, plain(fallback), remark))
            if sign.endswith("="):
                self.assign(name, fallback, self._line, sure=not self._blocks)
            return fallback
        return self.unsure(part.text, name=name)

    def _default(self, part: Part, text: str) -> str:
        if part.quoted and "'" in text:
            return self.unsure(part.text)
        return self._joined(Scanner(text).word(to_end=True))


def _assignment(word: Word) -> re.Match[str] | None:
    first = word.parts[0] if word.parts else None
    return _ASSIGNMENT.match(first.text) if first is not None and not first.quoted and not first.use else None


def _without(word: Word, length: int) -> Word:
    """A word without its first characters."""
    first = word.parts[0]
    rest = [Part(first.text[length:], quoted=False)] if len(first.text) > length else []
    return Word(word.start, [*rest, *word.parts[1:]])


def _names(text: str) -> list[str]:
    return _IDENTIFIER.findall(text)
