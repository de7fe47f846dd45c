"""YAML with limits: one document of tables, lists, text, numbers and switches, as JSON could hold it.

Anchors, aliases, tags and merge keys are refused: no trainer's configuration needs them, and a few lines with aliases
can stand for a value of any size. Numbers are read as in JSON, so that `1e-4` is one and `12:30` is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from engine.config.lines import KeyPath
from engine.reading import MAX_DEPTH, check_limits

MAX_YAML = 256 * 2**10
"""Characters: a configuration has some thousand, and the reader takes a second for each 100 000."""
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*)(?:\.\d*)?(?:[eE][-+]?\d+)?|[-+]?\.\d+(?:[eE][-+]?\d+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False, "yes": True, "no": False, "on": True,
          "off": False}  # fmt: skip
_INFINITE = {".inf", "+.inf", "-.inf", ".nan"}
_MOST_DIGITS = 400


class YamlError(ValueError):
    """Text that is no YAML, or has more in it than is read here; the message is one line."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line
        """From 1; 0 where it is the complete text."""


def read_yaml(text: str) -> tuple[Any, dict[KeyPath, int]]:
    """The value of a YAML document, and the line of each key.

    Raises:
        YamlError: it is not valid, or beyond a limit.
    """
    import yaml

    if len(text) > MAX_YAML:
        raise YamlError(f"it is longer than {MAX_YAML // 1024} KiB")
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader))
    try:
        value = reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(_sentence(error.problem or error.context), mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:
        raise YamlError(_sentence(getattr(error, "reason", None) or str(error))) from None
    except RecursionError:
        raise YamlError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    try:
        check_limits(value, surrogates=False)
    except ValueError as error:
        raise YamlError(str(error)) from None
    return value, reader.lines


def _sentence(text: object) -> str:
    return " ".join(str(text).split()) or "it cannot be read"


class _Reader:
    """Builds the value from the parser's events, with a stack of its own instead of recursion."""

    def __init__(self, events: Iterator[Any]) -> None:
        self.events = events
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> Any:
        """The value of the only document; None for an empty text."""
        value: Any = None
        count = 0
        for event in self.events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                count += 1
                if count > 1:
                    message = "it holds several documents (---): give each a file of its own"
                    raise YamlError(message, event.start_mark.line + 1)
            elif name not in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
                value = self._node(event)
        return value

    def _node(self, event: Any) -> Any:
        """The value that begins with `event`."""
        holder: list[Any] = []
        stack: list[tuple[Any, KeyPath]] = [(holder, ())]
        key: str | None = None
        keys: list[str | None] = []
        while True:
            self._refuse(event)
            name, line = type(event).__name__, event.start_mark.line + 1
            container, path = stack[-1]
            if name in ("MappingEndEvent", "SequenceEndEvent"):
                stack.pop()
                key = keys.pop()
            elif isinstance(container, dict) and key is None:
                if name != "ScalarEvent":
                    raise YamlError("a key must be text", line)
                key = str(event.value)
                if key in container:
                    raise YamlError(f"the key {key} is there twice", line)
                if key == "<<":
                    raise YamlError("merge keys (<<) are not read here: write the values out", line)
                self.lines[(*path, key)] = line
                container[key] = None
                event = next(self.events)
                continue
            else:
                value = _scalar(event, line) if name == "ScalarEvent" else {} if name == "MappingStartEvent" else []
                inner = (*path, key) if key is not None else (*path, len(container)) if len(stack) > 1 else ()
                if isinstance(container, dict):
                    container[key] = value
                else:
                    container.append(value)
                    if inner:
                        self.lines.setdefault(inner, line)
                if name != "ScalarEvent":
                    if len(stack) > MAX_DEPTH:
                        raise YamlError(f"it is nested more than {MAX_DEPTH} levels deep", line)
                    stack.append((value, inner))
                    keys.append(None)
                key = None
            if len(stack) == 1:
                return holder[0]
            event = next(self.events)

    @staticmethod
    def _refuse(event: Any) -> None:
        """Refuse what stands for something that is written elsewhere, and tags."""
        line = event.start_mark.line + 1
        if type(event).__name__ == "AliasEvent" or getattr(event, "anchor", None):
            raise YamlError("anchors (&) and aliases (*) are not read here: write the values out", line)
        if getattr(event, "tag", None):
            raise YamlError(f"tags ({event.tag}) are not read here", line)


def _scalar(event: Any, line: int) -> Any:
    """The value of a scalar: quoted and block text is text."""
    text = str(event.value)
    if event.style is not None:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text.lower() in _INFINITE:
        raise YamlError(f"{text} is not a finite number", line)
    if not _NUMBER.fullmatch(text) or len(text) > _MOST_DIGITS:
        return text
    plain = text.replace("_", "")
    return float(plain) if re.search(r"[.eE]", plain) else int(plain)
