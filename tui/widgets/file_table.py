"""The table of a run's files, each with its verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.text import Text

from engine.results.columns import FAVOURITE
from engine.results.verdict import JudgedFile
from tui.text.cells import clipped
from tui.text.results import columns_for, ranks, rows, titles
from tui.texts import _, ngettext
from tui.widgets.row_table import Entry, RowTable

SCROLL_BAR = 1


class FileTable(RowTable):
    """One row per file; the row's key is its path. It has the columns that fit whole."""

    ORDERS = (_("step"), _("name"), _("how much is learned"), _("verdict"), _("favourites first"))
    ORDER_OF = {"step": 0, "file": 1, "learned": 2, "verdict": 3}  # noqa: RUF012 - not changed

    def __init__(self) -> None:
        super().__init__()
        self.add_class("frame")
        self.border_title = _("Files")
        self._files: Sequence[JudgedFile] = ()
        self._best: JudgedFile | None = None
        self._favourites: Collection[str] = ()
        self._further: dict[str, str] = {}

    @property
    def copied_text(self) -> str:
        """The path of the highlighted file."""
        return self.chosen_key

    @property
    def further_figures(self) -> str:
        """What the columns that do not fit have about the highlighted file: "Epoch 2 · Step 30"."""
        return self._further.get(self.chosen_key, "")

    def show_files(
        self, files: Sequence[JudgedFile], best: JudgedFile | None, favourites: Collection[str] = ()
    ) -> None:
        """Show these, the recommended one and the favourites marked; `favourites` are file names."""
        self._files, self._best, self._favourites = files, best, favourites
        self._show()

    def on_resize(self) -> None:
        """Fit the columns to the width."""
        self._show()

    def _show(self) -> None:
        files, chosen, heads = self._files, self.chosen_key, titles(self._files)
        cells = rows(files, self._best, self._favourites)
        natural = {
            name: max([cell_len(head), *(cell_len(row[name].plain) for row in cells)]) for name, head in heads.items()
        }
        columns = columns_for(self.content_size.width - SCROLL_BAR, natural)
        self.set_columns([(name, heads[name], width) for name, width in columns.items()])
        hidden = [name for name in heads if name not in columns]
        below = ngettext("Files · {0} is shown below", "Files · {0} are shown below", len(hidden)).format(
            ", ".join(heads[name] for name in hidden)
        )
        self.border_title = below if hidden else _("Files")
        entries: dict[str, Entry] = {}
        for judged, row in zip(files, cells, strict=True):
            key = str(judged.file.path)
            sign = f"{FAVOURITE} " if judged.file.path.name in self._favourites else ""
            name = row["file"].plain.removeprefix(sign)
            row["file"] = Text(sign + clipped(name, columns["file"] - cell_len(sign), keep_end=True))
            text = f"{judged.file.path.name} {judged.verdict.kind}"
            entries[key] = Entry(
                tuple(row[name] for name in columns), text, ranks(judged, self._best, self._favourites)
            )
            self._further[key] = " · ".join(f"{heads[name]} {row[name].plain}" for name in hidden)
        self.put(entries, rewrite=True)
        self.choose(chosen)
