"""Caption files for editing: listed with their images, read, written, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.atomic import write_text
from engine.dataset.folders import Source, caption_extensions, find_sources, read_caption
from engine.dataset.pool import ordered_map, workers
from engine.dataset.trigger import count_tokens
from engine.errors import DataError, StorageError
from engine.text import printable
from engine.types import Progress


@dataclass(frozen=True, slots=True)
class CaptionFile:
    """An image and its caption."""

    image: Path
    path: Path
    """The caption file, existing or not."""
    text: str | None = None
    """Non-blank lines, stripped; "" if the file has none, None if there is no file."""
    problem: str = ""
    """Why the caption cannot be read; empty if it can."""

    @property
    def captioned(self) -> bool:
        """Whether there is a caption, even an unreadable one."""
        return bool(self.text or self.problem)

    def reread(self) -> CaptionFile:
        """The caption as it is on disk now."""
        return _read(self.image, self.path, self.path if self.path.is_file() else None)


def list_captions(
    folder: Path,
    extension: str = ".txt",
    key: str = "dataset.train_data_dir",
    progress: Progress | None = None,
    seen: Callable[[CaptionFile], object] = lambda _: None,
) -> list[CaptionFile]:
    """Every image that a run would read from `folder`, with its caption, in the order of a run.

    Args:
        folder: of images, or the parent of `<repeats>_<name>` folders.
        extension: of new caption files; it also wins if an image has several.
        key: name of the setting with the folder, for messages.
        progress: called with (read, total) captions.
        seen: called with each of them before its progress.

    Raises:
        DataError: the folder is missing or unreadable, or has no image.
    """
    sources = find_sources(folder.expanduser(), key)[0]
    jobs = [(source, image) for source in sources for image in source.folder.images]
    extensions = caption_extensions(extension)

    def read(job: tuple[Source, Path]) -> CaptionFile:
        source, image = job
        caption = source.folder.caption_of(image, extensions)
        # Face crops may share one caption; an edit of one crop must not change it for the others.
        own = caption if caption is not None and caption.stem == image.stem else image.with_suffix(extensions[0])
        return _read(image, own, caption)

    files = []
    for file in ordered_map(read, jobs, workers(8), ahead=256):
        files.append(file)
        seen(file)
        if progress is not None:
            progress(len(files), len(jobs))
    return files


def _read(image: Path, path: Path, source: Path | None) -> CaptionFile:
    if source is None:
        return CaptionFile(image, path)
    try:
        return CaptionFile(image, path, read_caption(source, all_lines=True)[0] or "")
    except DataError as error:
        return CaptionFile(image, path, problem=str(error))


def write_caption(file: CaptionFile, text: str) -> CaptionFile:
    """Write the caption of one image atomically as UTF-8 and return the updated `CaptionFile`.

    Raises:
        StorageError: no space or no permission; the old caption is intact.
    """
    text = normalised(text)
    with writing(file.path):
        write_text(file.path, f"{text}\n" if text else "")
    return replace(file, text=text, problem="")


def remove_caption(file: CaptionFile) -> CaptionFile:
    """Delete the caption file of an image that had none before, and return the updated `CaptionFile`.

    Raises:
        StorageError: no permission.
    """
    with writing(file.path):
        file.path.unlink(missing_ok=True)
    return replace(file, text=None, problem="")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any error while writing a caption file into a StorageError with a hint."""
    hint = "Give yourself write permission there, or free some space."
    try:
        yield
    except StorageError as error:
        raise StorageError(error.message, hint, code=error.code) from error
    except OSError as error:
        raise StorageError(
            f"{printable(path)} cannot be written: {error.strerror or error}.", hint, code="write-failed"
        ) from error


def normalised(text: str) -> str:
    """The text with stripped lines and without blank ones, as a run reads it."""
    return "\n".join(stripped for line in text.splitlines() if (stripped := line.strip()))


@dataclass(frozen=True)
class Coverage:
    """Numbers of images with and without captions."""

    images: int
    captioned: int
    empty: int
    missing: int
    unreadable: int

    @property
    def without(self) -> int:
        """Images for which a run uses the class tokens."""
        return self.empty + self.missing


def coverage(files: Iterable[CaptionFile]) -> Coverage:
    """Count images by the state of their caption."""
    kinds = Counter(_kind(file) for file in files)
    counts = (kinds[kind] for kind in ("captioned", "empty", "missing", "unreadable"))
    return Coverage(kinds.total(), *counts)


def _kind(file: CaptionFile) -> str:
    if file.problem:
        return "unreadable"
    return "missing" if file.text is None else "captioned" if file.text else "empty"


def tag_counts(files: Iterable[CaptionFile], separator: str = ",") -> list[tuple[str, int]]:
    """(tag, captions that have it), the most frequent first; repeats within a caption count once."""
    counts: Counter[str] = Counter()
    for file in files:
        parts = (file.text or "").replace("\n", separator).split(separator)
        counts.update({tag for part in parts if (tag := part.strip())})
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def token_counter(model: str | Path = "") -> Callable[[str], int]:
    """A function that counts the tokens of a caption's longest line; each text is counted once.

    Args:
        model: a diffusers folder with its own tokenizer; otherwise CLIP's is used.
    """
    counts: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in counts:
            counts[text] = max((count_tokens(line, model) for line in text.split("\n")), default=0)
        return counts[text]

    return count


def has_word(text: str, word: str) -> bool:
    """Whether `text` has `word` as a separate word; case is ignored, as CLIP does."""
    return find_word(text.lower(), word.lower()) >= 0


def find_word(text: str, word: str, start: int = 0) -> int:
    """The index of `word` in `text` with no letter or digit directly before or after it; -1 if there is none."""
    place = text.find(word, start) if word else -1
    while place >= 0 and not is_separate_word(text, place, place + len(word)):
        place = text.find(word, place + 1)
    return place


def is_separate_word(text: str, start: int, end: int) -> bool:
    """Whether no letter or digit touches the word from `start` to `end`."""
    before, after = text[start - 1 : start], text[end : end + 1]
    joined_before = text[start : start + 1].isalnum() and before.isalnum()
    return not joined_before and not (text[end - 1 : end].isalnum() and after.isalnum())


def with_trigger(text: str, trigger: str, separator: str = ",") -> str:
    """The caption with the trigger word once and first: "smithy, a robot on grass".

    A tag equal to the trigger is removed from its old place; words inside a sentence stay.
    """
    if not trigger:
        return text
    tags: Sequence[str] = [tag.strip() for tag in text.split(separator)]
    if tags[0].lower().startswith(trigger.lower()) and is_separate_word(tags[0], 0, len(trigger)):
        trigger, tags = tags[0], tags[1:]
    rest = [tag for tag in tags if tag and tag.lower() != trigger.lower()]
    return f"{separator} ".join([trigger, *rest])
