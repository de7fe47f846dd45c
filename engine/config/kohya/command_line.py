"""A `train.sh`, `.bat` or `.ps1` that calls Kohya's scripts: its arguments are read, and nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from engine.config.kohya.argument_values import LISTS
from engine.config.kohya.arguments import CLI_DEFAULTS, Conversion, convert_arguments, flattened
from engine.config.kohya.dataset_file import kohya_path, read_content
from engine.config.kohya.rules import ARGUMENTS, FLAGS, FLUX_ONLY, HONOURED, NEWER_FLAGS, NOT_SD15, Rule, rule_of
from engine.config.kohya.script_text import ScriptText, is_comment
from engine.config.problems import Problem
from engine.errors import LoraSmithError
from engine.text import printable

SCRIPTS = {"sdxl_train_network": "sdxl", "flux_train_network": "flux", "train_network": "auto"}
_CALL = re.compile(r"(sdxl_train_network|flux_train_network|(?<![\w])train_network)(\.py)?")
_SCRIPT = "\0"
"""Stands for the script's name while its line is parted into words; no line of a shell has it."""
_UNKNOWN = {False: re.compile(r"\$[\w{(@*]|`"), True: re.compile(r"%\w+%|%~|%\*|%\d|%%[A-Za-z]\b")}
_AMBIGUOUS = "\0"
"""Before a name that may be several arguments; it only takes its values out of the way."""
_REST = ("$@", "$*", "${@}", "%*")
"""What the caller typed behind the file's name."""


_CARDS = re.compile(r"""^[^#\n]*\bCUDA_VISIBLE_DEVICES=["']?([^\s"';]+)""", re.MULTILINE)
_CUT = re.compile(r"train_network.*\\[ \t]*\r?\n(?:.*\\[ \t]*\r?\n)*?[ \t]*#.*\r?\n[ \t]*--")
"""A comment between the lines of a call: the shell takes what follows for another command."""


def is_command_line(text: str) -> bool:
    """Whether a text file calls one of the LoRA scripts."""
    return any(_CALL.search(line) for line in text.splitlines() if not is_comment(line))


def convert_command_line(text: str, *, exact: bool = False) -> Conversion:
    """A configuration for the first call of a LoRA script in a shell or batch file.

    Variables that the file itself surely sets are put in; anything else of a shell is not understood and not run.

    Args:
        exact: taken at its word, as with `training.kohya_exact`.
    """
    file, made = ScriptText(text), None
    for line in file.lines():
        call = _CALL.search(line)
        if call is None:
            file.note(line)
        elif made is None:
            made = _call(file, line, call, exact=exact)
        else:
            made.tell("another call", call[0], Rule("no effect", "", "only the first one of a file is converted"))
    return made or convert_arguments({}, "command line", CLI_DEFAULTS, exact=exact)


def _call(file: ScriptText, line: str, call: re.Match[str], *, exact: bool) -> Conversion:
    told, family = Conversion(""), SCRIPTS[call[1]].replace("auto", "sd15")
    try:
        parts = file.words(line[: call.start()] + _SCRIPT + line[call.end() :])
        place = next(index for index, word in enumerate(parts) if _SCRIPT in word)
        before, words = parts[:place], parts[place + 1 :]
    except ValueError:
        hint = "Close it."
        told.problems.append(Problem("", call[0], "a quotation mark in the call is not closed.", hint))
        before, words = [], []
    if not file.batch and _CUT.search(file.text):
        hint = "Take the comment out, or put it above the call."
        told.problems.append(
            Problem("", "#", "the shell does not read what stands behind a comment in the call.", hint)
        )
    arguments = read_arguments(words, told, family)
    for name, value in list(arguments.items()):
        rule = rule_of(name)
        if _UNKNOWN[file.batch].search(str(value)) and rule is not None and rule.status in ("honoured", "better"):
            hint = "Write the value in place of the variable."
            told.problems.append(
                Problem("", name, f"{printable(str(value))}: the file does not say what that is.", hint)
            )
            del arguments[name]
    configured = _config_file(arguments, told)
    from_file = configured.keys() - arguments.keys()
    arguments = configured | arguments | _launcher(before, told)
    if file.folder:
        text = "relative paths are looked for in the folder that lorasmith is called from"
        told.tell("cd", file.folder, Rule("no effect", "", text))
    if cards := _CARDS.search("\n".join(file.lines())):
        text = "say it to lorasmith itself: CUDA_VISIBLE_DEVICES=... lorasmith ..., or memory.device = cuda:N"
        told.tell("CUDA_VISIBLE_DEVICES", cards[1], Rule("no effect", "", text))
    made = convert_arguments(arguments, "command line", CLI_DEFAULTS, exact=exact, from_file=from_file, family=family)
    made.entries, made.problems = [*told.entries, *made.entries], [*told.problems, *made.problems]
    if family != "sd15":
        made.set("model.family", family)
    return made


def _config_file(arguments: dict[str, Any], told: Conversion) -> dict[str, Any]:
    """What the training TOML behind `--config_file` says, which is taken out of `arguments`; those go before it."""
    given = arguments.pop("config_file", None)
    if not given:
        return {}
    path = kohya_path(str(given) if str(given).endswith(".toml") else f"{given}.toml")
    try:
        content = read_content(path)
    except LoraSmithError as error:
        hint = f"{error.hint} Relative paths are looked for in the folder that lorasmith is called from.".strip()
        told.problems.append(Problem("", "config_file", error.message, hint))
        return {}
    told.tell("config_file", path, HONOURED["config_file"])
    return flattened(content)


def _launcher(words: Sequence[str], told: Conversion) -> dict[str, Any]:
    """What `accelerate launch` is told before the script: the number of processes is taken."""
    if "launch" not in words:
        return {}
    given = " ".join(words[words.index("launch") + 1 :])
    found = re.search(r"--num_processes[= ](\d+)", given)
    if given:
        text = "the trainer starts its own processes" + ("; num_processes is taken" if found else "")
        told.tell("accelerate launch", given, Rule("no effect", "", text))
    return {"num_processes": int(found[1])} if found and int(found[1]) > 1 else {}


def read_arguments(words: Sequence[str], told: Conversion, family: str) -> dict[str, Any]:
    """Arguments by name from words: `--name value`, `--name=value`, `--flag`, and lists up to the next `--`. A name may
    be cut short as long as it is the beginning of one argument only, as `argparse` allows.

    Args:
        told: gets a problem for each word that belongs to no argument, for each argument without its value, and for
            each name that may be several arguments.
        family: whose script it is: "sd15", "sdxl" or "flux".
    """
    found: dict[str, Any] = {}
    name = ""
    waiting: set[str] = set()
    for word in words:
        if word.startswith("--"):
            written, equals, value = word[2:].partition("=")
            name = _argument_name(written.replace("-", "_"), family, told)
            found[name] = ([value] if name in LISTS else value) if equals else [] if name in LISTS else True
            if equals or name in FLAGS or name in NEWER_FLAGS:
                waiting.discard(name)
                if equals and (name in FLAGS or name in NEWER_FLAGS):
                    hint = "Leave the value away, or the whole argument."
                    told.problems.append(
                        Problem("", name, f"{printable(value)!r} is given, but it takes no value.", hint)
                    )
                    del found[name]
                name = name if name in LISTS else ""
            elif name not in LISTS:
                waiting.add(name)
        elif word in ("&&", ";", "||", "|", "pause", "&") or re.match(r"[12]?>", word):
            break
        elif word in _REST:
            text = "what is typed behind the file's name is not known here"
            told.tell("arguments", word, Rule("no effect", "", text))
        elif name in LISTS:
            found[name].append(word)
        elif name:
            found[name] = word
            waiting.discard(name)
            name = ""
        else:
            hint = "Quotation marks keep a value together; variables and lists of a shell must be written out."
            told.problems.append(Problem("", printable(word), "belongs to no argument.", hint))
    for name in sorted(waiting):
        if rule_of(name) is not None:
            told.problems.append(Problem("", name, "no value is given.", "Write it behind the argument."))
            del found[name]
    return {name: value for name, value in found.items() if not name.startswith(_AMBIGUOUS)}


def _argument_name(written: str, family: str, told: Conversion) -> str:
    """The argument that a name, or the beginning of one, stands for in a script; the name itself where it is none."""
    if written in ARGUMENTS:
        return written
    absent = {"flux": frozenset[str](), "sdxl": FLUX_ONLY}.get(family, FLUX_ONLY | NOT_SD15)
    candidates = sorted(name for name in ARGUMENTS - absent if written and name.startswith(written))
    if len(candidates) < 2:
        return candidates[0] if candidates else written
    told.problems.append(
        Problem("", f"--{printable(written)}", f"may be {' or '.join(candidates)}.", "Write the name out.")
    )
    return f"{_AMBIGUOUS}{written}"
