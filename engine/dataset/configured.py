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
from engine.dataset.folders import Folder, Source, nfc_name, read_folder
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
    """From a metadata file; None: captions are next to the images."""
    tags: tuple[str, ...] = ()
    """Tags of the metadata file, as in `Subset.tags`."""


def configured_sources(path: Path, config: RunConfig) -> tuple[list[ConfiguredSource], list[str]]:
    """The folders of a dataset configuration, and notes about unused entries.

    Raises:
        ConfigError: the file has errors.
        UsageError: it cannot be read.
        DataError: a folder or metadata file is missing or unreadable.
    """
    specs, notes = read_dataset_config(path, config)
    sources = []
    for spec in specs:
        if spec.metadata_file is None:
            folder = read_folder(kohya_path(spec.image_dir), "image_dir")
            if not folder.images:
                raise DataError(
                    f"image_dir: no images in {printable(folder.path)}.",
                    "A subset names the folder itself, not its parent; subfolders are not read.",
                    code="no-images",
                )
            sources.append(ConfiguredSource(Source(folder, spec.num_repeats, ""), spec, None))
            continue
        captions, tags, missing = read_metadata(kohya_path(spec.metadata_file), spec)
        if missing:
            notes.append(
                f"{plural(len(missing), 'entry')} of {printable(spec.metadata_file)} without an image file left out: "
                f"{listing([printable(name) for name in missing])}"
            )
        if not captions:
            raise DataError(
                f"metadata_file: no image of {printable(spec.metadata_file)} exists.",
                "Its keys are paths or names inside image_dir; the images are needed, not their .npz files.",
                code="metadata-without-images",
            )
        first = next(iter(captions)).parent
        folder = Folder(kohya_path(spec.image_dir) if spec.image_dir else first, tuple(captions), {}, (), ())
        sources.append(ConfiguredSource(Source(folder, spec.num_repeats, ""), spec, captions, tags))
    return sources, notes


def read_metadata(path: Path, spec: SubsetSpec) -> tuple[dict[Path, str], tuple[str, ...], list[str]]:
    """Captions by image from Kohya's metadata (.json, or .jsonl with image_path), tags of entries that also have a
    caption (none with wildcards, as Kohya counts them), and keys without an image.

    The text is the caption and the tags, joined by the separator; with wildcards the tags follow each line.

    Raises:
        DataError: the file is missing, not JSON, or has an entry without caption and tags.
    """
    entries = _entries(path)
    captions: dict[Path, str] = {}
    tags, missing = [], []
    for key, entry in entries.items():
        text = _text(entry, spec)
        if not text:
            raise DataError(
                f"metadata_file: {printable(key)} in {printable(path)} has neither caption nor tags.",
                "Add one, or remove the entry.",
                code="metadata-entry-empty",
            )
        image = _image(key.replace("\\", "/"), spec.image_dir)
        if image is None:
            missing.append(key)
        else:
            captions[image] = text
            if entry.get("caption") and entry.get("tags") and not spec.table.enable_wildcard:
                tags.append(str(entry["tags"]))
    return dict(sorted(captions.items())), tuple(tags), missing


def masks_by_name(conditioning_data_dir: str, source: Source) -> dict[str, Path]:
    """Masks by the NFC name of their image without extension, from `conditioning_data_dir`; masks in a subfolder with
    the name of the image folder win.

    Raises:
        DataError: the folder is missing or unreadable.
    """
    root = read_folder(kohya_path(conditioning_data_dir), "conditioning_data_dir")
    inner = [folder for folder in root.subfolders if folder.name == source.folder.path.name]
    folders = [root, *(read_folder(folder, "conditioning_data_dir") for folder in inner)]
    return {nfc_name(mask.stem): mask for folder in folders for mask in folder.images}


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = read_text(path, MAX_METADATA)
        if path.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
            content = {str(row["image_path"]): row for row in rows}
        else:
            content = parse_json(text)
    except FileNotFoundError:
        raise DataError(
            f"metadata_file: there is no file {printable(path)}.", "Check the path.", code="metadata-missing"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"metadata_file: {printable(path)} cannot be read: {printable(str(error))}.",
            "It must be JSON {image: {caption, tags}}, or .jsonl with image_path in each line.",
            code="metadata-unreadable",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DataError(
            f"metadata_file: {printable(path)} does not map images to entries.",
            "Create it again.",
            code="metadata-unreadable",
        )
    return content


def _text(entry: Mapping[str, Any], spec: SubsetSpec) -> str:
    caption, tags = str(entry.get("caption") or "").strip(), str(entry.get("tags") or "").strip()
    if not caption or not tags:
        return caption or tags
    lines = caption.split("\n") if spec.table.enable_wildcard else [caption]
    return "\n".join(f"{line}{spec.table.caption_separator}{tags}" for line in lines)


def _image(key: str, image_dir: str) -> Path | None:
    """The image of a key: a path, or a name in `image_dir`, with or without extension."""
    for base in [Path(key), *([kohya_path(image_dir) / key] if image_dir else [])]:
        if not base.name:
            continue
        if base.suffix.lower() in EXTENSIONS and os.path.isfile(base):  # noqa: PTH113 - Path.is_file raises for a long name
            return base
        for extension in EXTENSIONS:
            for name in (base.with_name(base.name + extension), base.with_name(base.name + extension.upper())):
                if os.path.isfile(name):  # noqa: PTH113
                    return name
    return None
