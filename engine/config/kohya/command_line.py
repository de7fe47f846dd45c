"""A `train.sh`, `.bat` or `.ps1` that calls Kohya's scripts: its arguments are read, and nothing of it is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.config.kohya.argument_values import LISTS
from engine.config.kohya.arguments import CLI_DEFAULTS, Conversion, convert_arguments, flattened
from engine.config.kohya.dataset_file import kohya_path, read_content
from engine.config.kohya.rules import ARGUMENTS, FLAGS, FLUX_ONLY, HONOURED, NEWER_FLAGS, NOT_SD15, Rule, rule_of
from engine.config.kohya.scripts.batch import BatchScript
from engine.config.kohya.scripts.posix import PosixScript
from engine.config.kohya.scripts.powershell import PowerShellScript
from engine.config.kohya.scripts.script import (
    HINT,
    MENTION,
    OWN_FOLDER,
    REST,
    SCRIPTS,
    UNSURE,
    Call,
    Script,
    is_comment,
    launcher,
    path_key,
    plain,
)
from engine.config.problems import Problem
from engine.errors import LoraSmithError, UsageError
from engine.reading import parse_toml
from engine.text import printable

_AMBIGUOUS = "\0"
"""Before a name that may be several arguments; it only takes its values out of the way."""
_BATCH = re.compile(r"^\s*@?(?:echo off|set\s|rem\b|::)|[A-Za-z]:\\|\^\s*$", re.IGNORECASE | re.MULTILINE)
_POWERSHELL = re.compile(
    r"^\s*\$(?:env:)?\w+\s*\+?=|`[ \t]*$|^\s*write-(?:host|output)\b", re.IGNORECASE | re.MULTILINE
)
_LANGUAGES = {".sh": PosixScript, ".bash": PosixScript, ".zsh": PosixScript, ".bat": BatchScript, ".cmd": BatchScript,
              ".ps1": PowerShellScript}  # fmt: skip
_PROCESSES = re.compile(r"--(?:num[_-]processes|nproc[_-]per[_-]node|num_gpus)[= ](\d+)(?!\S)")
_READ_FILES = ("dataset_config", "sample_prompts")


def is_command_line(text: str) -> bool:
    """Whether a text file calls one of the LoRA scripts."""
    return any(MENTION.search(line) for line in text.splitlines() if not is_comment(line))


def script_of(text: str, suffix: str = "", own_folder: str = "") -> Script:
    """A shell, batch or PowerShell file, read.

    Args:
        suffix: of the file's name; without one the text shows the language.
        own_folder: that the file is in, for scripts that ask for it; "" where it is not known.
    """
    language: type[Script] = PosixScript
    if suffix.lower() in _LANGUAGES:
        language = _LANGUAGES[suffix.lower()]
    elif not text.startswith("#!"):
        language = PowerShellScript if _POWERSHELL.search(text) else BatchScript if _BATCH.search(text) else language
    script = language(text, own_folder)
    script.finish()
    return script


def convert_command_line(text: str, *, suffix: str = "", own_folder: str = "", exact: bool = False) -> Conversion:
    """A configuration for the call of a LoRA script in a shell, batch or PowerShell file.

    Variables that the file itself surely sets are put in. What is not surely understood is a problem with its line.

    Args:
        suffix: of the file's name, which tells the language.
        own_folder: that the file is in, for scripts that ask for it; "" where it is not known.
        exact: taken at its word, as with `training.kohya_exact`.
    """
    script, told = script_of(text, suffix, own_folder), Conversion("")
    call = script.call or Call(1, "train_network", [], [])
    family = SCRIPTS[call.script].replace("auto", "sd15")
    arguments = read_arguments(_certain_words(script, call, told, family), told, family)
    configured = _config_file(arguments, told, script)
    from_file = configured.keys() - arguments.keys()
    arguments = configured | arguments | _launcher(call.before, told)
    for name in _READ_FILES:
        if written := _written(script, str(arguments.get(name) or "")):
            hint = "Run that part, and give the arguments as one command, or the TOML."
            told.problems.append(Problem(f"line {written[0]}", name, "the script itself writes this file.", hint))
    if script.folder:
        text = "relative paths are looked for in the folder that lorasmith is called from"
        told.tell("cd", script.folder, Rule("no effect", "", text))
    for key, value, remark in script.notes:
        told.tell(key, value, Rule("honoured" if remark == OWN_FOLDER else "no effect", "", remark))
    made = convert_arguments(arguments, "command line", CLI_DEFAULTS, exact=exact, from_file=from_file, family=family)
    found = [*told.problems, *made.problems] if script.call is not None else []
    made.entries = [*told.entries, *made.entries]
    lines = option_lines(text)
    placed = [replace(one, where=one.where or f"line {_line_of(one.key, lines, call.line)}") for one in found]
    made.problems = [*script.problems, *placed]
    if family != "sd15":
        made.set("model.family", family)
    return made


def option_lines(text: str) -> dict[str, int]:
    """Line of each option that is written in a script, the last one where it is there twice; an option that is cut
    short stands for every argument that it may be."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for option in re.findall(r"(?<!\S)[\"']?--([\w-]+)", line):
            name = option.replace("-", "_")
            names = [] if name in ARGUMENTS else [known for known in ARGUMENTS if known.startswith(name)]
            found |= dict.fromkeys([name, *names], number)
    return found


def _line_of(key: str, lines: Mapping[str, int], default: int) -> int:
    names = (key, key.removeprefix("--"), *key.split())
    return next((lines[name] for name in names if name in lines), default)


def _certain_words(script: Script, call: Call, told: Conversion, family: str) -> list[str]:
    """The arguments of the call; one that is not certain is a problem and left out, unless it has no effect here."""
    words: list[str] = []
    written = option = ""
    for word in call.words:
        if word.startswith("--"):
            written = word[2:].partition("=")[0]
            meant = _candidates(written.replace("-", "_"), family)
            option = meant[0] if len(meant) == 1 else written.replace("-", "_")
        if word == REST:
            told.tell(
                "arguments", "$@", Rule("no effect", "", "what is typed behind the file's name is not known here")
            )
            continue
        inline, follows = word.startswith(f"--{written}="), words[-1:] == [f"--{written}"] and option not in FLAGS
        rule = rule_of(option) if inline or follows or option in LISTS else None
        if not UNSURE.search(word) or (rule is not None and rule.status == "no effect"):
            words.append(plain(word))
            continue
        if follows and not word.startswith("--"):
            words.pop()
        shown = plain(word.partition("=")[2] if inline else word)
        reason = next((script.reasons[part] for part in UNSURE.findall(word) if part in script.reasons), "")
        message = f"{printable(shown)}: {reason or 'the file does not say what that is'}."
        script.problem(call.line, option if rule is not None else "", message, f"Write it out. {HINT}")
    return words


def _written(script: Script, path: str) -> tuple[int, str | None] | None:
    """Line and text of a file that the script writes itself; a text that is not certain is None."""
    if not path:
        return None
    exact = script.written.get(path_key(path))
    alike = [one for one in script.written if one.rpartition("/")[2] == path_key(path).rpartition("/")[2]]
    return exact or ((script.written[alike[0]][0], None) if alike else None)


def _config_file(arguments: dict[str, Any], told: Conversion, script: Script) -> dict[str, Any]:
    """What the training TOML behind `--config_file` says, which is taken out of `arguments`; those go before it."""
    given = arguments.pop("config_file", None)
    if not given:
        return {}
    name = str(given) if str(given).endswith(".toml") else f"{given}.toml"
    path, written = kohya_path(name), _written(script, name)
    try:
        if written is None:
            content = read_content(path)
        elif written[1] is None:
            hint = "Run that part, and give the TOML, or write the arguments as one command."
            raise UsageError(f"{printable(name)} is written by line {written[0]}, {script.shown(written[0])}.", hint)
        else:
            content = parse_toml(written[1])
    except LoraSmithError as error:
        hint = f"{error.hint} Relative paths are looked for in the folder that lorasmith is called from.".strip()
        told.problems.append(Problem("", "config_file", error.message, hint))
        return {}
    except ValueError as error:
        told.problems.append(Problem(f"line {written[0] if written else 1}", name, f"not valid TOML: {error}.", HINT))
        return {}
    told.tell("config_file", path, HONOURED["config_file"])
    return flattened(content)


def _launcher(words: list[str], told: Conversion) -> dict[str, Any]:
    """What `accelerate launch` or its like is given before the script: the number of processes is taken."""
    given = " ".join(launcher(words))
    found = _PROCESSES.search(given)
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
            if found.get(name, True) is not True and name in ARGUMENTS:
                remark = "it is given again, and the last one counts, as in Kohya"
                told.tell(name, found[name], Rule("no effect", "", remark))
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


def _candidates(written: str, family: str) -> list[str]:
    """The arguments of a family's script that a name, or the beginning of one, may stand for."""
    if written in ARGUMENTS:
        return [written]
    absent = {"flux": frozenset[str](), "sdxl": FLUX_ONLY}.get(family, FLUX_ONLY | NOT_SD15)
    return sorted(name for name in ARGUMENTS - absent if written and name.startswith(written))


def _argument_name(written: str, family: str, told: Conversion) -> str:
    """The argument that a name, or the beginning of one, stands for in a script; the name itself where it is none."""
    candidates = _candidates(written, family)
    if len(candidates) < 2:
        return candidates[0] if candidates else written
    told.problems.append(
        Problem("", f"--{printable(written)}", f"may be {' or '.join(candidates)}.", "Write the name out.")
    )
    return f"{_AMBIGUOUS}{written}"
