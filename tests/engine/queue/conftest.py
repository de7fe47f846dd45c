"""Queues of their own, and entries that need no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.queue.entry import Entry
from engine.queue.store import NewEntry, Queue


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own folders are others in each test."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("LORASMITH_QUEUE", raising=False)
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(home))


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


Add = Callable[..., list[Entry]]


@pytest.fixture
def add(queue: Queue, tmp_path: Path) -> Add:
    """add("a", "b", memory={...}): waiting entries of these names, whose runs go to tmp_path/<name>."""

    def entries(*names: str, **tables: dict[str, object]) -> list[Entry]:
        return queue.add([
            NewEntry(RunConfig().changed(saving={"output_name": name, "output_dir": str(tmp_path / name)}, **tables))
            for name in names
        ])  # fmt: skip

    return entries
