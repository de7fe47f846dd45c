"""Reads a shell script statement by statement, to find the arguments of its call of Kohya's script.

Each statement is an assignment, the call, or a command that cannot change the call. Anything else is a problem with its
line: nothing is guessed or silently ignored. Nothing is run.
"""

from __future__ import annotations

import ntpath
import os
import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import ClassVar

from engine.config.kohya.scripts.programs import (
    FOLDER,
    INERT,
    LAUNCHERS,
    LEAVING,
    OTHER,
    RUNNERS,
    SHELLS,
    SOURCED,
    WRAPPERS,
)
from engine.config.problems import Problem
from engine.text import printable

SCRIPTS = {"sdxl_train_network": "sdxl", "flux_train_network": "flux", "train_network": "auto"}
HINT = "Write the arguments as one command, or give the TOML."
CARDS = "CUDA_VISIBLE_DEVICES"
NOTEBOOK = "!%"
"""Prefixes of a command in a notebook cell."""
REST = "\0$@\0"
"""The arguments of the script itself, as a word."""
MENTION = re.compile(r"train_network")
UNSURE = re.compile("\0([^\0]*)\0")
"""An uncertain part of a word, as it is written."""
_WORDS = re.compile("(?:[^ \t\n\0]|\0[^\0]*\0)+")
_ENVIRONMENT = ("HOME", "USERPROFILE", "PWD")
"""Environment variables that are used: they name a folder, and never contain a secret."""
_WAITING = frozenset(["/k", "/d", "-i", "-l"])
"""Options of a shell without a command."""
OWN_FOLDER = "the folder of this file"
_LONGEST = 100
_LARGEST = 2**16
"""Characters of a script; one written by a person is far below it."""
_MOST_PROBLEMS = 20
_MOST = 2**22
"""Characters from expanded variables in all: a value may double on each line."""


_COMMENT = re.compile(r"\s*(#|@?rem\b|::|@?echo\b)", re.IGNORECASE)


def is_comment(line: str) -> bool:
    """Whether a line is a comment or only prints."""
    return bool(_COMMENT.match(line))


@dataclass(frozen=True)
class Command:
    """A simple command with expanded variables."""

    line: int
    words: list[str]
    condition: str = ""
    """The loop, test or function on which its execution depends, in words; empty if it certainly runs."""
    targets: list[str] = field(default_factory=list)
    """Files of its output."""
    body: str | None = None
    """Its input, where that is in the file."""


@dataclass(frozen=True)
class Call:
    """The call of a LoRA script."""

    line: int
    script: str
    before: list[str]
    """The launcher: `accelerate launch --num_processes 2`."""
    words: list[str]
    """Its arguments."""


class TooLargeError(Exception):
    """The expanded variables are longer than any script needs."""


class TooManyError(Exception):
    """Too many lines are not understood to report them all."""


class UnclosedError(Exception):
    """A quotation mark or bracket has no end."""

    def __init__(self, place: int, sign: str) -> None:
        super().__init__(sign)
        self.place, self.sign = place, sign


class Script:
    """Base of all languages, whose `read` calls `run`, `assign` and `doubt`.

    Attributes:
        problems: with the line as their place.
        notes: key, value and remark, for the person.
        written: line and text of each file that the script writes before the call; the text is None if uncertain.
        reasons: why a part of a word is uncertain.
    """

    joiner: ClassVar[str] = "\\"
    comment: ClassVar[tuple[str, ...]] = ("#",)
    windows: ClassVar[bool] = False
    """Names of variables are case-insensitive."""

    def __init__(self, text: str, own_folder: str = "") -> None:
        self._own_folder = own_folder
        self.text = re.sub(r"\r\n?", "\n", text)
        self.lines = self.text.split("\n")
        self._starts = [0, *(match.end() for match in re.finditer("\n", self.text))]
        self.call: Call | None = None
        self.problems: list[Problem] = []
        self.notes: list[tuple[str, str, str]] = []
        self.written: dict[str, tuple[int, str | None]] = {}
        self.reasons: dict[str, str] = {}
        self.folder = ""
        self.values: dict[str, str | list[str]] = {}
        self._doubts: dict[str, int] = {}
        self._ended = self._expanded = 0
        self._read = False
        for name in _ENVIRONMENT:
            if name in os.environ:
                self.values[self.key(name)] = os.environ[name]

    def read(self) -> None:
        """Read all statements."""
        raise NotImplementedError

    def finish(self) -> None:
        """Read the file; a missing call is a problem. Never raises."""
        if "\0" in self.text:
            self.refuse(1, "it holds a zero byte, so it is not a text file.", "Save it as UTF-8 text.")
            return
        if len(self.text) > _LARGEST:
            self.refuse(1, f"it has more than {_LARGEST} characters, more than any such script needs.")
            return
        try:
            self.read()
        except TooManyError:
            self._read = True
            return
        except UnclosedError as error:
            self._read, number = True, self.line_at(error.place)
            self.refuse(number, f"{self.quoted(number)}: {_what(error.sign)} is not closed.", f"Close it. {HINT}")
        except (RecursionError, TooLargeError):
            self._read = True
            self.refuse(1, "it is nested too deep, or its variables are far longer than arguments can be.")
        self._read = True
        if self.call is None and not self.problems:
            number = next((n for n, line in enumerate(self.lines, 1) if MENTION.search(line)), 1)
            self.refuse(number, f"{self.quoted(number)}: no call of a LoRA script is found that certainly runs.")

    def key(self, name: str) -> str:
        """The name of a variable as the language compares it."""
        return name.upper() if self.windows else name

    def line_at(self, place: int) -> int:
        """The number of the line at an offset of the text."""
        return bisect_right(self._starts, place)

    def quoted(self, number: int) -> str:
        """A line as quoted in messages."""
        line = self.lines[number - 1].strip() if number <= len(self.lines) else ""
        return f"`{printable(line[:_LONGEST])}{'…' if len(line) > _LONGEST else ''}`"

    def problem(self, number: int, key: str, message: str, hint: str) -> None:
        """Add a problem at a line."""
        self.problems.append(Problem(f"line {number}", key, message, hint))
        if len(self.problems) >= _MOST_PROBLEMS and not self._read:
            raise TooManyError

    def refuse(self, number: int, message: str, hint: str = HINT) -> None:
        """Add a problem for a line that is not understood."""
        self.problem(number, "", message, hint)

    def assign(self, name: str, value: str | list[str], line: int, *, sure: bool) -> None:
        """Set a variable; without `sure` its value is uncertain."""
        name = self.key(name)
        self.note_cards(name, value)
        if sure:
            self.values[name] = value
            self._doubts.pop(name, None)
        else:
            self.doubt(line, name)

    def note_cards(self, name: str, value: str | list[str]) -> None:
        """Add a note if the variable chooses cards."""
        if name.removeprefix("ENV:") == CARDS and self.call is None:
            remark = "set it for lorasmith itself: CUDA_VISIBLE_DEVICES=... lorasmith ..., or memory.device = cuda:N"
            self.notes.append((CARDS, plain(value if isinstance(value, str) else " ".join(value)), remark))

    def doubt(self, line: int, *names: str) -> None:
        """From this line on the values of these variables are uncertain."""
        for name in names:
            self.values.pop(self.key(name), None)
            self._doubts[self.key(name)] = line

    def value_of(self, name: str) -> str | list[str] | None:
        """The value of a variable, if certain.

        Raises:
            TooLargeError: all values so far are too long together.
        """
        value = self.values.get(self.key(name))
        if value is not None:
            self._expanded += sum(map(len, value)) + len(value)
            if self._expanded > _MOST:
                raise TooLargeError
        return value

    def doubted(self, name: str) -> bool:
        """Whether the value of a variable is uncertain."""
        return self.key(name) in self._doubts

    def unsure(self, source: str, reason: str = "", *, name: str = "") -> str:
        """Mark a part of a word as uncertain."""
        source = source.replace("\0", "")
        number = self._doubts.get(self.key(name)) if name else None
        if number is not None:
            reason = f"it depends on line {number}, {self.quoted(number)}"
        if reason:
            self.reasons[source] = reason
        return f"\0{source}\0"

    def own_folder(self, source: str, ending: str = "") -> str:
        """The folder of the file, for an expression `source` that means it."""
        if not self._own_folder:
            return self.unsure(source)
        note = (plain(source), self._own_folder, OWN_FOLDER)
        if note not in self.notes:
            self.notes.append(note)
        return f"{self._own_folder}{ending}"

    def run(self, command: Command) -> None:
        """Handle a command."""
        for target in command.targets:
            self._write(target, command, None)
        if not command.words:
            return
        name = program(command.words[0].lstrip(NOTEBOOK))
        place = next((index for index, word in enumerate(command.words) if script_of(word)), None)
        if command.words[0].startswith("-"):
            self._stray(command)
        elif place is not None and (place == 0 or name in RUNNERS or name in WRAPPERS):
            self._call(command, place)
        elif name in RUNNERS or name in WRAPPERS:
            self._other(command, name)
        elif name in FOLDER:
            self._change_folder(command)
        elif name in INERT:
            self._inert(command, name)
        elif name in OTHER:
            self._not_run(command)
        elif name in SOURCED or (name in SHELLS and self._stays_open(command)):
            pass
        elif name in LEAVING:
            self._ended = self._ended or (0 if command.condition else command.line)
        else:
            self._unknown(command)

    def _change_folder(self, command: Command) -> None:
        if self.call is None:
            folders = [word for word in command.words[1:] if word.lower() != "/d" and not word.startswith("-")]
            self.folder = plain(folders[0]) if folders else ".."
            self.written = {path: (line, None) for path, (line, _) in self.written.items()}
        self.values.pop(self.key("PWD"), None)
        self.values.pop(self.key("CD"), None)

    def _stays_open(self, command: Command) -> bool:
        """Whether a shell only keeps the window open after the call."""
        fed = command.body is not None or MENTION.search(self.lines[command.line - 1])
        return self.call is not None and not fed and all(word.lower() in _WAITING for word in command.words[1:])

    def _unknown(self, command: Command) -> None:
        self.refuse(command.line, f"{self.quoted(command.line)} is not understood.")

    def _inert(self, command: Command, name: str) -> None:
        if name == "cat" and command.body is not None and len(command.words) == 1 and len(command.targets) == 1:
            self._write(command.targets[0], command, command.body)
        elif name == "tee":
            for word in command.words[1:]:
                self._write(word, command, command.body if len(command.words) == 2 else None)

    def _other(self, command: Command, name: str) -> None:
        """A runner or wrapper without one of the scripts."""
        inner = next((word for word in command.words[1:] if not word.startswith("-") and "=" not in word), "")
        if any(MENTION.search(word) for word in command.words):
            self._unknown(command)
        elif name in INERT:
            self._inert(command, name)
        elif name in RUNNERS or program(inner) in INERT | OTHER | RUNNERS | FOLDER:
            self._not_run(command)
        elif name in ("call", "start", "exec") and (not inner or program(inner) in SOURCED):
            pass
        elif inner in ("pull", "build", "install", "sync", "ps"):  # docker pull, poetry install
            self._not_run(command)
        else:
            self._unknown(command)

    def _not_run(self, command: Command) -> None:
        for word in command.words[1:]:
            self._write(word.rpartition("=")[2], command, None)
        remark = "only the call of the LoRA script is converted"
        self.notes.append((f"line {command.line}", plain(" ".join(command.words))[:_LONGEST], remark))

    def _write(self, target: str, command: Command, text: str | None) -> None:
        """Record that a command writes, or may write, the file `target`."""
        if self.call is None:
            sure = text is not None and not command.condition and "\0" not in text
            self.written[path_key(plain(target))] = command.line, text if sure else None

    def _stray(self, command: Command) -> None:
        number = command.line - 1
        before = self.lines[number - 1] if number else ""
        if not before.strip():
            why = f"line {number} is empty, which ends the command before it" if number else "no command is before it"
        elif before.lstrip().lower().startswith(self.comment):
            why = f"line {number}, {self.quoted(number)}, is a comment, which ends the command before it"
        elif before.rstrip().endswith(self.joiner):
            why = f"line {number}, {self.quoted(number)}, has blanks after its {self.joiner}"
        else:
            why = f"line {number}, {self.quoted(number)}, ends without {self.joiner}"
        self.refuse(command.line, f"{self.quoted(command.line)} belongs to no command: {why}.")

    def _call(self, command: Command, place: int) -> None:
        before, name = command.words[:place], script_of(command.words[place]) or ""
        if command.condition:
            self.refuse(command.line, f"{self.quoted(command.line)}: the call depends on {command.condition}.")
        elif self._ended:
            end = f"line {self._ended}, {self.quoted(self._ended)}, ends the script before it"
            self.refuse(command.line, f"{self.quoted(command.line)}: the call is never reached: {end}.")
        elif self.call is not None:
            first = f"line {self.call.line}, {self.quoted(self.call.line)}"
            self.refuse(
                command.line, f"{self.quoted(command.line)} is another call, after {first}: a file has one run."
            )
        elif any(word.lower().endswith(".py") for word in before) or any("\0" in word for word in launcher(before)):
            self._unknown(command)
        else:
            self.call = Call(command.line, name, before, command.words[place + 1 :])


def script_of(word: str) -> str | None:
    """The script of Kohya's that a word names, if any."""
    name = ntpath.basename(word).lower().removesuffix(".py")
    inner = any(program(part) in RUNNERS for part in word.split()[:-1])  # bash -c "python train_network.py"
    return name if name in SCRIPTS and not inner else None


def launcher(before: list[str]) -> list[str]:
    """The options of a launcher before the script."""
    place = next((index for index, word in enumerate(before) if program(word) in LAUNCHERS), len(before))
    return before[place + 1 :]


def program(word: str) -> str:
    """A command's name without folder and extension, in lower case."""
    name = ntpath.basename(word).lower()
    stem, dot, extension = name.rpartition(".")
    if re.fullmatch(r"python\d(\.\d+)?(\.exe)?", name):
        return "python"
    return stem if dot and stem and extension in ("exe", "cmd", "com") else name


def runs_script(source: str) -> bool:
    """Whether a part of a file that is not parsed may call one of Kohya's scripts."""
    return bool(MENTION.search(source)) and any(program(word.strip("('\"&$`{")) in RUNNERS for word in source.split())


def plain(word: str) -> str:
    """A word without the marks of uncertain parts."""
    return word.replace("\0", "")


def split_words(value: str) -> list[str]:
    """The words of a value, split at blanks."""
    return _WORDS.findall(value)


def path_key(path: str) -> str:
    """Equal for spellings of the same file."""
    return os.path.normpath(path.replace("\\", "/"))


def _what(sign: str) -> str:
    return "a quotation mark" if sign in "\"'`" else f"the bracket {sign}"
