"""The folders of a dataset configuration: Kohya's `--dataset_config`, with captions from metadata and with masks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.kohya.dataset_file import SubsetSpec, kohya_path, read_dataset_config
from engine.config.schema import RunConfig
from engine.dataset.decoding import EXTENSIONS
from engine.dataset.folders import Folder, Source, composed_name, read_folder
from engine.errors import DataError
from engine.reading import parse_json, read_text
from engine.text import listing, plural, printable

MAX_METADATA = 64 * 2**20
"""Bytes of a metadata file: those of 100 000 images have about 40 MiB."""


@dataclass(frozen=True)
class ConfiguredSource:
    """A folder of a dataset configuration."""

    source: Source
    spec: SubsetSpec
    captions: Mapping[Path, str] | None
    """From a metadata file; None: captions stand beside the pictures."""
    tags: tuple[str, ...] = ()
    """See `Subset.tags`."""


def configured_sources(path: Path, config: RunConfig) -> tuple[list[ConfiguredSource], list[str]]:
    """The folders that a dataset configuration names, and notes about what is not used.

    Raises:
        ConfigError: problems of the file.
        UsageError: it cannot be read.
        DataError: a folder or metadata file is missing or unreadable.
    """
    specs, notes = read_dataset_config(path, config)
    found = []
    for spec in specs:
        if spec.metadata_file is None:
            folder = read_folder(kohya_path(spec.image_dir), "image_dir")
            if not folder.pictures:
                raise DataError(
                    f"image_dir: no pictures in {printable(folder.path)}.",
                    "A subset names the folder itself, not its parent; subfolders are not read.",
                )
            found.append(ConfiguredSource(Source(folder, spec.num_repeats, ""), spec, None))
            continue
        captions, tags, lost = read_metadata(kohya_path(spec.metadata_file), spec)
        if lost:
            notes.append(
                f"{plural(len(lost), 'entry')} of {printable(spec.metadata_file)} without a picture file left out: "
                f"{listing([printable(name) for name in lost])}"
            )
        if not captions:
            raise DataError(
                f"metadata_file: no picture of {printable(spec.metadata_file)} was found.",
                "Its keys are paths, or names inside image_dir; pictures themselves are needed, not their .npz.",
            )
        first = next(iter(captions)).parent
        folder = Folder(kohya_path(spec.image_dir) if spec.image_dir else first, tuple(captions), {}, (), ())
        found.append(ConfiguredSource(Source(folder, spec.num_repeats, ""), spec, captions, tags))
    return found, notes


def read_metadata(path: Path, spec: SubsetSpec) -> tuple[dict[Path, str], tuple[str, ...], list[str]]:
    """Captions by picture from Kohya's metadata (.json, or .jsonl with image_path), tags of entries that have a caption
    as well (none with wildcards, as Kohya counts them), and keys without a picture.

    The text is the caption, then the tags behind the separator; with wildcards they follow each line of the caption.

    Raises:
        DataError: it is missing, not JSON, or has an entry without caption and tags.
    """
    entries = _entries(path)
    captions: dict[Path, str] = {}
    tags, lost = [], []
    for key, entry in entries.items():
        text = _text(entry, spec)
        if not text:
            raise DataError(
                f"metadata_file: {printable(key)} in {printable(path)} has neither caption nor tags.",
                "Give it one, or take the entry out.",
            )
        picture = _picture(key.replace("\\", "/"), spec.image_dir)
        if picture is None:
            lost.append(key)
        else:
            captions[picture] = text
            if entry.get("caption") and entry.get("tags") and not spec.table.enable_wildcard:
                tags.append(str(entry["tags"]))
    return dict(sorted(captions.items())), tuple(tags), lost


def masks_by_name(conditioning_data_dir: str, source: Source) -> dict[str, Path]:
    """Masks by the composed name of their picture without extension: those in `conditioning_data_dir`, and before them
    those in its subfolder that is called as the folder of pictures is.

    Raises:
        DataError: the folder is missing or unreadable.
    """
    root = read_folder(kohya_path(conditioning_data_dir), "conditioning_data_dir")
    inner = [folder for folder in root.subfolders if folder.name == source.folder.path.name]
    folders = [root, *(read_folder(folder, "conditioning_data_dir") for folder in inner)]
    return {composed_name(mask.stem): mask for folder in folders for mask in folder.pictures}


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = read_text(path, MAX_METADATA)
        if path.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
            content = {str(row["image_path"]): row for row in rows}
        else:
            content = parse_json(text)
    except FileNotFoundError:
        raise DataError(f"metadata_file: there is no file {printable(path)}.", "Check the path.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"metadata_file: {printable(path)} cannot be read: {printable(str(error))}.",
            "It must be JSON: picture to {caption, tags}; or .jsonl with image_path in each line.",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DataError(f"metadata_file: {printable(path)} is no table of pictures.", "Make it anew.")
    return content


def _text(entry: Mapping[str, Any], spec: SubsetSpec) -> str:
    caption, tags = str(entry.get("caption") or "").strip(), str(entry.get("tags") or "").strip()
    if not caption or not tags:
        return caption or tags
    lines = caption.split("\n") if spec.table.enable_wildcard else [caption]
    return "\n".join(f"{line}{spec.table.caption_separator}{tags}" for line in lines)


def _picture(key: str, image_dir: str) -> Path | None:
    """The file that a key means: a path, or a name in `image_dir`, with or without its extension."""
    for base in [Path(key), *([kohya_path(image_dir) / key] if image_dir else [])]:
        if not base.name:
            continue
        if base.suffix.lower() in EXTENSIONS and os.path.isfile(base):  # noqa: PTH113 - Path's own raises for a long name
            return base
        for extension in EXTENSIONS:
            for name in (base.with_name(base.name + extension), base.with_name(base.name + extension.upper())):
                if os.path.isfile(name):  # noqa: PTH113
                    return name
    return None
