"""A `train.sh`, `.bat` or `.ps1` that calls Kohya's scripts: its arguments are read, nothing is run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import LISTS
from engine.config.kohya.arguments import CLI_DEFAULTS, convert_arguments, flattened
from engine.config.kohya.dataset_file import kohya_path, read_content
from engine.config.kohya.rules import ARGUMENTS, FLAGS, FLUX_ONLY, HONOURED, NEWER_FLAGS, NOT_SD15, rule_of
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
"""Prefix of an ambiguous name; such an entry only collects its values."""
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
    """The parsed shell, batch or PowerShell file.

    Args:
        suffix: of the file's name; without one the language is detected from the text.
        own_folder: the folder of the file, for scripts that use it; "" where it is unknown.
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

    Variables that the file certainly sets are expanded. What is not certain is a problem with its line.

    Args:
        suffix: of the file's name, for the language.
        own_folder: the folder of the file, for scripts that use it; "" where it is unknown.
        exact: taken literally, as with `training.kohya_exact`.
    """
    script, report = script_of(text, suffix, own_folder), Conversion("")
    call = script.call or Call(1, "train_network", [], [])
    family = SCRIPTS[call.script].replace("auto", "sd15")
    arguments = read_arguments(_certain_words(script, call, report, family), report, family)
    configured = _config_file(arguments, report, script)
    from_file = configured.keys() - arguments.keys()
    arguments = configured | arguments | _launcher(call.before, report)
    for name in _READ_FILES:
        if written := _written(script, str(arguments.get(name) or "")):
            hint = "Run that part, and give the arguments as one command, or the TOML."
            report.problems.append(Problem(f"line {written[0]}", name, "the script itself writes this file.", hint))
    if script.folder:
        text = "relative paths are looked for in the folder that lorasmith is called from"
        report.record("cd", script.folder, Rule("no effect", "", text))
    for key, value, remark in script.notes:
        report.record(key, value, Rule("honoured" if remark == OWN_FOLDER else "no effect", "", remark))
    conversion = convert_arguments(
        arguments, "command line", CLI_DEFAULTS, exact=exact, from_file=from_file, family=family
    )
    problems = [*report.problems, *conversion.problems] if script.call is not None else []
    conversion.entries = [*report.entries, *conversion.entries]
    lines = option_lines(text)
    placed = [replace(item, where=item.where or f"line {_line_of(item.key, lines, call.line)}") for item in problems]
    conversion.problems = [*script.problems, *placed]
    if family != "sd15":
        conversion.set("model.family", family)
    if "--cpu" in launcher(call.before):
        conversion.set("memory.device", "cpu", "cpu")
    return conversion


def option_lines(text: str) -> dict[str, int]:
    """Line of each option in a script, the last one of a repeated option; an abbreviation counts for every argument
    that it may be."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for option in re.findall(r"(?<!\S)[\"']?--([\w-]+)", line):
            name = option.replace("-", "_")
            names = [] if name in ARGUMENTS else [argument for argument in ARGUMENTS if argument.startswith(name)]
            lines |= dict.fromkeys([name, *names], number)
    return lines


def _line_of(key: str, lines: Mapping[str, int], default: int) -> int:
    names = (key, key.removeprefix("--"), *key.split())
    return next((lines[name] for name in names if name in lines), default)


def _certain_words(script: Script, call: Call, conversion: Conversion, family: str) -> list[str]:
    """The arguments of the call; an uncertain one is a problem and left out, unless it has no effect here."""
    words: list[str] = []
    written = option = ""
    for word in call.words:
        if word.startswith("--"):
            written = word[2:].partition("=")[0]
            meant = _candidates(written.replace("-", "_"), family)
            option = meant[0] if len(meant) == 1 else written.replace("-", "_")
        if word == REST:
            conversion.record(
                "arguments", "$@", Rule("no effect", "", "arguments after the file's name are unknown here")
            )
            continue
        inline, follows = word.startswith(f"--{written}="), words[-1:] == [f"--{written}"] and option not in FLAGS
        rule = rule_of(option) if inline or follows or option in LISTS else None
        if not UNSURE.search(word) or (rule is not None and rule.status == "no effect"):
            words.append(plain(word))
            continue
        if follows and not word.startswith("--"):
            words.pop()
        source = plain(word.partition("=")[2] if inline else word)
        reason = next((script.reasons[part] for part in UNSURE.findall(word) if part in script.reasons), "")
        message = f"{printable(source)}: {reason or 'the file does not define it'}."
        script.problem(call.line, option if rule is not None else "", message, f"Write it out. {HINT}")
    return words


def _written(script: Script, path: str) -> tuple[int, str | None] | None:
    """Line and text of a file that the script writes itself; an uncertain text is None."""
    if not path:
        return None
    exact = script.written.get(path_key(path))
    alike = [name for name in script.written if name.rpartition("/")[2] == path_key(path).rpartition("/")[2]]
    return exact or ((script.written[alike[0]][0], None) if alike else None)


def _config_file(arguments: dict[str, Any], conversion: Conversion, script: Script) -> dict[str, Any]:
    """The content of the training TOML of `--config_file`, which is removed from `arguments`; these have precedence."""
    value = arguments.pop("config_file", None)
    if not value:
        return {}
    name = str(value) if str(value).endswith(".toml") else f"{value}.toml"
    path, written = kohya_path(name), _written(script, name)
    try:
        if written is None:
            content = read_content(path)
        elif written[1] is None:
            hint = "Run that part, and give the TOML, or write the arguments as one command."
            raise UsageError(
                f"{printable(name)} is written by line {written[0]}, {script.quoted(written[0])}.",
                hint,
                code="config-written-by-script",
            )
        else:
            content = parse_toml(written[1])
    except LoraSmithError as error:
        hint = f"{error.hint} Relative paths are looked for in the folder that lorasmith is called from.".strip()
        conversion.problems.append(Problem("", "config_file", error.message, hint))
        return {}
    except ValueError as error:
        conversion.problems.append(
            Problem(f"line {written[0] if written else 1}", name, f"not valid TOML: {error}.", HINT)
        )
        return {}
    conversion.record("config_file", path, HONOURED["config_file"])
    return flattened(content)


def _launcher(words: list[str], conversion: Conversion) -> dict[str, Any]:
    """The options of `accelerate launch` or a similar launcher: the number of processes and `--cpu` are used."""
    options = " ".join(launcher(words))
    match = _PROCESSES.search(options)
    if options:
        used = ["num_processes"] if match else []
        used += ["cpu"] if "--cpu" in launcher(words) else []
        verb = "is" if len(used) == 1 else "are"
        text = "the trainer starts its own processes" + (f"; {' and '.join(used)} {verb} taken" if used else "")
        conversion.record("accelerate launch", options, Rule("no effect", "", text))
    return {"num_processes": int(match[1])} if match and int(match[1]) > 1 else {}


def read_arguments(words: Sequence[str], conversion: Conversion, family: str) -> dict[str, Any]:
    """Arguments by name from words: `--name value`, `--name=value`, `--flag`, and lists up to the next `--`. A name may
    be abbreviated where that is unambiguous, as `argparse` allows.

    Args:
        conversion: gets a problem for each word that belongs to no argument, for each argument without its value, and
            for each name that may be several arguments.
        family: of the script: "sd15", "sdxl" or "flux".
    """
    arguments: dict[str, Any] = {}
    name = ""
    waiting: set[str] = set()
    for word in words:
        if word.startswith("--"):
            written, equals, value = word[2:].partition("=")
            name = _argument_name(written.replace("-", "_"), family, conversion)
            if arguments.get(name, True) is not True and name in ARGUMENTS:
                remark = "it is given again, and the last one counts, as in Kohya"
                conversion.record(name, arguments[name], Rule("no effect", "", remark))
            arguments[name] = ([value] if name in LISTS else value) if equals else [] if name in LISTS else True
            if equals or name in FLAGS or name in NEWER_FLAGS:
                waiting.discard(name)
                if equals and (name in FLAGS or name in NEWER_FLAGS):
                    hint = "Remove the value, or the complete argument."
                    conversion.problems.append(
                        Problem("", name, f"{printable(value)!r} is given, but it takes no value.", hint)
                    )
                    del arguments[name]
                name = name if name in LISTS else ""
            elif name not in LISTS:
                waiting.add(name)
        elif name in LISTS:
            arguments[name].append(word)
        elif name:
            arguments[name] = word
            waiting.discard(name)
            name = ""
        else:
            hint = "Quotation marks keep a value together; variables and lists of a shell must be written out."
            conversion.problems.append(Problem("", printable(word), "belongs to no argument.", hint))
    for name in sorted(waiting):
        if rule_of(name) is not None:
            conversion.problems.append(Problem("", name, "no value is given.", "Write it after the argument."))
            del arguments[name]
    return {name: value for name, value in arguments.items() if not name.startswith(_AMBIGUOUS)}


def _candidates(written: str, family: str) -> list[str]:
    """The arguments of a family's script that a name or abbreviation may mean."""
    if written in ARGUMENTS:
        return [written]
    absent = {"flux": frozenset[str](), "sdxl": FLUX_ONLY}.get(family, FLUX_ONLY | NOT_SD15)
    return sorted(name for name in ARGUMENTS - absent if written and name.startswith(written))


def _argument_name(written: str, family: str, conversion: Conversion) -> str:
    """The argument that a name or abbreviation means in a script; the name itself where there is none."""
    candidates = _candidates(written, family)
    if len(candidates) < 2:
        return candidates[0] if candidates else written
    conversion.problems.append(
        Problem("", f"--{printable(written)}", f"may be {' or '.join(candidates)}.", "Write the name out.")
    )
    return f"{_AMBIGUOUS}{written}"
