"""Edits of all captions at once: find and replace, prefix and suffix. Changes are previewed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Checkbox, Input, Static

from engine.dataset.caption_edits import Change, plan_frame, plan_replace
from engine.dataset.caption_files import CaptionFile
from engine.text import plural, printable
from tui.texts import _
from tui.widgets.text_input import TextInput
from tui.widgets.tick import Tick


class EditScreen(ModalScreen[list[Change] | None]):
    """The result is the changes; None after Escape. Subclasses yield fields and compute the changes from them.

    Args:
        files: all captions.
    """

    CSS_PATH = "caption_edits.tcss"
    HEADING: ClassVar[str]
    EXPLANATION: ClassVar[str]
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "apply", _("Change"), priority=True, tooltip=_("Change the captions.")),
        Binding("escape", "dismiss(None)", _("Cancel"), tooltip=_("Nothing is changed.")),
    ]

    def __init__(self, files: Sequence[CaptionFile]) -> None:
        super().__init__()
        self.files = files
        self.changes: list[Change] = []

    def compose(self) -> ComposeResult:
        """Heading, fields, what would change, buttons."""
        with Vertical(classes="dialog"):
            yield Static(self.HEADING, classes="dialog-title")
            yield from self.compose_fields()
            yield Static(self.EXPLANATION, classes="hint")
            yield Static(id="count", markup=False)
            yield Static(id="before", classes="preview", markup=False)
            yield Static(id="after", classes="preview", markup=False)
            with Horizontal(classes="buttons"):
                yield Button(_("Change"), id="apply", compact=True, variant="primary")
                yield Button(_("Cancel"), id="cancel", compact=True)
                yield Static(_("Ctrl+N changes, Escape cancels."), classes="hint")

    def compose_fields(self) -> ComposeResult:
        """The fields."""
        raise NotImplementedError

    def plan_changes(self) -> list[Change]:
        """The changes that the fields describe."""
        raise NotImplementedError

    def count_text(self) -> str:
        """How much would change."""
        return _("{0} would change.").format(plural(len(self.changes), _("caption")))

    def field(self, id: str) -> str:
        """The text of a field."""
        return self.query_one(f"#{id}", Input).value

    def on_mount(self) -> None:
        """Show that nothing would change yet."""
        self._preview()

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _preview(self) -> None:
        """Count, and show the first one before and after."""
        self.changes = self.plan_changes()
        self.query_one("#count", Static).update(self.count_text())
        first = self.changes[0] if self.changes else None
        self.query_one("#before", Static).update(_preview_line("-", first.before) if first else "")
        self.query_one("#after", Static).update(_preview_line("+", first.after) if first else "")
        self.query_one("#apply", Button).disabled = not self.changes

    @on(Input.Submitted)
    def _focus_next_field(self) -> None:
        self.focus_next()

    @on(Button.Pressed, "#apply")
    def action_apply(self) -> None:
        """Return the changes."""
        if self.changes:
            self.dismiss(self.changes)

    @on(Button.Pressed, "#cancel")
    def _cancel(self) -> None:
        self.dismiss(None)


class ReplaceScreen(EditScreen):
    """Find and replace."""

    HEADING = _("Find and replace in all captions")
    EXPLANATION = _("Whole words: “red” is not found in “redder”.")

    def compose_fields(self) -> ComposeResult:
        """The text to find, its replacement, and options."""
        yield from _row(_("Find"), "find")
        yield from _row(_("Replace with"), "by")
        with Horizontal(classes="row"):
            yield Static(classes="label")
            yield Tick(_("Whole words"), True, id="whole")
            yield Tick(_("Match case"), True, id="case")

    def plan_changes(self) -> list[Change]:
        """Captions that contain the text."""
        words, case = (self.query_one(f"#{name}", Checkbox).value for name in ("whole", "case"))
        return plan_replace(self.files, self.field("find"), self.field("by"), whole_words=words, match_case=case)

    def count_text(self) -> str:
        """Places and captions."""
        places = sum(change.times for change in self.changes)
        captions = plural(len(self.changes), _("caption"))
        return _("Found in {0}, at {1}.").format(captions, plural(places, _("place")))


class FrameScreen(EditScreen):
    """A prefix and a suffix for every caption."""

    HEADING = _("Prefix and suffix for all captions")
    EXPLANATION = _("Added with a space, skipped where already present. Images without captions are left alone.")

    def compose_fields(self) -> ComposeResult:
        """Two texts."""
        yield from _row(_("Prefix"), "prefix")
        yield from _row(_("Suffix"), "suffix")

    def plan_changes(self) -> list[Change]:
        """Captions that lack one of them."""
        return plan_frame(self.files, self.field("prefix"), self.field("suffix"))


def _row(label: str, id: str) -> ComposeResult:
    with Horizontal(classes="row"):
        yield Static(label, classes="label")
        yield TextInput(id=id, compact=True)


def _preview_line(sign: str, text: str) -> str:
    return f"{sign} {printable(text.replace(chr(10), ' / '))}"
