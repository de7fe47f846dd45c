"""Reading folders: which files are pictures, captions, sidecars or neither; Kohya's `N_name` convention."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.dataset.decoding import EXTENSIONS
from engine.dataset.pictures import Rejected
from engine.errors import DataError
from engine.reading import open_file
from engine.text import listing, plural, printable

CAPTION_EXTENSIONS = (".txt", ".caption")
MAX_CAPTION_BYTES = 1 << 20

_SIDECARS = frozenset(
    {".txt", ".caption", ".caption2", ".cap", ".tags", ".npz", ".npy", ".json", ".jsonl", ".toml", ".yaml", ".yml", 
     ".csv", ".tsv", ".xml", ".xmp", ".aae", ".md", ".log", ".ini", ".db", ".bak", ".safetensors"}
)  # fmt: skip
_NO_CAPTIONS = frozenset({"readme", "license", "licence"})
"""Text files that lie in many folders and were never meant as captions."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_REPEATS = re.compile(r"([0-9]{1,6})_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Folder:
    """One folder's content, not of its subfolders; everything sorted by the bytes of its name."""

    path: Path
    pictures: tuple[Path, ...]
    """Files with a picture's extension."""
    captions: dict[tuple[str, str], Path]
    """Files by (stem, extension in lower case), to find captions without asking the disk again."""
    rejected: tuple[Rejected, ...]
    """Files that are neither pictures nor known companions of pictures."""
    subfolders: tuple[Path, ...]

    def caption_of(self, picture: Path, extensions: tuple[str, ...], *, exact: bool = False) -> Path | None:
        """The caption file of a picture; like Kohya also without the last four `_` pieces (face crops).

        Args:
            exact: only a name of the same bytes; otherwise composed and decomposed letters are the same, as a name that
                went through macOS has the others.
        """
        stems = [picture.stem]
        pieces = picture.stem.split("_")
        if len(pieces) >= 5:
            stems.append("_".join(pieces[:-4]))
        names = [(stem, extension) for stem in stems for extension in extensions]
        found = next((self.captions[name] for name in names if name in self.captions), None)
        if found is not None or exact:
            return found
        composed = ((composed_name(stem), extension) for stem, extension in names)
        return next((self._composed[name] for name in composed if name in self._composed), None)

    @cached_property
    def _composed(self) -> dict[tuple[str, str], Path]:
        return {(composed_name(stem), extension): path for (stem, extension), path in self.captions.items()}

    def without_picture(self, used: Collection[Path], extensions: tuple[str, ...]) -> list[Path]:
        """Caption files with one of `extensions` that belong to no picture here: neither in `used`, nor of a picture's
        name with another extension, of which only the first is read."""
        stems = {composed_name(picture.stem) for picture in self.pictures}
        return [
            path
            for (stem, extension), path in self.captions.items()
            if extension in extensions
            and path not in used
            and composed_name(stem) not in stems
            and stem.lower() not in _NO_CAPTIONS
        ]


@dataclass(frozen=True)
class Source:
    """A folder that becomes a subset, with what its name says."""

    folder: Folder
    num_repeats: int | None
    """N of an `N_name` folder; None for a plain one."""
    name: str
    """The part behind N; empty for a plain folder."""


def composed_name(name: str) -> str:
    """`name` with composed letters (Unicode's NFC)."""
    return unicodedata.normalize("NFC", name)


def caption_extensions(first: str, *, only: bool = False) -> tuple[str, ...]:
    """`dataset.caption_extension` in lower case with its dot, then the other usual ones unless it is the `only` one."""
    first = (first if first.startswith(".") else f".{first}").lower()
    return (first,) if only else (first, *(extension for extension in CAPTION_EXTENSIONS if extension != first))


def read_folder(path: Path, key: str) -> Folder:
    """List one folder.

    Args:
        key: name of the setting that holds it, for the sentence ("dataset.train_data_dir"); "": of none.

    Raises:
        DataError: missing, not a folder, or not readable.
    """
    try:
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except FileNotFoundError:
        raise DataError(_about(key, f"the folder {printable(path)} does not exist."), _nearest(path)) from None
    except NotADirectoryError:
        raise DataError(_about(key, f"{printable(path)} is a file, not a folder."), "Give its folder.") from None
    except PermissionError:
        raise DataError(
            _about(key, f"the folder {printable(path)} cannot be read: permission denied."),
            "Give yourself read permission there.",
        ) from None
    except (OSError, ValueError) as error:
        words = printable(str(error))
        raise DataError(_about(key, f"the folder {printable(path)} cannot be read: {words}.")) from error
    pictures: list[Path] = []
    captions: dict[tuple[str, str], Path] = {}
    rejected: list[Rejected] = []
    subfolders: list[Path] = []
    for entry in found:
        file = Path(entry.path)
        extension = file.suffix.lower()
        if entry.name.startswith(".") or entry.name.lower() in ("thumbs.db", "desktop.ini", "__macosx"):
            continue
        if _is_folder(entry):
            subfolders.append(file)
        elif extension in EXTENSIONS:
            reason = _not_a_file(entry)
            if reason:
                rejected.append(Rejected(file, reason))
            else:
                pictures.append(file)
        else:
            if (file.stem, extension) not in captions or file.suffix == extension:  # .txt goes before .TXT
                captions[file.stem, extension] = file
            if extension not in _SIDECARS:
                rejected.append(Rejected(file, "not a picture"))
    return Folder(path, tuple(pictures), captions, tuple(rejected), tuple(subfolders))


def find_sources(path: Path, key: str) -> tuple[list[Source], list[Rejected], list[str]]:
    """The folders with pictures behind one setting: `N_name` subfolders if there are any, else the folder itself.

    Returns:
        sources, files that are not pictures, and notes about what is not used.

    Raises:
        DataError: a folder is missing or unreadable, or there is no picture.
    """
    root = read_folder(path, key)
    matches = {folder: match for folder in root.subfolders if (match := _REPEATS.fullmatch(folder.name))}
    listed = {folder: read_folder(folder, key) for folder in matches if int(matches[folder][1]) >= 1}
    kohya = [folder for folder in listed.values() if folder.pictures]
    if not kohya:
        if not root.pictures:
            raise DataError(*_no_pictures(root, key, list(listed.values())))
        return [Source(root, None, "")], list(root.rejected), _plain_notes(root)
    notes = []
    ignored = [printable(folder.name) for folder in root.subfolders if folder not in listed]
    if ignored:
        notes.append(
            f"{plural(len(ignored), 'subfolder')} of {printable(path)} not used, the name is not <repeats>_<name>: "
            f"{listing(ignored)}"
        )
    loose = [printable(file.name) for file in root.pictures]
    if loose:
        notes.append(
            f"{plural(len(loose), 'picture')} beside the <repeats>_<name> folders of {printable(path)} not used: "
            f"{listing(loose)}"
        )
    empty = [printable(folder.path.name) for folder in listed.values() if not folder.pictures]
    if empty:
        notes.append(f"{plural(len(empty), 'subfolder')} of {printable(path)} without pictures: {listing(empty)}")
    sources = [Source(folder, int(matches[folder.path][1]), matches[folder.path][2]) for folder in kohya]
    rejected = [*root.rejected, *(entry for folder in listed.values() for entry in folder.rejected)]
    return sources, rejected, notes


def read_caption(path: Path, *, all_lines: bool, kohya_exact: bool = False) -> tuple[str | None, int]:
    """Text of a caption file: its first line that is not blank, or with `all_lines` every such line.

    Args:
        kohya_exact: the first line even if it is blank, and with the byte order mark that it may begin with.

    Returns:
        the text (None when there is none), and the number of lines that are not blank.

    Raises:
        DataError: not UTF-8 (with the byte), not readable, or far too long.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"The caption {printable(path)} cannot be read: {error.strerror or error}.", "Check its permissions."
        ) from error
    if len(data) > MAX_CAPTION_BYTES:
        raise DataError(f"The caption {printable(path)} is longer than 1 MiB.", "Is it a caption? Move it away.")
    try:
        text = data.decode("utf-8" if kohya_exact else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise DataError(
            f"The caption {printable(path)} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}.",
            f"It looks like {kind}: save it as UTF-8.",
        ) from error
    given = _LINE_END.split(text)
    lines = [stripped for line in given if (stripped := line.strip())]
    if not lines:
        return None, 0
    first = given[0].strip() if kohya_exact else lines[0]
    return ("\n".join(lines) if all_lines else first), len(lines)


def _about(key: str, said: str) -> str:
    """A sentence that begins with the setting's name, where there is one."""
    return f"{key}: {said}" if key else f"{said[:1].upper()}{said[1:]}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _not_a_file(entry: os.DirEntry[str]) -> str | None:
    """Why an entry can't be opened as a file: a pipe would block for ever."""
    try:
        if entry.is_file():
            return None
    except OSError as error:
        return error.strerror or str(error)
    return "not a regular file" if os.path.exists(entry.path) else "broken link"  # noqa: PTH110


def _nearest(path: Path) -> str:
    parent = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    return f"What exists is {printable(parent)}." if parent else ""


def has_pictures(path: Path) -> bool:
    """Whether a file directly in the folder has a picture's extension; False where it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return any(Path(entry.name).suffix.lower() in EXTENSIONS for entry in entries)
    except OSError:
        return False


def _no_pictures(root: Folder, key: str, empty: list[Folder]) -> tuple[str, str]:
    """Message and hint for a folder in which no file has a picture's extension."""
    aside = [*root.rejected, *(entry for folder in empty for entry in folder.rejected)]
    seen = len({*root.captions.values(), *(entry.path for entry in aside)})
    message = _about(key, f"no pictures in {printable(root.path)}")
    message += f"; {plural(seen, 'file')} seen" if seen else ", the folder is empty" if not root.subfolders else ""
    message += f"; set aside: {listing([str(entry) for entry in aside])}." if aside else "."
    deeper = [folder for folder in root.subfolders if has_pictures(folder)]
    if not deeper:
        deeper = [
            inner for folder in root.subfolders for inner in read_folder(folder, key).subfolders if has_pictures(inner)
        ]
    if deeper:
        names = listing([printable(folder) for folder in deeper], 3)
        return message, f"Pictures lie deeper, in {names}: give that folder, or call such folders <repeats>_<name>."
    if has_pictures(root.path.absolute().parent):
        return message, f"Pictures lie one level higher, in {printable(root.path.absolute().parent)}: give that folder."
    return message, "PNG, JPEG, WebP, BMP, TIFF, AVIF and HEIC are read."


def _plain_notes(root: Folder) -> list[str]:
    notes = []
    if root.subfolders:
        notes.append(
            f"{plural(len(root.subfolders), 'subfolder')} of {printable(root.path)} not read: "
            f"{listing([printable(folder.name) for folder in root.subfolders])}"
        )
    if match := _REPEATS.fullmatch(root.path.absolute().name):
        notes.append(
            f"{printable(root.path)} is named like <repeats>_<name> but given itself, so its name is not read; "
            f"give its parent for {match[1]} repeats"
        )
    return notes
