"""A script of a shell, statement by statement, until it is certain which arguments it calls Kohya's script with.

Each statement is an assignment, the call, or a command that cannot change the call. Anything else is a problem that
shows its line: nothing is guessed, and nothing is left out without a word. Nothing is run.
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
"""Before a command in the cell of a notebook."""
REST = "\0$@\0"
"""What is typed after the file's name, as a word."""
MENTION = re.compile(r"train_network")
UNSURE = re.compile("\0([^\0]*)\0")
"""A part of a word that the file does not settle, as it is written."""
_WORDS = re.compile("(?:[^ \t\n\0]|\0[^\0]*\0)+")
_FROM_OUTSIDE = ("HOME", "USERPROFILE", "PWD")
"""Variables of the machine that may be used: they name a folder, and never hold a secret."""
_WAITING = frozenset(["/k", "/d", "-i", "-l"])
"""Options of a shell that is given no command."""
OWN_FOLDER = "the folder of this file"
_LONGEST = 100
_LARGEST = 2**16
"""Characters of a script; one that a person wrote is far below it."""
_MOST_PROBLEMS = 20
_MOST = 2**22
"""Characters that its variables put in altogether: a value may be twice the last one on each line."""


_COMMENT = re.compile(r"\s*(#|@?rem\b|::|@?echo\b)", re.IGNORECASE)


def is_comment(line: str) -> bool:
    """Whether a line says nothing to the shell, or only prints."""
    return bool(_COMMENT.match(line))


@dataclass(frozen=True)
class Command:
    """A simple command with its variables put in."""

    line: int
    words: list[str]
    condition: str = ""
    """The loop, test or function that decides whether it runs, in words; empty if it surely runs."""
    targets: list[str] = field(default_factory=list)
    """Files that its output goes to."""
    body: str | None = None
    """The text that the file gives it as input."""


@dataclass(frozen=True)
class Call:
    """The call of a LoRA script."""

    line: int
    script: str
    before: list[str]
    """What starts it: `accelerate launch --num_processes 2`."""
    words: list[str]
    """Its arguments."""


class TooLargeError(Exception):
    """The variables put in more than any script needs."""


class TooManyError(Exception):
    """So many lines are not understood that the rest would help nobody."""


class UnclosedError(Exception):
    """A quotation mark or bracket has no end."""

    def __init__(self, place: int, sign: str) -> None:
        super().__init__(sign)
        self.place, self.sign = place, sign


class Script:
    """What all languages have in common; `read` of each one calls `run`, `assign` and `doubt`.

    Attributes:
        problems: with the line as their place.
        notes: key, value and remark of what a person should know.
        written: the text of each file that the script writes before the call, None if it is not certain, and the line.
        reasons: why a part of a word is not certain.
    """

    joiner: ClassVar[str] = "\\"
    comment: ClassVar[tuple[str, ...]] = ("#",)
    windows: ClassVar[bool] = False
    """Names of variables are the same in upper and lower case."""

    def __init__(self, text: str, own_folder: str = "") -> None:
        self._own_folder = own_folder
        self.text = re.sub(r"\r\n?", "\n", text)
        self.lines = self.text.split("\n")
        self._starts = [0, *(found.end() for found in re.finditer("\n", self.text))]
        self.call: Call | None = None
        self.problems: list[Problem] = []
        self.notes: list[tuple[str, str, str]] = []
        self.written: dict[str, tuple[int, str | None]] = {}
        self.reasons: dict[str, str] = {}
        self.folder = ""
        self.values: dict[str, str | list[str]] = {}
        self._doubts: dict[str, int] = {}
        self._ended = self._put_in = 0
        self._read = False
        for name in _FROM_OUTSIDE:
            if name in os.environ:
                self.values[self.key(name)] = os.environ[name]

    def read(self) -> None:
        """Read all statements."""
        raise NotImplementedError

    def finish(self) -> None:
        """Read the file, and note a problem where no call is found; never raises."""
        if "\0" in self.text:
            self.refuse(1, "it holds a zero byte, so it is not a text file.", "Save it as UTF-8 text.")
            return
        if len(self.text) > _LARGEST:
            self.refuse(1, f"it has more than {_LARGEST} characters, which no script of this kind needs.")
            return
        try:
            self.read()
        except TooManyError:
            self._read = True
            return
        except UnclosedError as error:
            self._read, number = True, self.line_at(error.place)
            self.refuse(number, f"{self.shown(number)}: {_what(error.sign)} is not closed.", f"Close it. {HINT}")
        except (RecursionError, TooLargeError):
            self._read = True
            self.refuse(1, "it is nested too deep, or its variables hold far more than arguments can be.")
        self._read = True
        if self.call is None and not self.problems:
            number = next((n for n, line in enumerate(self.lines, 1) if MENTION.search(line)), 1)
            self.refuse(number, f"{self.shown(number)}: no call of a LoRA script is found that surely runs.")

    def key(self, name: str) -> str:
        """The name of a variable as the language compares it."""
        return name.upper() if self.windows else name

    def line_at(self, place: int) -> int:
        """The number of the line at an offset of the text."""
        return bisect_right(self._starts, place)

    def shown(self, number: int) -> str:
        """A line as a message shows it."""
        line = self.lines[number - 1].strip() if number <= len(self.lines) else ""
        return f"`{printable(line[:_LONGEST])}{'…' if len(line) > _LONGEST else ''}`"

    def problem(self, number: int, key: str, message: str, hint: str) -> None:
        """Note a problem at a line."""
        self.problems.append(Problem(f"line {number}", key, message, hint))
        if len(self.problems) >= _MOST_PROBLEMS and not self._read:
            raise TooManyError

    def refuse(self, number: int, message: str, hint: str = HINT) -> None:
        """Note that a line is not understood."""
        self.problem(number, "", message, hint)

    def assign(self, name: str, value: str | list[str], line: int, *, sure: bool) -> None:
        """A variable gets a value; without `sure` it may have another one."""
        name = self.key(name)
        self.note_cards(name, value)
        if sure:
            self.values[name] = value
            self._doubts.pop(name, None)
        else:
            self.doubt(line, name)

    def note_cards(self, name: str, value: str | list[str]) -> None:
        """Note which cards a variable chooses, if that is what it does."""
        if name.removeprefix("ENV:") == CARDS and self.call is None:
            remark = "say it to lorasmith itself: CUDA_VISIBLE_DEVICES=... lorasmith ..., or memory.device = cuda:N"
            self.notes.append((CARDS, plain(value if isinstance(value, str) else " ".join(value)), remark))

    def doubt(self, line: int, *names: str) -> None:
        """From this line on it is not certain what these variables hold."""
        for name in names:
            self.values.pop(self.key(name), None)
            self._doubts[self.key(name)] = line

    def value_of(self, name: str) -> str | list[str] | None:
        """What a variable surely holds.

        Raises:
            TooLargeError: all that was asked for is too much together.
        """
        value = self.values.get(self.key(name))
        if value is not None:
            self._put_in += sum(map(len, value)) + len(value)
            if self._put_in > _MOST:
                raise TooLargeError
        return value

    def doubted(self, name: str) -> bool:
        """Whether the file changes a variable in a way that is not certain."""
        return self.key(name) in self._doubts

    def unsure(self, source: str, reason: str = "", *, name: str = "") -> str:
        """A part of a word that is not certain, as it is written."""
        source = source.replace("\0", "")
        number = self._doubts.get(self.key(name)) if name else None
        if number is not None:
            reason = f"it depends on line {number}, {self.shown(number)}"
        if reason:
            self.reasons[source] = reason
        return f"\0{source}\0"

    def own_folder(self, source: str, ending: str = "") -> str:
        """The folder that the file is in, which a part of it stands for, as it is written."""
        if not self._own_folder:
            return self.unsure(source)
        note = (plain(source), self._own_folder, OWN_FOLDER)
        if note not in self.notes:
            self.notes.append(note)
        return f"{self._own_folder}{ending}"

    def run(self, command: Command) -> None:
        """Take a command for what it is."""
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
            given = [word for word in command.words[1:] if word.lower() != "/d" and not word.startswith("-")]
            self.folder = plain(given[0]) if given else ".."
            self.written = {path: (line, None) for path, (line, _) in self.written.items()}
        self.values.pop(self.key("PWD"), None)
        self.values.pop(self.key("CD"), None)

    def _stays_open(self, command: Command) -> bool:
        """Whether a shell only keeps the window open, after the call."""
        fed = command.body is not None or MENTION.search(self.lines[command.line - 1])
        return self.call is not None and not fed and all(word.lower() in _WAITING for word in command.words[1:])

    def _unknown(self, command: Command) -> None:
        self.refuse(command.line, f"{self.shown(command.line)} is not understood.")

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
        """The file `target` is, or may be, written by a command."""
        if self.call is None:
            sure = text is not None and not command.condition and "\0" not in text
            self.written[path_key(plain(target))] = command.line, text if sure else None

    def _stray(self, command: Command) -> None:
        number = command.line - 1
        before = self.lines[number - 1] if number else ""
        if not before.strip():
            why = f"line {number} is empty, which ends the command before it" if number else "no command is before it"
        elif before.lstrip().lower().startswith(self.comment):
            why = f"line {number}, {self.shown(number)}, is a comment, which ends the command before it"
        elif before.rstrip().endswith(self.joiner):
            why = f"line {number}, {self.shown(number)}, has blanks after its {self.joiner}"
        else:
            why = f"line {number}, {self.shown(number)}, ends without {self.joiner}"
        self.refuse(command.line, f"{self.shown(command.line)} belongs to no command: {why}.")

    def _call(self, command: Command, place: int) -> None:
        before, name = command.words[:place], script_of(command.words[place]) or ""
        if command.condition:
            self.refuse(command.line, f"{self.shown(command.line)}: the call depends on {command.condition}.")
        elif self._ended:
            end = f"line {self._ended}, {self.shown(self._ended)}, ends the script before it"
            self.refuse(command.line, f"{self.shown(command.line)}: the call is never reached: {end}.")
        elif self.call is not None:
            first = f"line {self.call.line}, {self.shown(self.call.line)}"
            self.refuse(command.line, f"{self.shown(command.line)} is another call, after {first}: a file has one run.")
        elif any(word.lower().endswith(".py") for word in before) or any("\0" in word for word in launcher(before)):
            self._unknown(command)
        else:
            self.call = Call(command.line, name, before, command.words[place + 1 :])


def script_of(word: str) -> str | None:
    """Which of Kohya's scripts a word names, if any."""
    name = ntpath.basename(word).lower().removesuffix(".py")
    inner = any(program(part) in RUNNERS for part in word.split()[:-1])  # bash -c "python train_network.py"
    return name if name in SCRIPTS and not inner else None


def launcher(before: list[str]) -> list[str]:
    """What a program that starts several processes is given before the script."""
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
    """Whether a part of a file that is not read in detail may call one of Kohya's scripts."""
    return bool(MENTION.search(source)) and any(program(word.strip("('\"&$`{")) in RUNNERS for word in source.split())


def plain(word: str) -> str:
    """A word as it is written, without the marks of what is not certain."""
    return word.replace("\0", "")


def parted(value: str) -> list[str]:
    """The words of a value, parted at its blanks."""
    return _WORDS.findall(value)


def path_key(path: str) -> str:
    """Equal for spellings of the same file."""
    return os.path.normpath(path.replace("\\", "/"))


def _what(sign: str) -> str:
    return "a quotation mark" if sign in "\"'`" else f"the bracket {sign}"
