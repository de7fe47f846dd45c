"""A `train.sh` or `.bat` that calls Kohya's scripts: its arguments are read, and nothing of it is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from engine.config.kohya.arguments import CLI_DEFAULTS, Conversion, convert_arguments

SCRIPTS = {"sdxl_train_network": "sdxl", "flux_train_network": "flux", "train_network": "auto"}
LISTS = frozenset(["network_args", "optimizer_args", "lr_scheduler_args", "text_encoder_lr", "base_weights",
                   "base_weights_multiplier"])  # fmt: skip
_CALL = re.compile(r"(sdxl_train_network|flux_train_network|(?<![\w])train_network)(\.py)?")
_VARIABLE = re.compile(r"^\s*(?:export\s+|set\s+)?([A-Za-z_]\w*)=(.*)$")
_USE = re.compile(r"\$\{(\w+)\}|\$(\w+)|%(\w+)%")


def is_command_line(text: str) -> bool:
    """Whether a text file calls one of the LoRA scripts."""
    return _CALL.search(text) is not None


def convert_command_line(text: str, *, exact: bool = False) -> Conversion:
    """A configuration for the first call of a LoRA script in a shell or batch file.

    Variables that the file itself sets are put in; anything else of a shell is not understood and not run.
    """
    lines = re.sub(r"[\\^`]\s*\r?\n", " ", text).splitlines()
    variables: dict[str, str] = {}
    for line in lines:
        call = _CALL.search(line)
        if call is None:
            if match := _VARIABLE.match(line):
                variables[match[1]] = _filled(match[2].strip().strip("\"'"), variables)
            continue
        rest = _filled(line[call.end() :], variables)
        arguments = read_arguments(_words(rest))
        made = convert_arguments(arguments, "command line", CLI_DEFAULTS, exact=exact)
        if SCRIPTS[call[1]] != "auto":
            made.set("model.family", SCRIPTS[call[1]])
        return made
    return convert_arguments({}, "command line", CLI_DEFAULTS)


def _words(text: str) -> list[str]:
    if "\\" in text and re.search(r"[A-Za-z]:\\", text):  # a Windows path: backslashes are no escapes
        return [word.strip("\"'") for word in re.findall(r"\"[^\"]*\"|'[^']*'|\S+", text)]
    return shlex.split(text, comments=True)


def _filled(text: str, variables: dict[str, str]) -> str:
    return _USE.sub(lambda match: variables.get(match[1] or match[2] or match[3], match[0]), text)


def read_arguments(words: Sequence[str]) -> dict[str, Any]:
    """Arguments by name from words: `--name value`, `--name=value`, `--flag`, and lists up to the next `--`."""
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = ([value] if name in LISTS else value) if equals else [] if name in LISTS else True
        elif word in ("&&", ";", "||", "|", "pause", "&"):
            break
        elif name in LISTS:
            found[name].append(word)
        elif name:
            found[name] = word
            name = ""
    return found
