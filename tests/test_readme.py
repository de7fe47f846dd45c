"""The README is correct."""

from __future__ import annotations

import re
from pathlib import Path

from engine.config import load_config
from engine.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_exit_codes_is_complete() -> None:
    rows: list[str] = re.findall(r"^\| ([\d, ]+) \| .+ \|$", README, re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    assert documented == {int(code) for code in ExitCode}


def test_images_and_files_that_it_names_are_there() -> None:
    named = re.findall(r"\]\(([\w./-]+)\)", README)
    assert "screenshots/demo.png" in named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_settings_that_it_names_exist() -> None:
    assignments = [text for text in re.findall(r"[a-z_]+\.[a-z_]+=[\w.-]+", README) if not text.startswith("http")]
    assert assignments
    load_config(None, assignments)
    config = load_config(None).model_dump()
    for table, key in re.findall(r"`(\w+)\.(\w+)`", README):
        if table in config:
            assert key in config[table]


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
