"""What a run was trained on, from the record of its inputs and the metadata of a saved file.

A run's configuration may come from a stranger and name any folder of this machine: that folder is not scanned. Captions
are read only if the run was made on this machine, and counted if their text is the recorded one.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import LoraSmithError
from engine.models.header import read_header
from engine.reading import parse_json, read_text
from engine.runs import RunDir
from engine.runs.history import SavedFile
from engine.runs.identity import host
from engine.runs.inputs import ImageRecord, Inputs, read_inputs
from engine.runs.values import count
from engine.text import plural, printable

MOST_ROWS = 60
_MOST_CAPTIONS = 5000
_CAPTION_BYTES = 2**16


@dataclass(frozen=True)
class Folder:
    """A folder of training images."""

    name: str
    images: int
    repeats: int


@dataclass(frozen=True)
class Bucket:
    """A size that images are trained at."""

    width: int
    """Pixels, like `height`."""
    height: int
    images: int
    """With repeats."""


@dataclass(frozen=True)
class CaptionLengths:
    """Words of the captions that are still as they were recorded."""

    counted: int
    shortest: int
    median: float
    longest: int


@dataclass(frozen=True)
class DatasetSummary:
    """Numbers only: no image and no caption of the dataset is in it."""

    training: int | None
    """Number of training images; None where there is no record, like the other two."""
    regularization: int | None
    validation: int | None
    folders: tuple[Folder, ...]
    buckets: tuple[Bucket, ...]
    captions: CaptionLengths | None

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return self.training is not None or bool(self.folders)

    def facts(self) -> list[tuple[str, str]]:
        """(title, value) rows, as text."""
        rows = [("Training images", self.training), ("Validation images", self.validation)]
        rows += [("Regularization images", self.regularization)] if self.regularization else []
        facts = [(what, "unknown" if value is None else str(value)) for what, value in rows]
        facts += [
            (f"Folder {folder.name}", f"{plural(folder.images, 'image')} × {plural(folder.repeats, 'repeat')}")
            for folder in self.folders
        ]
        facts += [
            (f"Bucket {bucket.width}×{bucket.height} px", f"{bucket.images} with repeats") for bucket in self.buckets
        ]
        if words := self.captions:
            captions = plural(words.counted, "caption")
            text = f"{words.shortest} to {words.longest} words, median {words.median:g} ({captions})"
            facts.append(("Captions", text))
        return facts


def summarise(run_dir: RunDir, files: list[SavedFile]) -> DatasetSummary:
    """Summarise the run's records.

    Args:
        files: its saved files; repeats and buckets are those in the metadata of the last readable one.
    """
    inputs = read_inputs(run_dir)
    metadata = _metadata(files)
    roles = [record.role for record in inputs.images.values()] if inputs else None
    return DatasetSummary(
        training=roles.count("train") if roles is not None else _count(metadata, "ss_num_train_images"),
        regularization=roles.count("reg") if roles is not None else _count(metadata, "ss_num_reg_images"),
        validation=roles.count("validation") if roles is not None else _count(metadata, "ss_num_validation_images"),
        folders=tuple(_folders(metadata))[:MOST_ROWS],
        buckets=tuple(_buckets(metadata))[:MOST_ROWS],
        captions=_caption_lengths(inputs) if inputs and run_dir.meta.get("host") == host() else None,
    )


def _metadata(files: list[SavedFile]) -> dict[str, str]:
    for file in reversed(files):
        with suppress(LoraSmithError, OSError):
            return dict(read_header(file.path).metadata)
    return {}


def _count(metadata: dict[str, str], key: str) -> int | None:
    value = metadata.get(key, "")
    return count(int(value)) if value.isdecimal() and len(value) < 16 else None


def _table(metadata: dict[str, str], key: str) -> dict[str, Any]:
    """The JSON table in a value of the metadata; empty if there is none."""
    with suppress(ValueError):
        value = parse_json(metadata.get(key, ""))
        return value if isinstance(value, dict) else {}
    return {}


def _folders(metadata: dict[str, str]) -> Iterator[Folder]:
    for name, entry in _table(metadata, "ss_dataset_dirs").items():
        if isinstance(entry, dict):
            images, repeats = count(entry.get("img_count")), count(entry.get("n_repeats"))
            if images is not None and repeats is not None:
                yield Folder(printable(name)[:120], images, repeats)


def _buckets(metadata: dict[str, str]) -> Iterator[Bucket]:
    entries = _table(metadata, "ss_bucket_info").get("buckets")
    for entry in entries.values() if isinstance(entries, dict) else ():
        size = entry.get("resolution") if isinstance(entry, dict) else None
        if isinstance(size, list) and len(size) == 2:
            width, height, images = count(size[0]), count(size[1]), count(entry.get("count"))
            if width is not None and height is not None and images is not None:
                yield Bucket(width, height, images)


def _caption_lengths(inputs: Inputs) -> CaptionLengths | None:
    words = []
    for path, record in list(inputs.images.items())[:_MOST_CAPTIONS]:
        if record.role == "train" and (text := _caption(Path(path), record)) is not None:
            words.append(len(text.split()))
    if not words:
        return None
    return CaptionLengths(len(words), min(words), statistics.median(words), max(words))


def _caption(image: Path, record: ImageRecord) -> str | None:
    """The text of a caption file; None unless it is the recorded text."""
    name = Path(record.caption_name).name
    if not name:
        return None
    try:
        text = read_text(image.with_name(name), _CAPTION_BYTES)
    except (OSError, ValueError):
        return None
    for candidate in (text, text.strip(), text.strip().partition("\n")[0].strip()):
        digest = hashlib.sha256(candidate.encode(errors="surrogatepass")).hexdigest()
        if digest[: len(record.caption)] == record.caption and len(record.caption) >= 32:
            return candidate
    return None
