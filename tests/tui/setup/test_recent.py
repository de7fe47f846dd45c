"""The models that were used last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tui.setup import recent
from tui.setup.recent import gone, recent_models, record_model


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "lorasmith" / "models.json"


def test_the_newest_first_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert recent_models() == []
    for model in ("/a", "owner/name", "/caf\udce9", "/a"):
        assert record_model(model) is None
    assert recent_models() == ["/a", "/caf\udce9", "owner/name"]
    monkeypatch.setattr(recent, "MOST", 2)
    record_model("/b")
    assert recent_models() == ["/b", "/a"]


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '[1, "", null]'])
def test_a_broken_list_is_none(state: Path, text: str) -> None:
    state.parent.mkdir()
    state.write_text(text)
    assert recent_models() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_list_that_cannot_be_kept_is_reported(state: Path) -> None:
    state.parent.mkdir(mode=0o500)
    assert "is not kept" in (record_model("/a") or "")


def test_a_state_folder_that_is_a_file_is_reported(state: Path) -> None:
    state.parent.touch()
    assert "is not kept" in (record_model("/a") or "")


def test_what_is_gone(tmp_path: Path) -> None:
    there = tmp_path / "m.safetensors"
    there.touch()
    assert gone([str(there), str(tmp_path / "x"), "owner/name"]) == {str(tmp_path / "x")}
