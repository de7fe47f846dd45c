"""The registry of adapter kinds, and what installed packages bring to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from engine.adapters.kinds import registry
from engine.adapters.kinds.registry import kinds, trained_kind
from engine.config.schema import NetworkTable
from tests.refusals import refused

Install = Callable[[str], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Let a package bring the class at this place."""

    def installed(place: str) -> None:
        monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("brought", place, group)])
        kinds.cache_clear()

    yield installed
    kinds.cache_clear()


def test_a_run_trains_lora_unless_a_package_brings_what_its_settings_choose(install: Install) -> None:
    assert trained_kind(NetworkTable()).name == "LoRA"
    install("tests.toy_kind:Cross")
    assert trained_kind(NetworkTable()).name == "cross" and kinds().named("cross with DoRA").needs_weight


@pytest.mark.parametrize("place", ["tests.no_such_module:Kind", "tests.toy_kind:Missing"])
def test_a_kind_that_cannot_be_loaded_is_named(install: Install, place: str) -> None:
    install(place)
    with refused("plugin-not-loadable", "brought", place):
        kinds()


def test_no_two_kinds_share_a_name_or_the_end_of_a_key() -> None:
    every = kinds().all
    assert len({kind.name for kind in every}) == len(every)
    ends = [end for kind in every for end in kind.ends]
    assert len(set(ends)) == len(ends)
    for kind in every:
        assert kind.marks or kind.name == "BOFT"
        assert set(kind.needed) <= {part for part, _ in kinds().ends.values()} | {"weight"}
