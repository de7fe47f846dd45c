"""The form of parameters: a scrolling list of rows; only the edited row has its own widget."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Input

from engine.config.form import fields
from tui.setup.draft import STEP_OF
from tui.text.cells import clipped
from tui.text.fields import cut, explain, hint
from tui.texts import _
from tui.widgets.form import Form, Row
from tui.widgets.text_input import TextInput

MARK_WIDTH, TITLE_WIDTH, RANGE_WIDTH = 2, 28, 24
"""Cells of a row's parts; the value has the rest."""


class FieldList(ScrollView, can_focus=True):
    """Rows of a form with one of them highlighted."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "fields--table", "fields--value", "fields--range", "fields--error", "fields--here", "fields--cursor"
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "edit", _("Edit"), tooltip=_("Type another value; a choice changes to the next one.")),
        Binding("space", "turn(1)", _("Toggle"), show=False, tooltip=_("On or off; the next choice.")),
        Binding("right", "turn(1)", _("Next choice"), show=False),
        Binding("left", "turn(-1)", _("Previous choice"), show=False),
        Binding("delete,backspace", "reset", _("Reset"), key_display="del", tooltip=_("Back to the preset's value.")),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", _("Ten fields up"), show=False),
        Binding("pagedown", "move(10)", _("Ten fields down"), show=False),
        Binding("home", "move(-10000)", _("First field"), show=False),
        Binding("end", "move(10000)", _("Last field"), show=False),
    ]

    class Highlighted(Message):
        """Another field is highlighted."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class ActionRequested(Message):
        """A key was pressed on a field: what is edit, turn or reset."""

        def __init__(self, key: str, what: str, by: int = 0) -> None:
            super().__init__()
            self.key, self.what, self.by = key, what, by

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.rows: list[Row] = []
        self.key = ""
        """The highlighted field; empty when no field is shown."""

    def on_mount(self) -> None:
        """Show the rows."""
        self.reload()

    def reload(self, key: str | None = None) -> None:
        """Read the form again and highlight `key`, else the current field, else the first one."""
        self.rows = self.form.rows()
        keys = self.keys
        target = key or self.key
        self.virtual_size = Size(0, len(self.rows))
        if target not in keys:
            target = keys[0] if keys else ""
        self._highlight(target)
        self.refresh()

    def on_resize(self) -> None:
        """Keep the highlighted field in sight."""
        if self.key:
            self._highlight(self.key)

    @property
    def keys(self) -> list[str]:
        """The fields that are shown."""
        return [row.key for row in self.rows if row.kind == "field"]

    @property
    def copied_text(self) -> str:
        """The highlighted setting as the command line takes it."""
        value = self.form.typed(self.key) if self.key else ""
        return f"{self.key}={value}" if self.key else ""

    def line_of(self, key: str) -> int:
        """The row of a field that is shown."""
        return next(index for index, row in enumerate(self.rows) if row.kind == "field" and row.key == key)

    def _highlight(self, key: str) -> None:
        changed, self.key = key != self.key, key
        if key:
            line = self.line_of(key)
            below = line + 1 < len(self.rows) and self.rows[line + 1].kind == "error"
            top = 0 if line == 1 else line  # the first table's title stays visible
            self.scroll_to_region(Region(0, top, 1, line - top + 1 + below), animate=False, force=True, immediate=True)
        if changed:
            self.post_message(self.Highlighted(key))

    def action_move(self, by: int) -> None:
        """Move some fields up or down."""
        keys = self.keys
        if keys:
            self._highlight(keys[max(0, min(len(keys) - 1, keys.index(self.key) + by))])
            self.refresh()

    def _in_view(self) -> bool:
        """Whether the highlighted row is visible; where it is not, it is scrolled into view instead of changed."""
        if not self.key:
            return False
        line, top = self.line_of(self.key), round(self.scroll_y)
        if top <= line < top + self.scrollable_content_region.height:
            return True
        self._highlight(self.key)
        return False

    def action_edit(self) -> None:
        """Request to edit the field."""
        if self._in_view():
            self.post_message(self.ActionRequested(self.key, "edit"))

    def action_turn(self, by: int) -> None:
        """Request another choice."""
        if self._in_view():
            self.post_message(self.ActionRequested(self.key, "turn", by))

    def action_reset(self) -> None:
        """Request the preset's value."""
        if self._in_view():
            self.post_message(self.ActionRequested(self.key, "reset"))

    def on_click(self, event: Click) -> None:
        """Highlight the clicked row; edit it if it is highlighted already."""
        line = event.y + round(self.scroll_y)
        if line >= len(self.rows) or not self.rows[line].key:
            return
        was_highlighted = self.rows[line].key == self.key
        self._highlight(self.rows[line].key)
        self.refresh()
        if was_highlighted:
            self.action_edit()

    def render_line(self, y: int) -> Strip:
        """One row: a mark, the title, the value with its unit, the range."""
        line, width = y + round(self.scroll_y), self.scrollable_content_region.width
        if line >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        row = self.rows[line]
        if row.kind == "table":
            return self._strip([(row.text, "table")], width)
        if row.kind == "error":
            return self._strip([(f"    ✗ {row.text}", "error")], width)
        return self._field(row.key, width)

    def _field(self, key: str, width: int) -> Strip:
        facts, form = fields()[key], self.form
        mark = "✗" if form.sentence(key) else "•" if form.is_changed(key) and key not in STEP_OF else " "
        value = form.text(key)
        if key == self.key and (facts.choices or facts.kind == "flag") and key not in STEP_OF:
            value = f"◂ {value} ▸"
        value_width = max(8, width - MARK_WIDTH - TITLE_WIDTH - RANGE_WIDTH)
        parts = [
            (cut(mark, MARK_WIDTH), "error" if mark == "✗" else "value"),
            (cut(_(facts.title), TITLE_WIDTH), "range" if key in STEP_OF else ""),
            (cut(value, value_width, keep_end=key in STEP_OF), "range" if key in STEP_OF else "value"),
            (cut(later, RANGE_WIDTH), "value")
            if (later := form.later(key))
            else (cut(hint(facts), RANGE_WIDTH), "range"),
        ]
        return self._strip(parts, width, cursor=key == self.key and self.has_focus, here=key == self.key)

    def _strip(self, parts: list[tuple[str, str]], width: int, *, cursor: bool = False, here: bool = False) -> Strip:
        segments, plain = [], self.rich_style
        *before, (last, style_of_last) = parts
        room = width - sum(cell_len(text) for text, _style in before)
        for text, name in [*before, (clipped(last.rstrip(), room), style_of_last)]:
            style = plain + self.get_component_rich_style(f"fields--{name}") if name else plain
            if cursor:
                style = self.get_component_rich_style("fields--cursor")
            elif here:
                style += self.get_component_rich_style("fields--here")
            segments.append(Segment(text, style))
        return Strip(segments).adjust_cell_length(width, segments[-1].style).crop(0, width)

    def on_focus(self) -> None:
        """Draw the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Draw the faint cursor."""
        self.refresh()


class FieldEdit(TextInput):
    """The input for a value, laid over its row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave(False)", _("Cancel"), tooltip=_("The value stays as it was.")),
        Binding("up", "leave(True, -1)", show=False),
        Binding("down", "leave(True, 1)", show=False),
    ]

    class Left(Message):
        """Editing ends."""

        def __init__(self, keep: bool, move: int = 0) -> None:
            super().__init__()
            self.keep, self.move = keep, move

    def action_leave(self, keep: bool, move: int = 0) -> None:
        """End editing, keeping what was typed or not, and move to another field."""
        self.post_message(self.Left(keep, move))

    def on_blur(self) -> None:
        """Keep what was typed when the focus moves away."""
        self.post_message(self.Left(True))


class FieldForm(Container):
    """The list of fields and, while one is edited, the line to edit it in."""

    class Changed(Message):
        """A value was changed."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    class Refused(Message):
        """Editing was requested for a field that has no input here: a list, or the field of another step."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.editing = ""
        """Key of the field that is edited."""

    def compose(self) -> ComposeResult:
        """The list, and over it the input."""
        yield FieldList(self.form)
        yield FieldEdit(id="edit", compact=True, select_on_focus=True)

    @property
    def rows(self) -> FieldList:
        """The list of fields."""
        return self.query_one(FieldList)

    @property
    def edit(self) -> FieldEdit:
        """The input."""
        return self.query_one(FieldEdit)

    @property
    def help_text(self) -> str:
        """Markdown about the highlighted field."""
        return explain(self.form, self.rows.key) if self.rows.key else ""

    @on(FieldList.ActionRequested)
    def _act(self, event: FieldList.ActionRequested) -> None:
        event.stop()
        key, facts = event.key, fields()[event.key]
        if key in STEP_OF or (event.what == "edit" and facts.kind == "list"):
            self.post_message(self.Refused(key))
        elif event.what == "reset":
            self.form.reset(key)
            self._changed(key)
        elif self.form.turn(key, event.by or 1):
            self._changed(key)
        elif event.what == "edit":
            self._open(key)

    def _open(self, key: str) -> None:
        self.editing = key
        edit = self.edit
        edit.begin(self.form.typed(key))
        edit.add_class("-open")
        self._place()
        edit.focus()

    def _place(self) -> None:
        """Lay the input over its row."""
        rows = self.rows
        line = rows.line_of(self.editing) - round(rows.scroll_y)
        width = rows.scrollable_content_region.width
        self.edit.styles.offset = (MARK_WIDTH + TITLE_WIDTH, line)
        self.edit.styles.width = max(8, width - MARK_WIDTH - TITLE_WIDTH)

    def on_mount(self) -> None:
        """Keep the input on its row while the list scrolls."""
        self.watch(self.rows, "scroll_y", self._place_if_open, init=False)

    def on_resize(self) -> None:
        """Move the input to its row."""
        self.call_after_refresh(self._place_if_open)

    def _place_if_open(self) -> None:
        if self.editing:
            self._place()

    @on(Input.Changed, "#edit")
    def _typing(self, event: Input.Changed) -> None:
        """Show at once, below the field, what is wrong with it."""
        event.stop()
        if self.editing and self.form.try_out(self.editing, event.value):
            self.rows.reload(self.editing)
            self._place()

    @on(Input.Submitted, "#edit")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._close(keep=True)

    @on(FieldEdit.Left)
    def _left(self, event: FieldEdit.Left) -> None:
        event.stop()
        if self.editing:
            self._close(event.keep, event.move)

    def _close(self, keep: bool, move: int = 0) -> None:
        key, self.editing = self.editing, ""
        edit = self.edit
        had_focus = edit.has_focus
        edit.remove_class("-open")
        if keep and edit.value != self.form.typed(key):
            self.form.enter(key, edit.value)
        else:
            self.form.judge()
        self._changed(key)
        if had_focus:
            self.rows.focus()
        if move:
            self.rows.action_move(move)

    def finish(self) -> None:
        """Keep what is being typed."""
        if self.editing:
            self._close(keep=True)

    def _changed(self, key: str) -> None:
        self.rows.reload(key)
        self.post_message(self.Changed(key))
