"""Texts of screens and commands can be translated: they are found, and a catalogue is used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo

from tools.messages import template
from tui.texts import catalogue

ROOT = Path(__file__).parents[2]
FUNCTIONS = {"_": 1, "ngettext": 2}
"""How many of the first arguments are texts."""


def calls() -> Iterator[tuple[str, ast.Call, int]]:
    for path in sorted((ROOT / "tui").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node, FUNCTIONS[node.func.id]


TABLES = {
    "facts.title", "facts.help", "kind.about", "KINDS[name].about", "row.title", "column.title", "best.verdict.kind",
    "name", "Phase.label_of", "each.heading or each.title", "each.explanation", "column.explanation", "learned.title",
    "BY_NAME['response'].heading", "best_words", "kind", "run.state",
}  # fmt: skip
"""What may be looked up that is no text of its place: `tools/messages.py` takes these from the engine's tables."""


def test_every_text_is_found_by_whoever_translates() -> None:
    """A text that is put together before it is looked up is in no catalogue."""
    wrong = []
    for place, call, count in calls():
        for text in call.args[:count]:
            source = ast.unparse(text.func if isinstance(text, ast.Call) else text)
            source = "Phase.label_of" if "Phase.label_of(" in ast.unparse(text) else source
            if not isinstance(text, ast.Constant) and source not in TABLES:
                wrong.append(f"{place}: {source}")
    assert not wrong


def test_the_template_has_what_screens_and_tables_show() -> None:
    catalog = template()
    assert {"Results", "Learning rate", "loading", "overtrained", "Learned"} <= {
        message.id for message in catalog if isinstance(message.id, str)
    }
    assert len(catalog) > 1000 and any(message.pluralizable for message in catalog)


def test_a_catalogue_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGUAGE", "de")
    assert catalogue(tmp_path).gettext("Results") == "Results"
    translated = Catalog("de")
    translated.add("Results", "Ergebnisse")
    translated.add(("{0} file", "{0} files"), ("{0} Datei", "{0} Dateien"))
    place = tmp_path / "de" / "LC_MESSAGES"
    place.mkdir(parents=True)
    with (place / "lorasmith.mo").open("wb") as file:
        write_mo(file, translated)
    german = catalogue(tmp_path)
    assert (german.gettext("Results"), german.gettext("Folder")) == ("Ergebnisse", "Folder")
    assert german.ngettext("{0} file", "{0} files", 3).format(3) == "3 Dateien"
