"""The fields of a project: its place and name, where the images are, and how they are taken in."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalGroup
from textual.message import Message
from textual.widgets import Checkbox, Input, Select, Static

from tui.setup.demo import DEMO_IMAGES
from tui.setup.folder_entries import Entries
from tui.texts import _
from tui.widgets.path_input import PathInput
from tui.widgets.text_input import TextInput
from tui.widgets.tick import Tick

TAKE_IN = ((_("copy them"), "copy"), (_("link, takes no space"), "link"), (_("leave where they are"), "leave"))


class ProjectForm(VerticalGroup):
    """Every field reports its own changes; `entries` holds all fields.

    Args:
        entries: the initial values.
    """

    def __init__(self, entries: Entries) -> None:
        super().__init__()
        self._first = entries
        self._is_demo = entries.source == DEMO_IMAGES

    def compose(self) -> ComposeResult:
        """A row for each field; below the name how the tokenizer splits the trigger word."""
        entries = self._first
        with Horizontal(classes="row"):
            yield Static(_("Save in"), classes="label")
            yield PathInput(entries.place, id="place", folders_only=True, compact=True)
        with Horizontal(classes="row"):
            yield Static(_("Name"), classes="label")
            yield TextInput(entries.name, id="name", compact=True)
            yield Static(_("Trigger"), classes="label -second")
            yield TextInput(entries.trigger, id="trigger", compact=True)
        yield Static(id="verdict", markup=False)
        with Horizontal(classes="row"):
            yield Static(_("Images"), classes="label")
            yield PathInput(entries.source, id="source", folders_only=True, compact=True)
        with Horizontal(classes="row"):
            yield Static(_("Import"), classes="label")
            yield Select(TAKE_IN, value=entries.take_in, allow_blank=False, id="take-in", compact=True)
            yield Static(_("Repeats"), classes="label -second")
            yield TextInput(entries.repeats, id="repeats", compact=True, restrict="[0-9]*", max_length=6)
            yield Static(id="computed", markup=False)
        with Horizontal(classes="row"):
            yield Static(_("Validation"), classes="label")
            yield PathInput(entries.validation, id="validation", folders_only=True, compact=True)
        with Horizontal(classes="row"):
            yield Static(classes="label")
            yield Tick(_("Regularization images"), entries.regularize, id="regularize")
            yield Tick(_("Folder txt2img-images"), entries.txt2img, id="txt2img")
        with Horizontal(classes="row", id="regularization"):
            yield Static(_("Class"), classes="label")
            yield TextInput(entries.class_word, id="class-word", compact=True)
            yield Static(_("Folder"), classes="label -second")
            yield PathInput(entries.reg_source, id="reg-source", folders_only=True, compact=True)

    def on_mount(self) -> None:
        """Show placeholders in empty fields."""
        self.query_one("#validation", Input).placeholder = _("a folder, or a share such as 10 %; 0 % for none")
        self.query_one("#source", Input).placeholder = _("folder of your images")
        self.query_one("#class-word", Input).placeholder = _("such as person")

    @property
    def entries(self) -> Entries:
        """The fields as they are now."""

        def text(id: str) -> str:
            return self.query_one(f"#{id}", Input).value.strip()

        return Entries(
            place=text("place") or ".",
            name=text("name"),
            trigger=text("trigger"),
            source=text("source"),
            take_in=str(self.query_one("#take-in", Select).value),
            repeats=text("repeats"),
            validation=text("validation"),
            regularize=self.query_one("#regularize", Checkbox).value,
            class_word=text("class-word"),
            reg_source=text("reg-source"),
            txt2img=self.query_one("#txt2img", Checkbox).value,
        )

    class DemoLeft(Message):
        """Other images than the demo's were named, and everything that came with those was reset."""

    @on(Input.Changed, "#source")
    def _leave_demo(self) -> None:
        """Reset what the demo's images came with when they are replaced."""
        entries = self.entries
        if not self._is_demo or entries.source == DEMO_IMAGES:
            return
        self._is_demo = False
        own = entries.without_demo()
        for field in ("name", "trigger", "validation", "repeats"):
            self.query_one(f"#{field}", Input).value = getattr(own, field)
        self.query_one("#take-in", Select).value = own.take_in
        self.post_message(self.DemoLeft())

    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _follow(self) -> None:
        """Show the name as the trigger word's placeholder, and hide the regularization fields when they are off."""
        entries = self.entries
        self.query_one("#trigger", Input).placeholder = entries.name
        self.query_one("#regularization").display = entries.regularize

    def take_trigger(self, word: str) -> None:
        """Enter a trigger word."""
        self.query_one("#trigger", Input).value = word

    def set_verdict(self, words: str, *, warn: bool = False) -> None:
        """Show how the tokenizer splits the trigger word."""
        line = self.query_one("#verdict", Static)
        line.update(words)
        line.set_class(warn, "warning")

    def set_repeats(self, number: str, words: str) -> None:
        """Show the repeats that are computed where none were typed, and what they come to."""
        self.query_one("#repeats", Input).placeholder = number
        self.query_one("#computed", Static).update(words)
