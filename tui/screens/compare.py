"""Runs side by side: what differs, their validation losses in one chart, samples of the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import DataTable

from engine.runs import RunDir
from engine.text import printable
from tui.screens.base import BaseScreen
from tui.texts import _
from tui.widgets.frames import framed
from tui.widgets.lines import Lines
from tui.widgets.overlay_chart import OverlayChart
from tui.widgets.panes import show_pane
from tui.widgets.row_table import Entry, RowTable
from tui.widgets.run_samples import RunSamples

if TYPE_CHECKING:
    from engine.results.comparison import Comparison

LABEL_CELLS = 21
"""Most cells of the first column; the runs share the rest."""
PANES = {"differences": _("Differences"), "curves": _("Curves"), "samples": _("Samples")}
PANE_TOOLTIPS = {
    "differences": _("Show the measures and the settings that differ."),
    "curves": _("Show the validation losses in one chart."),
    "samples": _("Show samples of the same prompts."),
}


class SettingTable(RowTable):
    """Measures and settings, a column for each run."""

    class Resized(Message):
        """It has another width."""

    def on_resize(self) -> None:
        """Have the columns fitted."""
        self.post_message(self.Resized())

    @property
    def room(self) -> int:
        """Cells for the columns, beside a scrollbar."""
        return self.size.width - self.styles.scrollbar_size_vertical

    @property
    def copied_text(self) -> str:
        """The row under the cursor."""
        return "  ".join(cell.plain for cell in self.get_row(self.chosen_key)) if self.chosen_key else ""


class CompareScreen(BaseScreen):
    """Reads the runs once; a live run is shown as it was at that moment."""

    CSS_PATH = "compare.tcss"
    FULL = True
    HELP = _("""
## Compare

Two or more runs, each with its letter. **1** shows their best files, measures and the settings that differ, **2** the
validation losses in one chart, **3** the samples of the same prompts and seeds. On a large terminal all three are
shown; the number then moves the focus to a part. The line below explains the chosen row.

`lorasmith compare RUN RUN --html FILE` writes the same as one web page.
""")
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(place), f"pane('{name}')", title, tooltip=PANE_TOOLTIPS[name])
            for place, (name, title) in enumerate(PANES.items(), 1)
        ),
        Binding("escape", "back", _("Back"), tooltip=_("Back to the list of runs.")),
    ]

    @dataclass
    class RunsRead(Message):
        """The runs were read."""

        comparison: Comparison

    def __init__(self, run_dirs: Sequence[RunDir]) -> None:
        super().__init__()
        self.run_dirs = tuple(run_dirs)
        self.comparison: Comparison | None = None
        self.pane = "differences"
        self._fitted: tuple[int, bool] | None = None
        """The width that the columns have now, and whether it is that of the whole screen."""
        self._about: dict[str, str] = {}
        """Row of the table to the sentence about it."""

    def compose_content(self) -> ComposeResult:
        """Heading, three panes, and the chosen row in full."""
        yield Lines(id="heading")
        yield Lines(id="tabs")
        with Container(id="panes"):
            with framed(Vertical(id="differences", classes="pane"), _("Differences")):
                yield SettingTable()
            with framed(Vertical(id="curves", classes="pane"), _("Loss")):
                yield OverlayChart(id="overlay")
            with framed(Vertical(id="samples", classes="pane"), _("Samples")):
                yield RunSamples()
        yield Lines(id="message", wraps=True)

    def on_mount(self) -> None:
        """Read the runs."""
        self.query_one("#heading", Lines).set_text(_("Reading the runs …"))
        self.action_pane(self.pane)
        self._read()

    @work(thread=True, exclusive=True, exit_on_error=False, group="read")
    def _read(self) -> None:
        from engine.results.comparison import compare
        from engine.results.record import read_run

        self.post_message(self.RunsRead(compare([read_run(run_dir) for run_dir in self.run_dirs])))

    @on(RunsRead)
    def _show(self, event: RunsRead) -> None:
        comparison = self.comparison = event.comparison
        labels = [Content.styled(label, "bold") for label in comparison.labels]
        self.query_one("#heading", Lines).set_text(Content(" · ").join(labels))
        self._fitted = None
        self._fit()
        losses = [run.history.validation_losses for run in comparison.runs]
        self.query_one(OverlayChart).show(list(zip(comparison.labels, losses, strict=True)))
        self.query_one(RunSamples).show(comparison)
        self.refresh_status()

    @on(SettingTable.Resized)
    def _fit(self) -> None:
        """Rewrite the table where it has another width; until it is laid out, it has none."""
        table = self.query_one(SettingTable)
        wanted = table.room, self.has_class("-full")
        if self.comparison is None or table.room <= 0 or wanted == self._fitted:
            return
        self._fitted = wanted
        chosen = table.chosen_key
        table.row_height = None if self.has_class("-full") else 1
        self._fill(table, self.comparison)
        table.choose(chosen)

    def _fill(self, table: SettingTable, comparison: Comparison) -> None:
        """Rewrite the table, as wide as its pane. Cells that are cut have several lines where it is alone."""
        from tui.text.compare import GAP, column_widths, measure_texts, overview_rows, setting_rows

        heading = _("Settings that differ") if comparison.settings else _("No setting differs")
        above = (*overview_rows(comparison), (heading, *[""] * len(comparison.runs)))
        rows = [(str(place), row) for place, row in enumerate(above)]
        explanations = dict(measure_texts(comparison))
        self._about = {key: f"{row[0]}: {explanations.get(row[0]) or ' | '.join(row[1:])}" for key, row in rows[:-1]}
        self._about |= {
            setting.key: f"{setting.key}: {' | '.join(setting.values)}. {setting.help}"
            for setting in comparison.settings
        }
        rows += zip([setting.key for setting in comparison.settings], setting_rows(comparison), strict=True)

        head = ("", *comparison.labels)
        columns = zip(head, *(row for _key, row in rows), strict=True)
        natural = [max(cell_len(printable(cell)) for cell in column) for column in columns]
        label = min(natural[0], LABEL_CELLS)
        widths = [label, *column_widths(natural[1:], table.room - 2 * GAP - label)]  # a space on each side of a cell
        titles = [_cell(label, width).plain for label, width in zip(head, widths, strict=True)]
        table.set_columns([(str(place), title, widths[place]) for place, title in enumerate(titles)])

        def entry(key: str, row: Sequence[str]) -> Entry:
            cells = map(_cell, row, widths) if table.row_height else (Text(printable(cell)) for cell in row)
            return Entry(tuple(cells), " ".join((key, *row)))

        table.put({key: entry(key, row) for key, row in rows})

    def action_full(self) -> None:
        """The chosen part alone, its cells in full, or all parts again."""
        super().action_full()
        self.call_after_refresh(self._fit)

    @on(DataTable.RowHighlighted)
    def _chosen(self) -> None:
        self._show_about()

    def _show_about(self) -> None:
        """The sentence about the chosen row, while its table is the part in use; of the curves their remark."""
        if self.pane == "curves" and self.comparison is not None:
            sentence = self.comparison.loss_remark()
        else:
            sentence = self._about.get(self.query_one(SettingTable).chosen_key, "") if self.pane != "samples" else ""
        self.query_one("#message", Lines).set_text(printable(sentence))

    @property
    def help_text(self) -> str:
        """About the screen, and each measure that is shown."""
        from tui.text.compare import measure_texts

        texts = measure_texts(self.comparison) if self.comparison is not None else []
        return "\n".join([self.HELP or "", *(f"* **{title}**: {words}" for title, words in texts)])

    def status_text(self) -> str:
        """Which runs are compared."""
        return " · ".join(self.comparison.labels) if self.comparison else _("Reading the runs …")

    def action_pane(self, name: str) -> None:
        """Show a part, and focus it."""
        self.pane = name
        show_pane(self, PANES, name)
        self._show_about()
        keys: dict[str, type[Widget]] = {"differences": SettingTable, "samples": RunSamples}
        self.set_focus(self.query_one(keys[name]) if name in keys else None)

    def action_back(self) -> None:
        """Back to the list of runs."""
        if not self.left_full():
            self.dismiss()


def _cell(text: str, width: int) -> Text:
    from tui.text.cells import clipped

    return Text(clipped(printable(text), width))
