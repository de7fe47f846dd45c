"""`lorasmith lora edit`: changes the metadata of a LoRA file; its tensors stay the same to the byte. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.adapters.formats import recognise_format
from engine.adapters.header_room import fit_metadata
from engine.adapters.layout import HASHES, LEGACY, Entry, header_bytes, legacy_hash, shared_header
from engine.adapters.payload import read_payload
from engine.adapters.tools.new_metadata import OF_FILE
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import ToolReport
from engine.atomic import replacing, require_space
from engine.dataset.thumbnail import thumbnail
from engine.errors import LoraSmithError, ModelError, UsageError
from engine.models.header import MAX_HEADER, Header, read_header, readable
from engine.models.kinds import looks_like
from engine.paths import expanded
from engine.reading import open_file
from engine.text import printable

TRIGGER, THUMBNAIL, HINT, STRENGTH = (
    "modelspec.trigger_phrase",
    "modelspec.thumbnail",
    "modelspec.usage_hint",
    "lorasmith.strength",
)
_HINT = "Recommended strength: "
_PIECE = 2**24


@dataclass(frozen=True, kw_only=True)
class EditRequest:
    """`lorasmith lora edit`."""

    file: str
    values: Mapping[str, str] = field(default_factory=dict)
    """Keys to their new values."""
    unset: tuple[str, ...] = ()
    trigger: str | None = None
    thumbnail: str | None = None
    """Path of an image."""
    strength: float | None = None
    out: str | None = None
    in_place: bool = False
    overwrite: bool = False
    dry_run: bool = False


def edit(request: EditRequest) -> tuple[ToolReport, dict[str, tuple[str | None, str | None]]]:
    """Write the file with other metadata.

    Returns:
        The report, and each changed key with its old and new value; None: absent.

    Raises:
        UsageError: nothing would change, or a value or the output path is invalid.
        ModelError: the file cannot be read, or is no LoRA.
        StorageError: no space, or no permission.
    """
    path = expanded(request.file)
    header = read_header(path)
    if recognise_format(header.shapes, header.metadata) is None:
        other = looks_like(header) or "a file whose tensors have names of no known LoRA format"
        raise ModelError(f"{printable(path)} is not a LoRA: it is {other}.", "Name a LoRA file.", code="not-a-lora")
    metadata = edit_metadata(header.metadata, request)
    if metadata == dict(header.metadata):
        raise UsageError(
            "Nothing would change.",
            "Give --set KEY=VALUE, --unset KEY, --trigger, --thumbnail or --strength.",
            code="nothing-to-change",
        )
    place = _place(request, path)
    entries = _entries(header)
    kept, notes = fit_metadata(metadata, MAX_HEADER - len(header_bytes(entries, {})) - HASHES)
    report = ToolReport("edit", [printable(path)], None, notes=[f"{note}." for note in notes])
    final = {**kept, **_hashes(path, header, entries, kept, report)}
    if place is not None:
        report.size = _write(path, header, entries, final, place)
        report.output = printable(place)
    changes = {
        key: (header.metadata.get(key), final.get(key))
        for key in sorted({*header.metadata, *final})
        if header.metadata.get(key) != final.get(key)
    }
    return report, changes


def edit_metadata(old: Mapping[str, str], request: EditRequest) -> dict[str, str]:
    """The metadata with the request's changes, without the hashes.

    Raises:
        UsageError: a key is computed or missing, or a value is invalid.
    """
    metadata = dict(old)
    for key in (*request.values, *request.unset):
        if key in OF_FILE:
            raise UsageError(f"{key} is computed from the file.", "Omit it.", code="metadata-key-computed")
        if not key.strip():
            raise UsageError("A key of the metadata is empty.", "Write --set KEY=VALUE.", code="metadata-key-empty")
    for key in request.unset:
        if key not in metadata:
            raise UsageError(
                f"The file has no {printable(key)} to unset.",
                "lorasmith inspect FILE shows what it has.",
                code="metadata-key-missing",
            )
        del metadata[key]
    metadata |= request.values
    if request.trigger is not None:
        metadata[TRIGGER] = request.trigger
    if request.thumbnail is not None:
        metadata[THUMBNAIL] = thumbnail(request.thumbnail)
    if request.strength is not None:
        metadata |= strength_keys(request.strength, metadata)
    for key, value in metadata.items():
        if any("\ud800" <= letter <= "\udfff" for letter in key + value):
            raise UsageError(f"{printable(key)} is not UTF-8 text.", "Give it as UTF-8.", code="metadata-not-utf8")
    return metadata


def strength_keys(strength: float, metadata: Mapping[str, str]) -> dict[str, str]:
    """The keys with a LoRA's recommended strength; a usage hint with another text is kept.

    Raises:
        UsageError: not between −10 and 10.
    """
    if not -10 <= strength <= 10:
        raise UsageError(
            f"--strength {strength:g} is not between -10 and 10.",
            "Usual values are 0.5 to 1.2.",
            code="strength-invalid",
        )
    values = {STRENGTH: f"{strength:g}"}
    if metadata.get(HINT, _HINT).startswith(_HINT):
        values[HINT] = f"{_HINT}{strength:g}"
    return values


def _place(request: EditRequest, path: Path) -> Path | None:
    if request.dry_run:
        return None
    if request.in_place:
        if request.out:
            raise UsageError("--in-place and -o do not go together.", "Give one of them.", code="in-place-with-output")
        return path.resolve()  # of a link its target
    return place_for(request.out, [path], overwrite=request.overwrite)


def _entries(header: Header) -> dict[str, Entry]:
    """The tensors in the order of their bytes."""
    places = sorted(header.places.items(), key=lambda item: item[1])
    return {name: (*header.tensors[name], last - first) for name, (first, last) in places}


def _hashes(
    path: Path, header: Header, entries: Mapping[str, Entry], metadata: Mapping[str, str], report: ToolReport
) -> dict[str, str]:
    """Kohya's two hashes for the new header, where the file has them."""
    hashes = {}
    stated = header.metadata.get("sshs_model_hash", "")
    digest = read_payload(path, header).digest
    if stated and stated != digest and not stated.startswith("0x"):  # LyCORIS' own hash is kept
        hashes["sshs_model_hash"] = digest
        report.notes.append("sshs_model_hash was wrong and is corrected.")
    if "sshs_legacy_hash" in header.metadata:
        start = shared_header(entries, metadata)
        hashes["sshs_legacy_hash"] = legacy_hash(start, _head(path, header, LEGACY.stop))
    return hashes


def _start(header: Header) -> int:
    """Offset of the tensors' first byte."""
    return min((first for first, _ in header.places.values()), default=header.size)


def _head(path: Path, header: Header, count: int) -> bytes:
    with readable(path), open_file(path) as file:
        file.seek(_start(header))
        return file.read(count)


def _write(path: Path, header: Header, entries: Mapping[str, Entry], metadata: Mapping[str, str], place: Path) -> int:
    """Write the new header and copy the tensors, then read the file back and compare."""
    start = header_bytes(entries, metadata)
    size = len(start) + header.size - _start(header)
    require_space(place.absolute().parent, size, printable(place))
    digest = hashlib.sha256()
    with replacing(place) as temporary:
        with open_file(path) as source, temporary.open("wb") as file:
            file.write(start)
            source.seek(_start(header))
            while piece := source.read(_PIECE):
                digest.update(piece)
                file.write(piece)
        written = read_header(temporary)
        is_same = dict(written.tensors) == dict(header.tensors) and dict(written.metadata) == dict(metadata)
        if not is_same or read_payload(temporary, written).digest != digest.hexdigest():
            raise LoraSmithError(
                "The file just written was read back differently and is not kept.",
                "Check the disk, and try again.",
                code="written-file-wrong",
            )
    return size
