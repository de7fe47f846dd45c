"""Caption files as a person works on them: listed beside their pictures, read, written, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from engine.atomic import write_text
from engine.dataset.folders import Source, caption_extensions, find_sources, read_caption
from engine.dataset.pool import Progress, ordered_map, workers
from engine.dataset.trigger import count_tokens
from engine.errors import DataError, StorageError
from engine.text import printable


@dataclass(frozen=True, slots=True)
class CaptionFile:
    """A picture and its caption."""

    picture: Path
    path: Path
    """Where the caption is, or would be written."""
    text: str | None = None
    """Lines that are not blank, stripped; "" where the file has none, None where there is no file."""
    problem: str = ""
    """Why the caption cannot be read; empty where it can."""

    @property
    def captioned(self) -> bool:
        """Whether a run has something to read, be it unreadable."""
        return bool(self.text or self.problem)

    def reread(self) -> CaptionFile:
        """The caption as it is on the disk now."""
        return _read(self.picture, self.path, self.path if self.path.is_file() else None)


def list_captions(
    folder: Path, extension: str = ".txt", key: str = "dataset.train_data_dir", progress: Progress | None = None
) -> list[CaptionFile]:
    """Every picture that a run would read from `folder`, with its caption; the order is that of a run.

    Args:
        folder: of pictures, or the parent of `<repeats>_<name>` folders.
        extension: what a new caption file gets; with several beside one picture, the one that counts.
        key: name of the setting that holds the folder, for the sentence.
        progress: told (read, total) captions.

    Raises:
        DataError: the folder is missing or unreadable, or has no picture.
    """
    sources = find_sources(folder.expanduser(), key)[0]
    jobs = [(source, picture) for source in sources for picture in source.folder.pictures]
    extensions = caption_extensions(extension)

    def read(job: tuple[Source, Path]) -> CaptionFile:
        source, picture = job
        found = source.folder.caption_of(picture, extensions)
        # Face crops may share one caption, which an edit of one of them must not change for the others.
        own = found if found is not None and found.stem == picture.stem else picture.with_suffix(extensions[0])
        return _read(picture, own, found)

    files = []
    for file in ordered_map(read, jobs, workers(8), ahead=256):
        files.append(file)
        if progress is not None:
            progress(len(files), len(jobs))
    return files


def _read(picture: Path, path: Path, found: Path | None) -> CaptionFile:
    if found is None:
        return CaptionFile(picture, path)
    try:
        return CaptionFile(picture, path, read_caption(found, all_lines=True)[0] or "")
    except DataError as error:
        return CaptionFile(picture, path, problem=str(error))


def write_caption(file: CaptionFile, text: str) -> CaptionFile:
    """Write the caption of one picture, as UTF-8 and in one piece; the picture with its new caption.

    Raises:
        StorageError: no space or no permission; the old caption is intact.
    """
    text = normalised(text)
    with writing(file.path):
        write_text(file.path, f"{text}\n" if text else "")
    return replace(file, text=text, problem="")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever keeps a caption file from being written into a sentence, raised as StorageError."""
    hint = "Give yourself write permission there, or free some space."
    try:
        yield
    except StorageError as error:
        raise StorageError(error.message, hint) from error
    except OSError as error:
        raise StorageError(f"{printable(path)} cannot be written: {error.strerror or error}.", hint) from error


def normalised(text: str) -> str:
    """Lines stripped, blank ones dropped: what a run reads of it."""
    return "\n".join(stripped for line in text.splitlines() if (stripped := line.strip()))


@dataclass(frozen=True)
class Coverage:
    """How many pictures have a caption."""

    pictures: int
    captioned: int
    empty: int
    missing: int
    unreadable: int

    @property
    def without(self) -> int:
        """Pictures for which a run takes the class tokens."""
        return self.empty + self.missing


def coverage(files: Iterable[CaptionFile]) -> Coverage:
    """Count pictures by what their caption is."""
    kinds = Counter(_kind(file) for file in files)
    counts = (kinds[kind] for kind in ("captioned", "empty", "missing", "unreadable"))
    return Coverage(kinds.total(), *counts)


def _kind(file: CaptionFile) -> str:
    if file.problem:
        return "unreadable"
    return "missing" if file.text is None else "captioned" if file.text else "empty"


def tag_counts(files: Iterable[CaptionFile], separator: str = ",") -> list[tuple[str, int]]:
    """(tag, captions that have it), the most frequent first; a tag twice in one caption counts once."""
    counts: Counter[str] = Counter()
    for file in files:
        parts = (file.text or "").replace("\n", separator).split(separator)
        counts.update({tag for part in parts if (tag := part.strip())})
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def token_counter(model: str | Path = "") -> Callable[[str], int]:
    """A function that counts the tokens of a caption's longest line; each text is counted once.

    Args:
        model: a diffusers folder with a tokenizer of its own; for anything else CLIP's.
    """
    known: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in known:
            known[text] = max((count_tokens(line, model) for line in text.split("\n")), default=0)
        return known[text]

    return count


def has_word(text: str, word: str) -> bool:
    """Whether `word` stands in `text` as a word of its own; case does not matter, as to CLIP."""
    return find_word(text.lower(), word.lower()) >= 0


def find_word(text: str, word: str, start: int = 0) -> int:
    """Where `word` begins in `text` with no letter or digit directly before or behind it; -1 where it does not."""
    place = text.find(word, start) if word else -1
    while place >= 0 and not is_whole(text, place, place + len(word)):
        place = text.find(word, place + 1)
    return place


def is_whole(text: str, start: int, end: int) -> bool:
    """Whether the letters and digits from `start` to `end` do not go on outside."""
    before, after = text[start - 1 : start], text[end : end + 1]
    joined_before = text[start : start + 1].isalnum() and before.isalnum()
    return not joined_before and not (text[end - 1 : end].isalnum() and after.isalnum())


def with_trigger(text: str, trigger: str, separator: str = ",") -> str:
    """The caption with the trigger word once and first: "smithy, a robot on grass".

    A tag that is nothing but the trigger is dropped from its old place; words inside a sentence stay.
    """
    if not trigger:
        return text
    tags: Sequence[str] = [tag.strip() for tag in text.split(separator)]
    if tags[0].lower().startswith(trigger.lower()) and is_whole(tags[0], 0, len(trigger)):
        trigger, tags = tags[0], tags[1:]
    rest = [tag for tag in tags if tag and tag.lower() != trigger.lower()]
    return f"{separator} ".join([trigger, *rest])
