"""The table of a run's files, each with its verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.results.verdict import JudgedFile
from tui.text.results import ranks, rows
from tui.texts import _
from tui.widgets.row_table import Entry, RowTable

COLUMNS = (
    ("file", _("File")),
    ("verdict", _("Verdict")),
    ("epoch", _("Epoch")),
    ("step", _("Step")),
    ("learned", _("Learned")),
    ("prompt", _("Prompt")),
)


class FileTable(RowTable):
    """One row per file; the row's key is its path."""

    ORDERS = (_("step"), _("name"), _("how much is learned"), _("verdict"), _("favourites first"))
    ORDER_OF = {"step": 0, "file": 1, "learned": 2, "verdict": 3}  # noqa: RUF012 - not changed

    def __init__(self) -> None:
        super().__init__([(name, title, None) for name, title in COLUMNS])

    @property
    def copied_text(self) -> str:
        """The path of the highlighted file."""
        return self.chosen_key

    def show_files(
        self, files: Sequence[JudgedFile], best: JudgedFile | None, favourites: Collection[str] = ()
    ) -> None:
        """Show these, the recommended one and the favourites marked; `favourites` are file names."""
        entries = {
            str(judged.file.path): Entry(
                cells, f"{judged.file.path.name} {judged.verdict.kind}", ranks(judged, best, favourites)
            )
            for judged, cells in zip(files, rows(files, best, favourites), strict=True)
        }
        self.put(entries, rewrite=True)  # a mark more makes a column wider
