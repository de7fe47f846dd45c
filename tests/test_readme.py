"""The README is correct, and the page of the command line."""

from __future__ import annotations

import re
from pathlib import Path

from engine.config import load_config
from engine.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()
OF_OTHERS = {"other-trainers.md"}
"""Pages with the keys of other programs, which have tables of these names."""


def test_the_table_of_exit_codes_is_complete() -> None:
    rows: list[str] = re.findall(r"^\| ([\d, ]+) \| .+ \|$", COMMAND_LINE, re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    assert documented == {int(code) for code in ExitCode}


def test_it_shows_the_demo() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([\w./-]+)\)", README)
    assert shown[0] == "screenshots/animation.gif"
    assert "screenshots/demo.png" in shown


def test_settings_that_the_documents_name_exist() -> None:
    config = load_config(None).model_dump()
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = [path.read_text() for path in pages if path.name not in OF_OTHERS]
    pairs = {pair for text in texts for pair in re.findall(r"`(\w+)\.(\w+)`", text)}
    named = {(table, key) for table, key in pairs if table in config and key != "toml"}
    assert len(named) > 50
    assert {f"{table}.{key}" for table, key in named if key not in config[table]} == set()


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command}" in README
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make test" in (ROOT / ".ci" / "run").read_text()
