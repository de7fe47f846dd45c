"""Other keys for actions, from the person's own file: names as in the help, "Save" = "ctrl+s"."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import replace

from textual.app import App
from textual.binding import Binding, BindingsMap
from textual.dom import DOMNode
from textual.keys import Keys, _character_to_key
from textual.screen import Screen

from engine.config import ConfigError, Problem
from engine.text import printable

MODIFIERS = ("ctrl", "alt", "shift", "super")
_NAMED = {key.value for key in Keys} | {_character_to_key(chr(code)) for code in range(33, 127)}
Wanted = Mapping[str, tuple[str, str]]
"""Name of an action in small letters to (file and line, key)."""


def bind_own_keys(keys: Mapping[str, tuple[str, str]]) -> None:
    """Give actions other keys, on every screen that has them.

    Args:
        keys: name of an action to (file and line, key).

    Raises:
        ConfigError: no such action or key, or two actions of a screen would share one; then nothing is changed.
    """
    if not keys:
        return
    kinds = list(_own_kinds())
    wanted = {name.lower(): place for name, place in keys.items()}
    problems = list(_unknown(keys, {binding.description for kind in kinds for binding in _declared(kind)}))
    wanted = {name: (where, _character_to_key(key) if len(key) == 1 else key) for name, (where, key) in wanted.items()}
    if not problems:
        maps = {kind: _rebound(kind, wanted) for kind in kinds}
        problems = list(_clashes(maps, wanted))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    for kind, bindings in maps.items():
        kind._merged_bindings = bindings


def _own_kinds() -> Iterator[type[DOMNode]]:
    """The app, its screens and widgets with keys of our own."""
    import tui.app
    import tui.screens
    import tui.widgets

    for package in (tui.screens, tui.widgets):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    waiting: list[type[DOMNode]] = [DOMNode]
    seen: set[type[DOMNode]] = set()
    while waiting:
        kind = waiting.pop()
        if kind not in seen:
            seen.add(kind)
            waiting += kind.__subclasses__()
            if kind.__module__.startswith("tui.") and kind._merged_bindings is not None:
                yield kind


def _declared(kind: type[DOMNode]) -> list[Binding]:
    """The named actions of our own that a class has, by itself or from a base class."""
    classes = [base for base in kind.__mro__ if base.__module__.startswith("tui.")]
    made = [binding for base in classes for binding in Binding.make_bindings(vars(base).get("BINDINGS", ()))]
    return [binding for binding in made if binding.description]


def _unknown(keys: Mapping[str, tuple[str, str]], names: set[str]) -> Iterator[Problem]:
    by_small = {name.lower(): name for name in names}
    for name, (where, key) in keys.items():
        subject = f"keys.{printable(name)}"
        if name.lower() not in by_small:
            near = difflib.get_close_matches(name.lower(), by_small, n=1)
            hint = f"Did you mean {by_small[near[0]]}?" if near else "F1 lists the actions of each screen."
            yield Problem(where, subject, "there is no such action.", hint)
        parts = key.split("+") if key != "+" else [key]
        if not all(part in MODIFIERS for part in parts[:-1]) or not (len(parts[-1]) == 1 or parts[-1] in _NAMED):
            yield Problem(where, subject, f"{key!r} is not a key.", "Write it like s, f5, ctrl+s or alt+left.")


def _rebound(kind: type[DOMNode], wanted: Wanted) -> BindingsMap:
    """The keys of a class with those of the file."""
    own = {(binding.action, binding.description) for binding in _declared(kind)}
    changed: dict[str, list[Binding]] = {}
    assert kind._merged_bindings is not None
    for key, binding in kind._merged_bindings:
        place = wanted.get(binding.description.lower())
        if place is None or (binding.action, binding.description) not in own:
            changed.setdefault(key, []).append(binding)
        elif binding.action not in [there.action for there in changed.get(place[1], ())]:
            changed.setdefault(place[1], []).append(replace(binding, key=place[1], key_display=None))
    return BindingsMap.from_keys(changed)


def _clashes(maps: Mapping[type[DOMNode], BindingsMap], wanted: Wanted) -> Iterator[Problem]:
    """Keys of the file that another action has: of a screen's action in itself, in the app and in our widgets; of
    theirs anywhere, because they are on many screens."""
    shared = [kind for kind in maps if not issubclass(kind, Screen)]
    for kind, bindings in maps.items():
        for key, binding in bindings:
            place = wanted.get(binding.description.lower())
            if place is None or place[1] != key:
                continue
            if issubclass(kind, App) and binding.priority and "+" not in key and len(key) == 1:
                message = f"{key} is typed into fields; this action works in them too."
                yield Problem(place[0], f"keys.{binding.description}", message, "Choose a key with ctrl.")
            beside = (kind, *shared) if issubclass(kind, Screen) else maps
            others = [other for near in beside for other in maps[near].key_to_bindings.get(key, ())]
            for other in others:
                if other.action != binding.action and other.description:
                    message = f"{key} is the key of “{other.description}” already."
                    yield Problem(place[0], f"keys.{binding.description}", message, "Choose another key for one.")
