"""Listing folders: images, captions, sidecars and other files; Kohya's `N_name` convention."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.dataset.decoding import EXTENSIONS
from engine.dataset.images import Rejected
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
"""Text files in many folders that are not captions."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_REPEATS = re.compile(r"([0-9]{1,6})_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Folder:
    """The content of one folder without its subfolders, sorted by the bytes of the names."""

    path: Path
    images: tuple[Path, ...]
    """Files with an image's extension."""
    captions: dict[tuple[str, str], Path]
    """Files by (stem, extension in lower case), to look up captions without reading the disk."""
    rejected: tuple[Rejected, ...]
    """Files that are neither images nor known sidecars."""
    subfolders: tuple[Path, ...]

    def caption_of(self, image: Path, extensions: tuple[str, ...], *, exact: bool = False) -> Path | None:
        """The caption file of an image; like Kohya also without the last four `_` pieces (face crops).

        Args:
            exact: compare names by bytes; otherwise by their NFC form, as macOS decomposes letters.
        """
        stems = [image.stem]
        pieces = image.stem.split("_")
        if len(pieces) >= 5:
            stems.append("_".join(pieces[:-4]))
        names = [(stem, extension) for stem in stems for extension in extensions]
        caption = next((self.captions[name] for name in names if name in self.captions), None)
        if caption is not None or exact:
            return caption
        nfc_names = ((nfc_name(stem), extension) for stem, extension in names)
        return next((self._by_nfc_name[name] for name in nfc_names if name in self._by_nfc_name), None)

    @cached_property
    def _by_nfc_name(self) -> dict[tuple[str, str], Path]:
        return {(nfc_name(stem), extension): path for (stem, extension), path in self.captions.items()}

    def without_image(self, used: Collection[Path], extensions: tuple[str, ...]) -> list[Path]:
        """Caption files with one of `extensions` that belong to no image: not in `used`, and not a second caption file
        of an image."""
        stems = {nfc_name(image.stem) for image in self.images}
        return [
            path
            for (stem, extension), path in self.captions.items()
            if extension in extensions
            and path not in used
            and nfc_name(stem) not in stems
            and stem.lower() not in _NO_CAPTIONS
        ]


@dataclass(frozen=True)
class Source:
    """A folder that becomes a subset, with the repeats and name from its own name."""

    folder: Folder
    num_repeats: int | None
    """N of an `N_name` folder; None for a plain one."""
    name: str
    """The part after N; empty for a plain folder."""


def nfc_name(name: str) -> str:
    """`name` in Unicode's NFC form (composed letters)."""
    return unicodedata.normalize("NFC", name)


def caption_extensions(first: str, *, only: bool = False) -> tuple[str, ...]:
    """`dataset.caption_extension` in lower case with its dot, then the other usual ones unless `only`."""
    first = (first if first.startswith(".") else f".{first}").lower()
    return (first,) if only else (first, *(extension for extension in CAPTION_EXTENSIONS if extension != first))


def read_folder(path: Path, key: str) -> Folder:
    """List one folder.

    Args:
        key: name of the setting with the folder, for messages ("dataset.train_data_dir"); "": none.

    Raises:
        DataError: missing, not a folder, or not readable.
    """
    try:
        with os.scandir(path) as entries:
            children = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except FileNotFoundError:
        raise DataError(
            _about(key, f"the folder {printable(path)} does not exist."), _nearest(path), code="folder-missing"
        ) from None
    except NotADirectoryError:
        raise DataError(
            _about(key, f"{printable(path)} is a file, not a folder."), "Give its folder.", code="folder-is-a-file"
        ) from None
    except PermissionError:
        raise DataError(
            _about(key, f"the folder {printable(path)} cannot be read: permission denied."),
            "Give yourself read permission there.",
            code="folder-unreadable",
        ) from None
    except (OSError, ValueError) as error:
        reason = printable(str(error))
        raise DataError(
            _about(key, f"the folder {printable(path)} cannot be read: {reason}."),
            "Check the path and its disk.",
            code="folder-unreadable",
        ) from error
    images: list[Path] = []
    captions: dict[tuple[str, str], Path] = {}
    rejected: list[Rejected] = []
    subfolders: list[Path] = []
    for entry in children:
        file = Path(entry.path)
        extension = file.suffix.lower()
        if entry.name.startswith(".") or entry.name.lower() in ("thumbs.db", "desktop.ini", "__macosx"):
            continue
        if _is_folder(entry):
            subfolders.append(file)
        elif extension in EXTENSIONS:
            problem = _not_a_file(entry)
            if problem:
                rejected.append(Rejected(file, problem))
            else:
                images.append(file)
        else:
            if (file.stem, extension) not in captions or file.suffix == extension:  # .txt wins over .TXT
                captions[file.stem, extension] = file
            if extension not in _SIDECARS:
                rejected.append(Rejected(file, "not an image"))
    return Folder(path, tuple(images), captions, tuple(rejected), tuple(subfolders))


def find_sources(path: Path, key: str) -> tuple[list[Source], list[Rejected], list[str]]:
    """The image folders of one setting: its `N_name` subfolders if there are any, else the folder itself.

    Returns:
        sources, files that are not images, and notes about unused files.

    Raises:
        DataError: a folder is missing or unreadable, or there is no image.
    """
    root = read_folder(path, key)
    matches = {folder: match for folder in root.subfolders if (match := _REPEATS.fullmatch(folder.name))}
    listed = {folder: read_folder(folder, key) for folder in matches if int(matches[folder][1]) >= 1}
    kohya = [folder for folder in listed.values() if folder.images]
    if not kohya:
        if not root.images:
            raise _no_images(root, key, list(listed.values()))
        return [Source(root, None, "")], list(root.rejected), _plain_notes(root)
    notes = []
    ignored = [printable(folder.name) for folder in root.subfolders if folder not in listed]
    if ignored:
        notes.append(
            f"{plural(len(ignored), 'subfolder')} of {printable(path)} not used, the name is not <repeats>_<name>: "
            f"{listing(ignored)}"
        )
    loose = [printable(file.name) for file in root.images]
    if loose:
        notes.append(
            f"{plural(len(loose), 'image')} next to the <repeats>_<name> folders of {printable(path)} not used: "
            f"{listing(loose)}"
        )
    empty = [printable(folder.path.name) for folder in listed.values() if not folder.images]
    if empty:
        notes.append(f"{plural(len(empty), 'subfolder')} of {printable(path)} without images: {listing(empty)}")
    sources = [Source(folder, int(matches[folder.path][1]), matches[folder.path][2]) for folder in kohya]
    rejected = [*root.rejected, *(entry for folder in listed.values() for entry in folder.rejected)]
    return sources, rejected, notes


def read_caption(path: Path, *, all_lines: bool, kohya_exact: bool = False) -> tuple[str | None, int]:
    """Text of a caption file: its first non-blank line, or with `all_lines` all of them.

    Args:
        kohya_exact: the first line even if it is blank, including a byte order mark.

    Returns:
        the text (None if there is none), and the number of non-blank lines.

    Raises:
        DataError: not UTF-8 (with the byte), not readable, or far too long.
    """
    try:
        with open_file(path) as file:
            data = file.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"The caption {printable(path)} cannot be read: {error.strerror or error}.",
            "Check its permissions.",
            code="caption-unreadable",
        ) from error
    if len(data) > MAX_CAPTION_BYTES:
        raise DataError(
            f"The caption {printable(path)} is longer than 1 MiB.",
            "Move it elsewhere if it is not a caption.",
            code="caption-too-long",
        )
    try:
        text = data.decode("utf-8" if kohya_exact else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding"
        raise DataError(
            f"The caption {printable(path)} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}.",
            f"It looks like {kind}: save it as UTF-8.",
            code="caption-not-utf8",
        ) from error
    raw_lines = _LINE_END.split(text)
    lines = [stripped for line in raw_lines if (stripped := line.strip())]
    if not lines:
        return None, 0
    first = raw_lines[0].strip() if kohya_exact else lines[0]
    return ("\n".join(lines) if all_lines else first), len(lines)


def _about(key: str, message: str) -> str:
    """The message after the setting's name, if there is one."""
    return f"{key}: {message}" if key else f"{message[:1].upper()}{message[1:]}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _not_a_file(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is not a regular file (opening a pipe would block), or None."""
    try:
        if entry.is_file():
            return None
    except OSError as error:
        return error.strerror or str(error)
    return "not a regular file" if os.path.exists(entry.path) else "broken link"  # noqa: PTH110


def _nearest(path: Path) -> str:
    parent = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    return f"The nearest existing folder is {printable(parent)}." if parent else ""


def has_images(path: Path) -> bool:
    """Whether the folder directly has a file with an image extension; False if it cannot be read."""
    try:
        with os.scandir(path) as entries:
            return any(Path(entry.name).suffix.lower() in EXTENSIONS for entry in entries)
    except OSError:
        return False


def _no_images(root: Folder, key: str, empty: list[Folder]) -> DataError:
    """The error for a folder without image files."""
    aside = [*root.rejected, *(entry for folder in empty for entry in folder.rejected)]
    seen = len({*root.captions.values(), *(entry.path for entry in aside)})
    message = _about(key, f"no images in {printable(root.path)}")
    message += f"; {plural(seen, 'file')} seen" if seen else ", the folder is empty" if not root.subfolders else ""
    message += f"; set aside: {listing([str(entry) for entry in aside])}." if aside else "."
    deeper = [folder for folder in root.subfolders if has_images(folder)]
    if not deeper:
        deeper = [
            inner for folder in root.subfolders for inner in read_folder(folder, key).subfolders if has_images(inner)
        ]
    if deeper:
        names = listing([printable(folder) for folder in deeper], 3)
        hint = f"Images are in subfolders ({names}): give that folder, or name such folders <repeats>_<name>."
        return DataError(message, hint, code="images-in-subfolders")
    if has_images(root.path.absolute().parent):
        hint = f"Images are one level up, in {printable(root.path.absolute().parent)}: give that folder."
        return DataError(message, hint, code="images-one-level-up")
    return DataError(message, "PNG, JPEG, WebP, BMP, TIFF, AVIF and HEIC are read.", code="no-images")


def _plain_notes(root: Folder) -> list[str]:
    notes = []
    if root.subfolders:
        notes.append(
            f"{plural(len(root.subfolders), 'subfolder')} of {printable(root.path)} not read: "
            f"{listing([printable(folder.name) for folder in root.subfolders])}"
        )
    if match := _REPEATS.fullmatch(root.path.absolute().name):
        notes.append(
            f"{printable(root.path)} is named <repeats>_<name> but was given directly, so the name is ignored; "
            f"give its parent for {match[1]} repeats"
        )
    return notes
