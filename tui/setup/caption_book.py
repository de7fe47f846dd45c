"""The captions of a draft's images: reading, checking and writing them. Draws nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from engine.captioning.job import CaptionJob
from engine.dataset.caption_files import (
    CaptionFile,
    Coverage,
    coverage,
    has_word,
    list_captions,
    normalised,
    remove_caption,
    token_counter,
    write_caption,
)
from engine.errors import DataError
from engine.paths import ASSETS
from engine.text import plural, printable
from engine.types import Progress
from tui.texts import _

if TYPE_CHECKING:
    from tui.setup.draft import Draft


@dataclass(frozen=True)
class Rules:
    """What captions are checked against; from the draft."""

    folder: Path
    extension: str
    trigger: str
    limit: int
    """Tokens."""
    separator: str
    all_lines: bool
    """Several lines of a caption are used: one is picked each time."""
    class_tokens: str
    model: str
    dataset_config: str = ""
    """Set where it names the images, whose captions are then in several folders."""

    @classmethod
    def of(cls, draft: Draft) -> Rules:
        """As the draft is now."""
        name = draft.get("saving.output_name") or ""
        return cls(
            folder=Path(draft.get("dataset.train_data_dir") or "").expanduser(),
            extension=draft.get("dataset.caption_extension"),
            trigger=draft.get("dataset.class_tokens") or name,
            limit=draft.get("model.max_token_length"),
            separator=draft.get("dataset.caption_separator"),
            all_lines=draft.get("dataset.enable_wildcard"),
            class_tokens=draft.get("dataset.class_tokens") or "",
            model=str(draft.get("model.pretrained_model_name_or_path") or ""),
            dataset_config=str(draft.get("dataset.dataset_config") or ""),
        )

    @property
    def job(self) -> CaptionJob:
        """The captioning job of the folder."""
        return CaptionJob.of(self.folder)

    @property
    def shipped(self) -> bool:
        """The images come with the program: their captions are not edited."""
        return self.folder.resolve().is_relative_to(ASSETS)

    def fallback_caption(self, image: Path) -> str:
        """What a run uses for an image without a caption, as in `engine.dataset.scan`."""
        _number, _dash, name = image.parent.name.partition("_")
        numbered = image.parent.parent == self.folder
        return self.class_tokens or (name if numbered else "") or self.trigger


@dataclass
class Book:
    """All captions, in the order of a run.

    Args:
        rules: what they are checked against.
        files: from `read`.
        undoable: whether an edit of many captions can be undone.
    """

    rules: Rules
    files: list[CaptionFile]
    count_tokens: Callable[[str], int]
    undoable: bool = False
    _places: dict[Path, int] = field(init=False)
    _shared: dict[Path, list[int]] = field(init=False)
    """Places of the images whose captions several have in common."""
    _lacking: int = field(init=False)
    """Captions without the trigger word; like those that are too long, counted once and kept up to date."""
    _long: int = field(init=False)

    def __post_init__(self) -> None:
        self._places = {file.image: index for index, file in enumerate(self.files)}
        counts = Counter(file.path for file in self.files)
        self._shared = {path: [] for path, count in counts.items() if count > 1}
        for index, file in enumerate(self.files):
            if file.path in self._shared:
                self._shared[file.path].append(index)
        self._lacking, self._long = sum(map(self.lacks_trigger, self.files)), sum(map(self.too_long, self.files))

    @classmethod
    def read(cls, rules: Rules, progress: Progress | None = None) -> Book:
        """Read everything and count the tokens. Takes seconds for 10 000 images: call it in a thread.

        Raises:
            DataError: no folder, or no images in it.
        """
        if rules.dataset_config:
            words = _("The captions are read as set in {0}. Make or fix them with lorasmith caption, folder by folder.")
            raise DataError(words.format(printable(rules.dataset_config)), code="captions-from-dataset-config")
        if not str(rules.folder) or rules.folder == Path():
            raise DataError(
                _("No folder of images is chosen yet."), _("Choose one in the step Folders."), code="folder-not-chosen"
            )
        counter = token_counter(rules.model)
        files = list_captions(
            rules.folder, rules.extension, _("Images"), progress, lambda file: counter(file.text or "")
        )
        return cls(rules, files, counter, rules.job.journal.undoable)

    def place_of(self, image: Path) -> int | None:
        """The index of an image; None where it is not in the book."""
        return self._places.get(image)

    def replace(self, files: Iterable[CaptionFile]) -> None:
        """Replace captions by newly read ones."""
        for file in files:
            if (place := self._places.get(file.image)) is not None:
                self._put(place, file)

    def write(self, place: int, text: str) -> bool:
        """Write a caption if it differs from the file; True if it was written. Images that share it are updated.

        Raises:
            StorageError: it cannot be written.
        """
        file = self.files[place]
        if not self.differs(place, text):
            return False
        self._take(place, write_caption(file, text))
        return True

    def remove(self, place: int) -> None:
        """Delete the caption file of an image.

        Raises:
            StorageError: it cannot be deleted.
        """
        self._take(place, remove_caption(self.files[place]))

    def _take(self, place: int, changed: CaptionFile) -> None:
        """Put a caption that was changed here, also for the images that share it."""
        self._put(place, changed)
        for index in self._shared.get(changed.path, ()):
            self._put(index, CaptionFile(self.files[index].image, changed.path, changed.text))

    def _put(self, place: int, file: CaptionFile) -> None:
        before, self.files[place] = self.files[place], file
        self._lacking += self.lacks_trigger(file) - self.lacks_trigger(before)
        self._long += self.too_long(file) - self.too_long(before)

    def differs(self, place: int, text: str) -> bool:
        """Whether a text in the editor differs from the caption."""
        file = self.files[place]
        return normalised(text) != (file.text or "")

    def next_open(self, place: int) -> int | None:
        """The next image after `place` that is not marked ✓, starting over at the end."""
        order = (*range(place + 1, len(self.files)), *range(place + 1))
        return next((index for index in order if self.mark(self.files[index]) != "✓"), None)

    def mark(self, file: CaptionFile) -> str:
        """✓ a caption, ✗ none or an unreadable one, ! one with a problem."""
        if file.problem or not file.text:
            return "✗"
        return "!" if self.lacks_trigger(file) or self.too_long(file) else "✓"

    def lacks_trigger(self, file: CaptionFile) -> bool:
        """Whether there is a caption and the trigger word is not in it."""
        return bool(file.text and self.rules.trigger) and not has_word(file.text or "", self.rules.trigger)

    def too_long(self, file: CaptionFile) -> bool:
        """Whether its end is cut off."""
        return bool(file.text) and self.count_tokens(file.text or "") > self.rules.limit

    @property
    def coverage(self) -> Coverage:
        """How many have a caption."""
        return coverage(self.files)

    def summary(self) -> list[str]:
        """Coverage in words, then each problem."""
        covered = self.coverage
        parts = [_("{0} of {1} with a caption").format(covered.captioned, plural(covered.images, _("image")))]
        if covered.missing:
            parts.append(_("✗ {0} without").format(covered.missing))
        if covered.empty:
            parts.append(_("✗ {0} empty").format(covered.empty))
        if covered.unreadable:
            parts.append(_("✗ {0} unreadable").format(covered.unreadable))
        if self._lacking:
            parts.append(_("! {0} without {1}").format(self._lacking, printable(self.rules.trigger)))
        if self._long:
            parts.append(_("! {0} over {1} tokens").format(self._long, self.rules.limit))
        return parts if len(parts) > 1 else [f"✓ {parts[0]}"]

    def fallback_captions(self) -> list[str]:
        """What a run uses where there is no caption, without duplicates."""
        missing = (file for file in self.files if not file.text and not file.problem)
        return list(dict.fromkeys(self.rules.fallback_caption(file.image) for file in missing))

    def notes(self) -> str:
        """Notes about the folder, in a line or two."""
        lines = []
        if words := self.fallback_captions():
            quoted = ", ".join(f"“{printable(word)}”" if word else _("no text at all") for word in words[:3])
            lines.append(_("Without a caption a run uses {0}.").format(quoted))
        if self.rules.shipped:
            lines.append(_("These images come with the program: their captions cannot be edited here."))
        return " ".join(lines)

    def about(self, place: int, text: str) -> Sequence[tuple[str, str]]:
        """(sentence, kind) about an image whose caption is `text` in the editor; kind: "", "warning", "error"."""
        file = self.files[place]
        trial = CaptionFile(file.image, file.path, normalised(text))
        lines: list[tuple[str, str]] = []
        if file.problem and not trial.text:
            return [(f"✗ {printable(file.problem)}", "error")]
        tokens = self.count_tokens(trial.text or "")
        over = tokens > self.rules.limit
        words = _("{0} of {1} tokens").format(tokens, self.rules.limit)
        lines.append((f"! {words}: {_('the end is cut off')}" if over else words, "warning" if over else ""))
        if not trial.text:
            fallback_caption = printable(self.rules.fallback_caption(file.image))
            lines.append((_("✗ no caption: “{0}” is used").format(fallback_caption), "error"))
        elif self.rules.trigger:
            lacks = self.lacks_trigger(trial)
            words = _("! without the trigger {0}") if lacks else _("✓ trigger {0}")
            lines.append((words.format(printable(self.rules.trigger)), "warning" if lacks else ""))
        if "\n" in (trial.text or "") and not self.rules.all_lines:
            lines.append((_("! only the first line is used"), "warning"))
        return lines


def own_folder(draft: Draft) -> bool:
    """Whether the images stay where they are, so that captions are written into the person's own folder."""
    return str(draft.extras.get("folders.take_in", "leave")) == "leave"


def flowed(parts: list[str], width: int) -> str:
    """Parts with commas between them, in lines of at most `width` cells that break between the parts."""
    lines = [parts[0]]
    for part in parts[1:]:
        longer = f"{lines[-1]}, {part}"
        if cell_len(longer) < width:
            lines[-1] = longer
        else:
            lines[-1] += ","
            lines.append(part)
    return "\n".join(lines)
