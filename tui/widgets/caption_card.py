"""One image with its caption: notes about it, and the editor."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static, TextArea

from engine.text import printable
from tui.setup.caption_book import Book, Rules
from tui.texts import _
from tui.widgets.caption_editor import CaptionEditor
from tui.widgets.image_view import ImageView


class CaptionCard(Vertical):
    """Shows one caption of a book, and writes it on `save`."""

    def __init__(self, rules: Rules, *, id: str) -> None:
        super().__init__(id=id)
        self._rules = rules
        self._book: Book | None = None
        self.place: int | None = None
        """Of the image in the book; None while there is none."""

    def compose(self) -> ComposeResult:
        """The image next to the notes; the editor below."""
        with Horizontal(id="seen"):
            yield ImageView(id="image")
            yield Static(id="about")
        editor = CaptionEditor(id="editor", soft_wrap=True, read_only=self._rules.shipped)
        editor.several_lines = self._rules.all_lines
        yield editor

    def show(self, book: Book, place: int) -> None:
        """Show image and caption of a place in the book."""
        self._book, self.place, self.visible = book, place, True
        file = book.files[place]
        self.query_one(ImageView).path = file.image
        self.query_one(CaptionEditor).show(file.image, file.text or "")
        self.describe()

    def show_none(self) -> None:
        """Show no image: none fits the filter."""
        self.clear()
        self.visible = False

    def clear(self) -> None:
        """Show no book."""
        self._book = self.place = None

    @property
    def text(self) -> str:
        """What is in the editor."""
        return self.query_one(CaptionEditor).text

    def put(self, text: str) -> None:
        """Put an unsaved text into the editor."""
        self.query_one(CaptionEditor).load_text(text)

    def edit(self) -> None:
        """Focus the editor."""
        self.query_one(CaptionEditor).begin()

    @property
    def unsaved(self) -> str | None:
        """The text in the editor, if it is not in the file."""
        text = self.query_one(CaptionEditor).text
        if self._book is None or self.place is None or not self._book.differs(self.place, text):
            return None
        return text

    def save(self) -> bool:
        """Write the edited caption; False where nothing was edited.

        Raises:
            LoraSmithError: it cannot be written.
        """
        text = self.unsaved
        if text is None or self._book is None or self.place is None:
            return False
        self._book.write(self.place, text)
        self.describe()
        return True

    @on(TextArea.Changed)
    def describe(self) -> None:
        """Update the notes about the caption in the editor."""
        if self._book is None or self.place is None:
            return
        file, text = self._book.files[self.place], self.query_one(CaptionEditor).text
        lines = [(printable(file.image.name), "bold")]
        lines += [(line, f"$text-{kind}" if kind else "") for line, kind in self._book.about(self.place, text)]
        if self.unsaved is not None:
            lines.append((_("• not saved yet: saved as you move on"), ""))
        elif file.text:
            lines.append((_("✓ saved in {0}").format(printable(file.path.name)), ""))
        about = Content("\n").join(Content.styled(line, style) for line, style in lines)
        self.query_one("#about", Static).update(about)
