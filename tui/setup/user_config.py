"""The person's own file, config.toml: defaults of new runs, how the screen is shown, keys. Most people have none."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.paths import expanded, user_config
from engine.reading import MAX_CONFIG, SAVE_AS_UTF8, parse_toml, read_text
from engine.text import printable

if TYPE_CHECKING:
    from engine.config import Problem

IMAGE_MODES = ("auto", "halfblock", "sixel", "kitty", "off")
TABLES = ("defaults", "screen", "keys")
RUN_KEYS = frozenset({
    "saving.output_name", "saving.output_dir", "dataset.train_data_dir", "dataset.reg_data_dir",
    "dataset.validation_data_dir", "dataset.dataset_config", "dataset.class_tokens", "training.changes",
})  # fmt: skip
"""Settings that name or describe one run, and can be no default of all."""
TEMPLATE = """\
# What is set here holds for every new run and every start of the screen. docs/running.md describes it.

[defaults]
# Settings that a preset leaves open, with the names that `lorasmith schema` lists.
# memory.device = "cuda:1"
# saving.save_every_n_epochs = 1

[screen]
# theme = "smith-light"
# images = "halfblock"        # auto, halfblock, sixel, kitty, off
# mouse = false
# low_bandwidth = true
# ascii = true
# notify = false

[keys]
# Other keys for actions, with the names that the help (F1) shows.
# "Save" = "ctrl+s"
"""


@dataclass(frozen=True)
class ScreenDefaults:
    """How the screen is shown; None where the file leaves it open."""

    theme: str | None = None
    images: str | None = None
    mouse: bool | None = None
    low_bandwidth: bool | None = None
    ascii: bool | None = None
    notify: bool | None = None


@dataclass(frozen=True)
class UserConfig:
    """What the file holds."""

    defaults: Mapping[str, tuple[str, Any]] = field(default_factory=dict)
    """Dotted key to (file and line, value)."""
    screen: ScreenDefaults = ScreenDefaults()
    keys: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name of an action to (file and line, key); `tui.display.own_keys` checks both."""

    def beneath(self, preset: str | None) -> Mapping[str, tuple[str, Any]]:
        """The defaults of a new run with this preset; none beneath a file, such as another run's, which is complete."""
        return {} if preset is not None and expanded(preset).is_file() else self.defaults


def user_config_path() -> Path:
    """Where the file is, or would be."""
    return user_config() / "config.toml"


def read_user_config() -> UserConfig:
    """The file's content, read once in a process.

    Raises:
        UsageError: it cannot be read, or something in it is wrong; with its line.
    """
    return _read(user_config_path())


def forget_user_config() -> None:
    """Read the file anew the next time: it was edited."""
    _read.cache_clear()


@cache
def _read(path: Path) -> UserConfig:
    try:
        text = read_text(path, MAX_CONFIG)
    except FileNotFoundError:
        return UserConfig()
    except OSError as error:
        sentence = f"{printable(path)} cannot be read: {error.strerror or error}."
        raise UsageError(sentence, "Check its permissions.", code="user-config-unreadable") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{printable(path)} cannot be read: it is not UTF-8.", SAVE_AS_UTF8, code="user-config-not-utf8"
        ) from None
    return _checked(path, text)


def _checked(path: Path, text: str) -> UserConfig:
    try:
        content = parse_toml(text)
    except ValueError as error:
        from engine.config import ConfigError
        from engine.config.lines import toml_lines
        from engine.config.problems import limit_problem

        raise ConfigError([limit_problem(printable(path), "TOML", error, lambda: toml_lines(text))]) from None
    source = _Source(printable(path), text)
    problems = [
        source.unknown((name,), TABLES)
        for name, table in content.items()
        if name not in TABLES or not isinstance(table, dict)
    ]
    if not problems:
        problems = list(_screen_problems(content.get("screen", {}), source))
        problems += _key_problems(content.get("keys", {}), source)
    defaults: dict[str, tuple[str, Any]] = {}
    if not problems and content.get("defaults"):
        from engine.config.load import read_tables

        defaults, problems = read_tables(content["defaults"], lambda *key: source.where("defaults", *key))
        problems += _run_key_problems(defaults) or _value_problems(defaults)
    if problems:
        from engine.config import ConfigError

        raise ConfigError(problems)
    keys = {name: (source.where("keys", name), key) for name, key in content.get("keys", {}).items()}
    return UserConfig(defaults, ScreenDefaults(**content.get("screen", {})), keys)


@dataclass(frozen=True)
class _Source:
    """The file, for messages."""

    name: str
    text: str

    def where(self, *key: str) -> str:
        """File and line of a key."""
        from engine.config.lines import toml_lines

        return f"{self.name}, line {toml_lines(self.text).get(key, 1)}"

    def unknown(self, key: tuple[str, ...], names: tuple[str, ...]) -> Problem:
        """The problem of a name that does not exist, with the nearest one."""
        from engine.config.problems import Problem

        near = difflib.get_close_matches(key[-1].lower(), names, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}."
        return Problem(self.where(*key), ".".join(key), "unknown table or key.", hint)


def _screen_problems(table: Mapping[str, Any], source: _Source) -> Iterator[Problem]:
    from engine.config.problems import Problem

    names = tuple(entry.name for entry in fields(ScreenDefaults))
    for key, value in table.items():
        if key not in names:
            yield source.unknown(("screen", key), names)
            continue
        if key not in ("theme", "images"):
            valid, allowed = isinstance(value, bool), "true or false"
        else:
            words = _themes() if key == "theme" else IMAGE_MODES
            valid, allowed = value in words, f"one of {', '.join(words)}"
        if not valid:
            message = f"{value!r} is not valid: enter {allowed}."
            yield Problem(source.where("screen", key), f"screen.{key}", message)


def _key_problems(table: Mapping[str, Any], source: _Source) -> list[Problem]:
    from engine.config.problems import Problem

    return [
        Problem(source.where("keys", name), f"keys.{printable(name)}", f"{key!r} is not valid: enter a key as text.")
        for name, key in table.items()
        if not isinstance(key, str) or not key
    ]


def _themes() -> tuple[str, ...]:
    from tui.display.themes import theme_names

    return tuple(theme_names())


def _run_key_problems(defaults: Mapping[str, tuple[str, Any]]) -> list[Problem]:
    from engine.config import Problem

    return [
        Problem(where, key, "it belongs to one run and can be no default.", "Leave it out.")
        for key, (where, _value) in defaults.items()
        if key in RUN_KEYS
    ]


def _value_problems(defaults: Mapping[str, tuple[str, Any]]) -> list[Problem]:
    from engine.config import ConfigError, load_config

    try:
        load_config(defaults=defaults)
    except ConfigError as error:
        return list(error.problems)
    return []


def effective_defaults(preset: str | None) -> dict[str, Any]:
    """The settings that a new run has from the file and not from its preset: dotted key to value.

    Raises:
        UsageError: the preset cannot be read, or the file.
    """
    from engine.config import load_config
    from engine.config.moved import present_key

    defaults = read_user_config().beneath(preset)
    if not defaults:
        return {}
    alone, both = load_config(preset), load_config(preset, defaults=defaults)
    keys = map(present_key, defaults)
    return {key: both.value(key) for key in keys if both.value(key) != alone.value(key)}
