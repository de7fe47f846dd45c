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
        source, more = _with_captions(spec, "metadata_file")
        sources.append(source)
        notes += more
    return sources, notes


def metadata_source(config: RunConfig) -> tuple[ConfiguredSource, list[str]]:
    """The images of `dataset.in_json` in `dataset.train_data_dir`, as one folder; and notes about unused entries.

    Raises:
        DataError: the file is missing or unreadable, or names no image.
    """
    dataset = config.dataset
    assert dataset.in_json
    table = dataset.model_copy(update={"num_repeats": dataset.num_repeats or 1})
    spec = SubsetSpec(
        table,
        0,
        config.training.train_batch_size,
        dataset.train_data_dir,
        dataset.in_json,
        dataset.conditioning_data_dir,
        num_repeats=dataset.num_repeats or 1,
    )
    return _with_captions(spec, "dataset.in_json")


def _with_captions(spec: SubsetSpec, key: str) -> tuple[ConfiguredSource, list[str]]:
    """A subset whose captions are in a metadata file.

    Args:
        key: the setting that names the file.
    """
    assert spec.metadata_file is not None
    content = read_metadata(kohya_path(spec.metadata_file), spec, key)
    file, notes = printable(spec.metadata_file), []
    if content.missing:
        notes.append(
            f"{plural(len(content.missing), 'entry')} of {file} without an image file left out: "
            f"{listing([printable(name) for name in content.missing])}"
        )
    if content.sized:
        notes.append(
            f"{file}: train_resolution of {plural(content.sized, 'entry')} has no effect: the buckets follow from "
            "dataset.resolution, as in Kohya's present scripts"
        )
    if not content.captions:
        raise DataError(
            f"{key}: no image of {file} exists.",
            "Its keys are paths or names inside the folder of the images; these are needed, not their .npz files.",
            code="metadata-without-images",
        )
    first = next(iter(content.captions)).parent
    folder = Folder(kohya_path(spec.image_dir) if spec.image_dir else first, tuple(content.captions), {}, (), ())
    return ConfiguredSource(Source(folder, spec.num_repeats, ""), spec, content.captions, content.tags), notes


@dataclass(frozen=True)
class Metadata:
    """The content of a metadata file."""

    captions: dict[Path, str]
    """By image, sorted."""
    tags: tuple[str, ...]
    """Tags of entries that also have a caption; none with wildcards, as Kohya counts them."""
    missing: list[str]
    """Keys without an image."""
    sized: int
    """Entries with `train_resolution`, which earlier scripts took as the image's bucket."""


def read_metadata(path: Path, spec: SubsetSpec, key: str = "metadata_file") -> Metadata:
    """Read Kohya's metadata (.json, or .jsonl with image_path).

    The text is the caption and the tags, joined by the separator; with wildcards the tags follow each line.

    Args:
        key: the setting that names the file, for messages.

    Raises:
        DataError: the file is missing, not JSON, or has an entry without caption and tags.
    """
    entries = _entries(path, key)
    captions: dict[Path, str] = {}
    tags, missing = [], []
    for name, entry in entries.items():
        text = _text(entry, spec)
        if not text:
            raise DataError(
                f"{key}: {printable(name)} in {printable(path)} has neither caption nor tags.",
                "Add one, or remove the entry.",
                code="metadata-entry-empty",
            )
        image = _image(name.replace("\\", "/"), spec.image_dir)
        if image is None:
            missing.append(name)
        else:
            captions[image] = text
            if entry.get("caption") and entry.get("tags") and not spec.table.enable_wildcard:
                tags.append(str(entry["tags"]))
    sized = sum("train_resolution" in entry for entry in entries.values())
    return Metadata(dict(sorted(captions.items())), tuple(tags), missing, sized)


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


def _entries(path: Path, key: str) -> dict[str, dict[str, Any]]:
    try:
        text = read_text(path, MAX_METADATA)
        if path.suffix.lower() == ".jsonl":
            rows = [parse_json(line) for line in text.splitlines() if line.strip()]
            content = {str(row["image_path"]): row for row in rows}
        else:
            content = parse_json(text)
    except FileNotFoundError:
        raise DataError(
            f"{key}: there is no file {printable(path)}.", "Check the path.", code="metadata-missing"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{key}: {printable(path)} cannot be read: {printable(str(error))}.",
            "It must be JSON {image: {caption, tags}}, or .jsonl with image_path in each line.",
            code="metadata-unreadable",
        ) from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise DataError(
            f"{key}: {printable(path)} does not map images to entries.",
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
