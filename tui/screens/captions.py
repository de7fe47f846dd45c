"""Captions: which images have one, editing single captions and all at once, and captioning by a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Static

from engine.captioning.captioner import Kind
from engine.errors import LoraSmithError
from engine.text import plural, printable
from tui.screens.base import SMALLEST
from tui.screens.caption_changes import CaptionChanges
from tui.setup.caption_book import Book, Rules, flowed, own_folder
from tui.text.fields import with_titles
from tui.texts import _
from tui.watching.progress import throttled
from tui.widgets.caption_card import CaptionCard
from tui.widgets.caption_editor import CaptionEditor
from tui.widgets.caption_list import CaptionList
from tui.widgets.captioning import CaptioningLine
from tui.widgets.frames import framed

FIRST_CHOICE = "florence2"


class CaptionsScreen(CaptionChanges):
    """A list on the left; the image and its caption on the right."""

    STEP = "captions"
    CSS_PATH = "captions.tcss"
    FULL = True
    AUTO_FOCUS = "#list"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (SMALLEST[0], "-slim"), (76, "-narrow"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (SMALLEST[1], "-squat"), (21, "-low"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "captioner", _("By a model"), tooltip=_("Caption the images by a model; or show its progress.")),
        Binding("w", "add_trigger", _("Add trigger"), tooltip=_("Put the trigger word before captions without it.")),
        Binding("f", "replace", _("Replace"), tooltip=_("Find and replace in all captions.")),
        Binding("a", "frame", _("Prefix"), tooltip=_("A prefix or suffix for all captions.")),
        Binding("t", "tags", _("Tags"), show=False, tooltip=_("List the tags, and how often each is used.")),
        Binding(
            "u",
            "undo",
            _("Undo"),
            show=False,
            tooltip=_("Undo the last change, of one caption or of many; once more: the one before."),
        ),
        Binding("m", "open", _("Next without ✓"), show=False, tooltip=_("Go to the next image that is not marked ✓.")),
        Binding("ctrl+r", "read", _("Reload"), show=False, tooltip=_("Read all captions again.")),
    ]
    HELP = _(
        "# Captions\n\nDescribe what varies between the images; refer to what stays the same only by the trigger "
        "word. Captions are text files next to the images and "
        "are saved as you move on.\n\nCaptions are optional: without them a run uses the trigger word for all images."
    )

    @dataclass
    class Counted(Message):
        """Progress of reading or changing captions."""

        words: str
        done: int
        total: int

    @dataclass
    class Loaded(Message):
        """All captions were read, or cannot be."""

        result: Book | LoraSmithError

    def __init__(self) -> None:
        super().__init__()
        self._failure: LoraSmithError | None = None
        self._captioning = False
        """A model makes captions."""

    @property
    def card(self) -> CaptionCard:
        """The caption that is shown."""
        return self.query_one(CaptionCard)

    @property
    def shown(self) -> int | None:
        """Place of the image whose caption is in the editor."""
        return self.card.place

    def compose_body(self) -> ComposeResult:
        """Coverage on top, the captioning job below it, then list and image."""
        self.rules = Rules.of(self.draft)
        self._edits = self.smith.caption_edits.setdefault(self.rules.folder, [])
        yield Static(_("Reading the captions …"), id="summary", markup=False)
        yield Static(id="notes", markup=False)
        yield CaptioningLine(id="job")
        with Horizontal(id="work") as work:
            work.display = False
            yield framed(CaptionList(id="list"), _("Images"))
            yield framed(CaptionCard(self.rules, id="one"), _("Caption"))

    def on_mount(self) -> None:
        """Read the folder."""
        self._read(Rules.of(self.draft))

    # Reading

    @work(thread=True, exclusive=True, exit_on_error=False, group="read")
    def _read(self, rules: Rules) -> None:
        try:
            self.post_message(self.Loaded(Book.read(rules, self._progress(_("Reading the captions: {0} of {1}")))))
        except LoraSmithError as error:
            self.post_message(self.Loaded(error))

    def _progress(self, words: str) -> Callable[[int, int], None]:
        return throttled(lambda done, total: self.post_message(self.Counted(words, done, total)))

    @on(Counted)
    def _show_count(self, event: Counted) -> None:
        self.query_one("#summary", Static).update(event.words.format(event.done, event.total))

    @on(Loaded)
    def _loaded(self, event: Loaded) -> None:
        summary = self.query_one("#summary", Static)
        failed = isinstance(event.result, LoraSmithError)
        self.query_one("#work").display = not failed
        summary.set_class(failed, "error")
        if isinstance(event.result, LoraSmithError):
            self._failure, self.book = event.result, None
            self.card.clear()
            if self.rules.dataset_config:
                summary.set_class(False, "error")
                summary.update(with_titles(event.result.message))
                return
            summary.update(with_titles(f"✗ {printable(event.result.message)} {event.result.hint}"))
            return
        if self.book is not None:
            self._keep_place()
        else:
            self.query_one(CaptioningLine).follow(self.rules.job, lambda: self.book)
        self._failure, self.book, self._busy = None, event.result, False
        place = self.book.place_of(Path(str(self.draft.extras.get("captions.selected", "")))) or 0
        unsaved = self.draft.extras.pop("captions.unsaved", None)
        self.query_one(CaptionList).show(self.book, place)
        self._show(place)
        if isinstance(unsaved, list) and unsaved[0] == str(self.book.files[place].image):
            self.card.put(unsaved[1])
        if self.focused is None:
            self.query_one(CaptionList).focus()
        self._show_summary()

    def _show_summary(self) -> None:
        """Update coverage and notes."""
        if self.book is None:
            return
        self.query_one("#summary", Static).update(flowed(self.book.summary(), self.app.size.width - 2))
        notes = self.book.notes()
        if own_folder(self.draft) and not self.rules.shipped:
            place = _("The captions are in your own folder {0}.").format(printable(self.rules.folder))
            notes = f"{notes} {place}".strip()
        self.query_one("#notes", Static).update(notes)
        self.query_one("#notes").display = bool(notes)
        self.refresh_bindings()

    def on_resize(self) -> None:
        """Wrap the lines to the new width."""
        super().on_resize()
        self._show_summary()

    def action_read(self) -> None:
        """Read everything again, as another program may have changed it."""
        if self._save():
            self._read(self.rules)

    # One caption

    @on(CaptionList.Highlighted)
    def _moved(self, event: CaptionList.Highlighted) -> None:
        if event.position == self.shown:
            return
        if self._save():
            self._show(event.position)
        elif self.shown is not None:
            self.query_one(CaptionList).position = self.shown

    @on(CaptionList.NoMatch)
    def _show_none(self) -> None:
        if self._save():
            self.card.show_none()

    def _show(self, place: int) -> None:
        """Image and caption of another image."""
        assert self.book is not None
        self.card.show(self.book, place)

    def _save(self) -> bool:
        """Write what was edited; where that fails, show the error and return False."""
        if self.book is None or self.shown is None:
            return True
        file = self.book.files[self.shown]
        name = printable(file.image.name)
        try:
            saved = self.card.save()
        except LoraSmithError as error:
            self.set_message(_("{0}: not saved. {1}").format(name, error.message), kind="error")
            self.smith.show_error(error)
            return False
        if saved:
            before = "" if file.problem else file.text
            self._edits.append((file.image, before, self.book.files[self.shown].text or ""))
            self.answer(_("✓ {0}: caption saved. u undoes it.").format(name))
            self.query_one(CaptionList).refresh()
            self._show_summary()
        return True

    @on(CaptionList.Edit)
    def _edit(self) -> None:
        self.card.edit()

    @on(CaptionEditor.Leave)
    def _to_list(self) -> None:
        self._save()
        self.query_one(CaptionList).focus()

    @on(CaptionEditor.Following)
    def _following(self) -> None:
        if self._save():
            self.query_one(CaptionList).action_move(1)
            self.card.edit()

    def action_open(self) -> None:
        """To the next image that is not marked ✓."""
        if self.book is None or self.shown is None or not self._save():
            return
        place = self.book.next_open(self.shown)
        if place is None:
            self.answer(_("✓ Every image has a caption without problems."))
        else:
            self.query_one(CaptionList).position = place

    def edited(self) -> tuple[str, str]:
        """The caption for an editor of the person's own, and the extension of its file."""
        return f"{self.card.text}\n", ".txt"

    def take_edited(self, text: str) -> None:
        """Take the edited caption, and save it."""
        if self.rules.shipped or self.shown is None:
            return
        self.card.put(text.strip())
        self._save()

    # A model

    @on(CaptioningLine.SettingsRequested)
    def action_captioner(self) -> None:
        """The settings; while captions are made, their progress."""
        line = self.query_one(CaptioningLine)
        if line.look.live:
            line.show_progress()
        elif self.book is not None and self._save():
            count = plural(len(self.book.files), _("image"))
            where = printable(self.rules.folder)
            about = _("{0} of {1} without a caption, in {2}").format(self.book.coverage.without, count, where)
            last = self.draft.extras.get("captions.captioner", FIRST_CHOICE)
            line.choose(self.rules.folder, last, self._options, about)

    def _options(self, kind: Kind) -> dict[str, Any]:
        """The options of the last time; trigger word and file extension are the draft's."""
        kept = self.draft.extras.get("captions.options", {}).get(kind.name, {})
        values = {name: value for name, value in kept.items() if name in kind.options.model_fields}
        return {**values, "trigger_word": self.rules.trigger, "caption_extension": self.rules.extension}

    @on(CaptioningLine.Chosen)
    def _keep_options(self, event: CaptioningLine.Chosen) -> None:
        self.draft.extras["captions.captioner"] = event.captioner
        kept = self.draft.extras.get("captions.options", {})
        self.draft.extras["captions.options"] = {**kept, event.captioner: event.values}

    @on(CaptioningLine.Failed)
    def _captioner_failed(self, event: CaptioningLine.Failed) -> None:
        self.smith.show_error(event.error)

    @on(CaptioningLine.Changed)
    def _job_changed(self, event: CaptioningLine.Changed) -> None:
        """Show captions that the model wrote; a text that is being edited stays."""
        self._captioning = event.look.live
        self.refresh_bindings()
        if not event.files or self.book is None or self.shown is None:
            return
        self.book.undoable = True
        if not self._edits or self._edits[-1] is not None:
            self._edits.append(None)  # the captions of the model are undone together, before earlier edits
        typing = self.card.unsaved is not None
        self.book.replace(event.files)
        self.query_one(CaptionList).refresh()
        if not typing:
            self._show(self.shown)
        self._show_summary()

    # The step

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Edits of all captions are disabled until they are read, and while another edit runs; the captions of the
        program's own images have none."""
        shipped = self.book is not None and self.book.rules.shipped
        if shipped and action in ("replace", "frame", "add_trigger", "captioner", "undo"):
            return False  # a note gives the reason
        ready = self.book is not None and not self._busy and not self._captioning
        if action in ("replace", "frame"):
            return True if ready else None
        if action == "add_trigger":
            return True if ready and self.rules.trigger else None
        if action in ("tags", "open"):
            return True if self.book is not None else None
        if action == "undo":
            undoable = self.book is not None and (self.book.undoable or bool(self._edits))
            return True if ready and undoable else None
        if action == "captioner":
            return True if self._captioning or ready else None
        return super().check_action(action, parameters)

    def store(self) -> None:
        """Save the caption that is edited, and keep the place."""
        self._save()
        self._keep_place()

    def _keep_place(self) -> None:
        """Keep the selected image in the draft, and a text that could not be saved."""
        if self.book is not None and self.shown is not None:
            image = str(self.book.files[self.shown].image)
            self.draft.extras["captions.selected"] = image
            if (text := self.card.unsaved) is not None:
                self.draft.extras["captions.unsaved"] = [image, text]

    def problems(self) -> Iterable[str]:
        """Captions that cannot be read or saved; missing ones are no problem."""
        if self.rules.dataset_config:
            return
        if self._failure is not None:
            yield with_titles(str(self._failure))
        elif self.card.unsaved is not None:
            yield _("The caption in the editor cannot be saved.")
        elif self.book is not None:
            broken = [file for file in self.book.files if file.problem]
            if broken:
                names = ", ".join(printable(file.path.name) for file in broken[:3])
                yield _("{0} cannot be read: {1}").format(plural(len(broken), _("caption")), names)
