"""Other keys for actions: what is refused, and that footer and help have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.dom import DOMNode

from tests.refusals import refused
from tui.app import LoraSmithApp
from tui.display.own_keys import _own_kinds, bind_own_keys
from tui.screens.dashboard import DashboardScreen
from tui.screens.home import HomeScreen


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {kind: kind._merged_bindings for kind in _own_kinds()}
    yield
    for kind, bindings in before.items():
        kind._merged_bindings = bindings


def keys_of(kind: type[DOMNode], description: str) -> list[str]:
    assert kind._merged_bindings is not None
    return [key for key, binding in kind._merged_bindings if binding.description == description]


def bind(**keys: str) -> None:
    bind_own_keys(
        {name.replace("_", " "): (f"config.toml, line {n}", key) for n, (name, key) in enumerate(keys.items())}
    )


def test_an_action_has_only_its_new_key() -> None:
    assert keys_of(LoraSmithApp, "Help") == ["f1"] and keys_of(HomeScreen, "Help") == ["f1", "question_mark"]
    bind(help="f9", New_run="+")
    for kind in (LoraSmithApp, HomeScreen, DashboardScreen):
        assert keys_of(kind, "Help") == ["f9"]
    assert keys_of(HomeScreen, "New run") == ["plus"] and keys_of(HomeScreen, "From file") == ["f"]


def test_two_actions_change_places() -> None:
    first, second = keys_of(HomeScreen, "New run")[0], keys_of(HomeScreen, "From file")[0]
    bind(New_run=second, From_file=first)
    assert (keys_of(HomeScreen, "New run"), keys_of(HomeScreen, "From file")) == ([second], [first])


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"New_ran": "z"}, ("line 0", "keys.New ran", "New run")),
        ({"New_run": "d"}, ("line 0", "keys.New run", "d is the key of", "Delete")),
        ({"New_run": "ctrl+q"}, ("keys.New run", "Quit")),
        ({"Quit": "n"}, ("keys.Quit", "typed into fields")),
        ({"Quit": "ctrl+n"}, ("keys.Quit", "ctrl+n is the key of")),
        ({"New_run": "strg+n"}, ("keys.New run", "'strg+n' is not a key")),
        ({"New_run": "f99x"}, ("keys.New run", "'f99x' is not a key")),
        ({"New_run": "z", "From_file": "z"}, ("z is the key of", "From file", "New run")),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(keys: dict[str, str], parts: tuple[str, ...]) -> None:
    before = keys_of(HomeScreen, "New run")
    with refused("config-invalid", *parts):
        bind(**keys)
    assert keys_of(HomeScreen, "New run") == before
