"""The inputs of a run: their record in its directory, and the differences at a resume. Loads no torch.

The record names every file whose content decides the numbers of a run and is not part of its configuration: images,
captions, masks, the checkpoint, its other files, the LoRA to start from. It also has the versions and the device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.atomic import write_bytes
from engine.errors import UsageError
from engine.reading import parse_json, read_bytes
from engine.runs.layout import RunDir
from engine.text import listing, plural, printable, resume_line

_SCHEMA = 1
_LIMIT = 64 * 2**20
"""Bytes of a record: about 200 for each image."""
_ROLES = {"train": "image", "reg": "regularization image", "validation": "validation image"}

Stamp = tuple[int, int, int]
"""Size in bytes, and the times of the last change of content and inode in ns. If equal, the content is unchanged."""


def model_titles() -> dict[str, str]:
    """Settings that name a model file or folder, by the names that records have for them, with a description."""
    from engine.config.moved import former_key
    from engine.families.registry import specs

    return {
        "model.pretrained_model_name_or_path": "the base model",
        "model.vae": "the VAE",
        **{former_key(key): title for spec in specs() for key, title in spec.companions.items()},
        "network.network_weights": "the LoRA to start from",
    }


MERGED = "model.base_weights"
"""Records have its files one by one, as "model.base_weights 1"."""


def _title(key: str) -> str:
    return "the LoRA in the base" if key.startswith(f"{MERGED} ") else model_titles().get(key, "")


def stamp_of(path: Path) -> Stamp:
    """The stamp of a file.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class FileRecord:
    """A file and the SHA-256 of its content, in hexadecimal."""

    stamp: Stamp
    digest: str


@dataclass(frozen=True)
class ImageRecord:
    """An image, with its caption and mask."""

    role: str
    """A key of `_ROLES`."""
    file: FileRecord
    caption: str
    """Digest of its caption before shuffling and dropout."""
    caption_name: str = ""
    """Name of the caption file; empty without one."""
    mask: FileRecord | None = None


@dataclass(frozen=True)
class Inputs:
    """Everything that a run is trained on."""

    images: Mapping[str, ImageRecord]
    """By absolute path, in the order of the scan."""
    models: Mapping[str, Mapping[str, FileRecord]]
    """Setting -> path -> file. A path is relative to the value of the setting."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Setting -> the file or folder that it named."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions and the device: they affect only the last bits."""

    @property
    def is_complete(self) -> bool:
        """Whether every file of the models has a digest."""
        return all(file.digest for files in self.models.values() for file in files.values())

    @property
    def digest(self) -> str:
        """SHA-256 over the content, in hexadecimal: files that were only touched or moved do not change it."""
        content = [
            [[path, image.role, image.file.digest, image.caption, image.mask and image.mask.digest]
             for path, image in self.images.items()],
            {key: {name: file.digest for name, file in files.items()} for key, files in self.models.items()},
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class ChangedInputsError(UsageError):
    """The inputs of a run have changed, and nobody has accepted that.

    Args:
        changes: one phrase for each kind of change, with names.
    """

    title = "Changed since"

    def __init__(self, run_dir: RunDir, changes: Sequence[str]) -> None:
        self.run_dir, self.changes = run_dir, tuple(changes)
        super().__init__(
            f"The run {run_dir.path} was trained on something else: {'; '.join(changes)}.",
            "Nothing was lost. Undo the change, or continue with what is there now:\n"
            f"  {resume_line(run_dir.path)} --accept-changes",
            code="inputs-changed",
        )


def read_inputs(run_dir: RunDir) -> Inputs | None:
    """The run's record; None where there is none, as in runs of earlier versions, or where it is damaged."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        value = parse_json(read_bytes(run_dir.inputs_path, _LIMIT, below=run_dir.path))
        if value["schema"] == _SCHEMA:
            return _from_json(value)
    return None


def write_inputs(run_dir: RunDir, inputs: Inputs) -> None:
    """Write the record atomically.

    Raises:
        StorageError: no space or no permission; the old record is intact.
    """
    write_bytes(run_dir.inputs_path, json.dumps(_as_json(inputs), separators=(",", ":")).encode("ascii"))


def changes(old: Inputs, new: Inputs) -> list[str]:
    """The changes, a phrase for each kind, with names. Empty where the content is the same."""
    phrases = [phrase for role, noun in _ROLES.items() for phrase in _image_changes(old, new, role, noun)]
    both = [path for path in old.images if path in new.images]
    moved = [path for path in both if old.images[path].role != new.images[path].role]
    if not phrases and moved:
        phrases.append(_counted(moved, "image", "is used in another role", "are used in another role"))
    if not phrases and list(old.images) != list(new.images):
        phrases.append("the images come in another order")
    for key, before in old.models.items():
        after, title = new.models.get(key), _title(key)
        if after is None or not title or _digests(before) == _digests(after):
            continue  # another value of the setting is a change of the configuration, which is reported as that
        differing = sorted(name for name in {*before, *after} if _digest(before, name) != _digest(after, name))
        where = f" ({listing([printable(name) for name in differing])})" if len(before) > 1 or len(after) > 1 else ""
        phrases.append(f"{title} {printable(Path(new.places.get(key, '')).name)} changed{where}")
    return phrases


def environment_changes(old: Inputs, new: Inputs) -> list[str]:
    """Versions and devices that have changed: "torch was 2.9.0 and is 2.10.0"."""
    names = [name for name in old.environment if name in new.environment]
    return [
        f"{name} was {printable(old.environment[name])} and is {printable(new.environment[name])}"
        for name in names
        if old.environment[name] != new.environment[name]
    ]


def _image_changes(old: Inputs, new: Inputs, role: str, noun: str) -> list[str]:
    before = {path: image for path, image in old.images.items() if image.role == role}
    pairs = [(path, image, new.images[path]) for path, image in before.items() if path in new.images]
    missing = [path for path in before if path not in new.images]
    added = [path for path, image in new.images.items() if image.role == role and path not in old.images]
    content = [path for path, a, b in pairs if a.file.digest != b.file.digest]
    captions = [b.caption_name or a.caption_name or path for path, a, b in pairs if a.caption != b.caption]
    masks = [path for path, a, b in pairs if (a.mask and a.mask.digest) != (b.mask and b.mask.digest)]
    kind = "" if role == "train" else f" of {noun}s"
    counted = (
        _counted(missing, noun, "is missing", "are missing"),
        _counted(added, noun, "is new", "are new"),
        _counted(content, noun, "changed"),
        _counted(captions, "caption", "changed", kind=kind),
        _counted(masks, "mask", "changed", kind=kind),
    )
    return [phrase for phrase in counted if phrase]


def _counted(paths: Sequence[str], noun: str, singular: str, plural_verb: str = "", *, kind: str = "") -> str:
    """ "2 images are new: a.png, b.png"; empty for none."""
    if not paths:
        return ""
    names = listing([printable(Path(path).name) for path in paths])
    return f"{plural(len(paths), noun)}{kind} {singular if len(paths) == 1 else plural_verb or singular}: {names}"


def _digest(files: Mapping[str, FileRecord], name: str) -> str:
    return files[name].digest if name in files else ""


def _digests(files: Mapping[str, FileRecord]) -> dict[str, str]:
    return {name: file.digest for name, file in files.items()}


def _as_json(inputs: Inputs) -> dict[str, Any]:
    folders: dict[str, list[list[Any]]] = {}
    for number, (path, image) in enumerate(inputs.images.items()):
        row = [Path(path).name, number, image.role, *_row(image.file), image.caption, image.caption_name,
               None if image.mask is None else _row(image.mask)]  # fmt: skip
        folders.setdefault(str(Path(path).parent), []).append(row)
    return {
        "schema": _SCHEMA,
        "digest": inputs.digest,
        "environment": dict(inputs.environment),
        "places": dict(inputs.places),
        "models": {key: {name: _row(file) for name, file in files.items()} for key, files in inputs.models.items()},
        "images": folders,
    }


def _row(file: FileRecord) -> list[Any]:
    return [*file.stamp, file.digest]


def _from_json(value: dict[str, Any]) -> Inputs:
    rows = sorted(
        (row[1], str(Path(folder) / row[0]), row) for folder, entries in value["images"].items() for row in entries
    )
    images = {
        path: ImageRecord(row[2], _file(row[3:7]), row[7], row[8], None if row[9] is None else _file(row[9]))
        for _, path, row in rows
    }
    models = {key: {name: _file(row) for name, row in files.items()} for key, files in value["models"].items()}
    return Inputs(images, models, dict(value["places"]), {key: str(text) for key, text in value["environment"].items()})


def _file(row: list[Any]) -> FileRecord:
    size, changed, entered, digest = row
    return FileRecord((int(size), int(changed), int(entered)), str(digest))
