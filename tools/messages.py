"""The template for translators: every text of screens and commands, and the titles and helps that the engine's tables
hold and a screen looks up.

    python tools/messages.py        # writes tui/locale/lorasmith.pot
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import write_po

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.captioning.captioner import KINDS  # noqa: E402
from engine.config.form import facts_of, form  # noqa: E402
from engine.results.columns import COLUMNS  # noqa: E402
from engine.runs.phase import Phase  # noqa: E402
from engine.runs.state import LIVE  # noqa: E402


def from_tables() -> Iterator[str]:
    """The texts that stand in a table of the engine."""
    for table in form():
        yield from (table.title, table.help)
        for field in table.fields:
            yield from (field.title, field.help)
    for kind in KINDS.values():
        yield kind.about
        for field in facts_of(kind.options):
            yield from (field.title, field.help)
    yield from (phase.label for phase in Phase)
    yield from (text for column in COLUMNS for text in (column.title, column.heading, column.explanation))
    yield from ("undertrained", "good", "overtrained", "undecidable", "best", "best of these", *LIVE)


def template() -> Catalog:
    """All of them, sorted."""
    catalog = Catalog(project="lorasmith", charset="utf-8")
    for _, _, message, comments, _ in extract_from_dir(ROOT / "tui", [("**.py", "python")]):
        catalog.add(message, auto_comments=comments)
    for text in filter(None, from_tables()):
        catalog.add(text)
    return catalog


def main() -> None:
    """Write it."""
    path = ROOT / "tui" / "locale" / "lorasmith.pot"
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        write_po(file, template(), sort_output=True, omit_header=False)
    print(f"{len(template())} texts in {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
