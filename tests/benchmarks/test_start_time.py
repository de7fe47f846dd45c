"""The comparison of two checkouts by the time to their first step, on two small images."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import start_time
from tests.soak import mostly_soaked


@pytest.mark.slow  # the trainer's process starts six times
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", mostly_soaked([[], ["--command"]], [[]]))
def test_both_sides_are_printed(
    what: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start_time, "SIZE", (120, 90))
    words = ["--images", "2", "--rounds", "1", "--cold", "0", "--other", str(start_time.ROOT), "--place", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["start_time.py", *words, *what])
    start_time.main()
    lines = capsys.readouterr().out.splitlines()
    assert "| start | here | other |" in lines
    assert [line.split(" |")[0] for line in lines[-3:]] == ["| filled", "| cached", "| resume"]
    assert all(line.count("(1)") == 2 for line in lines[-3:])
    assert not list(tmp_path.iterdir()), "images and caches are removed"
