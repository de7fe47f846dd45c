"""`lorasmith --preset … --prepare`: the folder of a run for other launchers, and nothing started."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from engine.runs import RunDir, true_state
from tui.main import run


def test_it_writes_the_folder_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = tmp_path / "run"
    assert run(["--preset", "demo", "--output_dir", str(place), "--prepare"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(place) and f"lorasmith resume {place}" in shown.err
    state = true_state(RunDir(place))
    assert (state.state, state.detail) == ("stopped", "it is prepared, and was not started yet")
    assert (place / "smithy.toml").is_file() and not (place / ".run" / "events.jsonl").exists()
    assert not [child for child in psutil.Process().children() if "engine.training" in child.cmdline()]
    assert run(["runs", "--json"]) == 0
    (known,) = json.loads(capsys.readouterr().out)["runs"]
    assert known["state"] == "stopped"


def test_it_needs_a_preset() -> None:
    assert run(["--prepare"]) == 2
