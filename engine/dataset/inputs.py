"""Taking down what a run is trained on, and comparing it with the record of its first start. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import RunConfig, load_config, resolve
from engine.dataset.digests import FileDigests
from engine.dataset.pictures import Picture, Scan, Subset
from engine.dataset.pool import Progress, ordered_map, workers
from engine.dataset.scan import scan
from engine.errors import DataError
from engine.models.files import weight_files
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.models.registry import family_named, recognise
from engine.runs.inputs import (
    MODEL_KEYS,
    FileRecord,
    ImageRecord,
    Inputs,
    changes,
    read_inputs,
    stamp_of,
    write_inputs,
)
from engine.runs.layout import RunDir, expanded
from engine.runs.resume import last_saved_state
from engine.text import printable

_BESIDE_WEIGHTS = frozenset({".json", ".txt", ".model"})
"""Configurations and tokenizers in a model's folder."""
_MODEL = "model.pretrained_model_name_or_path"


@dataclass(frozen=True)
class Comparison:
    """The record of a run's first start, and what is there now."""

    known: Inputs
    now: Inputs
    changes: tuple[str, ...]
    """A phrase for each kind of change; empty where everything is as it was."""


def compare(run_dir: RunDir, progress: Progress | None = None) -> Comparison | None:
    """Compare an ended run's record with what is there now; None where nothing was trained or recorded yet.

    Reads headers of images, and whole files only where size or time differ from the record.

    Raises:
        LoraSmithError: a folder, the model or the configuration is missing or broken.
    """
    known = read_inputs(run_dir)
    if known is None or last_saved_state(run_dir) is None:
        return None
    config = run_dir.with_own_datasets(load_config(run_dir.config_path))
    recognition = recognise(config.model.pretrained_model_name_or_path)
    family = family_named(recognition.family)
    config, _ = family.settle(config, family.in_force(config, recognition))
    config, _ = resolve(config, partial_text_cache=family.partial_text_cache)
    now = take(config, scan(config, progress), recognition.path, known)
    return Comparison(known, now, tuple(changes(known, now)))


def accept(run_dir: RunDir, comparison: Comparison) -> None:
    """Make what is there now the run's record.

    Raises:
        StorageError: no space or no permission; the old record is intact.
    """
    write_inputs(run_dir, replace(comparison.now, environment=comparison.known.environment))


def take(
    config: RunConfig,
    found: Scan,
    model: Path,
    known: Inputs | None = None,
    digests: FileDigests | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Inputs:
    """What is there now.

    Args:
        config: as the run will really have it.
        found: every image that the configuration names, those that do not decode included.
        model: file or folder of the recognised checkpoint.
        known: an earlier record: a file with the same size and times is not read again.
        should_stop: asked before each file; then the result is not complete.

    Raises:
        DataError: a file cannot be read.
    """
    digests = digests or FileDigests()
    jobs = list(_jobs(found))

    def read(job: tuple[Picture, Subset, str]) -> tuple[str, ImageRecord | None]:
        picture, subset, caption = job
        if should_stop():
            return str(picture.path), None
        old = known.images.get(str(picture.path)) if known else None
        mask = picture.mask_path
        return str(picture.path), ImageRecord(
            "reg" if subset.is_reg else "validation" if subset.is_validation else "train",
            _file(picture.path, old.file if old else None, digests),
            caption,
            picture.caption_path.name if picture.caption_path else "",
            None if mask is None else _file(mask, old.mask if old else None, digests),
        )

    images = {path: one for path, one in ordered_map(read, jobs, workers(4), ahead=64) if one is not None}
    places = _places(config, model)
    models: dict[str, Mapping[str, FileRecord]] = {}
    for key, place in places.items():
        same = known is not None and known.places.get(key) == str(place)
        before = known.models.get(key, {}) if known is not None and same else {}
        files = [(file, _relative(file, place)) for file in model_files(place)]
        models[key] = {name: _file(file, before.get(name), digests) for file, name in files if not should_stop()}
    return Inputs(images, models, {key: str(place) for key, place in places.items()})


def model_files(place: Path) -> list[Path]:
    """The files of a model that decide numbers: the file itself, or of a folder the weights that are used of each part,
    with configurations and tokenizers."""
    if place.is_file():
        return [place]
    found: list[Path] = []
    for folder in [place, *sorted(inner for inner in place.glob("*") if inner.is_dir())]:
        found += sorted(file for file in folder.glob("*") if file.suffix in _BESIDE_WEIGHTS and file.is_file())
        if not (folder / "config.json").is_file():
            continue  # checkpoints beside a folder's parts are not used
        try:
            found += [file for file in weight_files(folder.parent, folder.name) if file.is_file()]
        except ValueError:  # none, or under names of its own
            found += sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    return found


def _jobs(found: Scan) -> Iterator[tuple[Picture, Subset, str]]:
    """Each image once, with the digest of all texts that its captions start from."""
    texts: dict[Path, list[str]] = {}
    first: dict[Path, tuple[Picture, Subset]] = {}
    for subset in found.subsets:
        for picture in subset.pictures:
            texts.setdefault(picture.path, []).append(subset.text(picture))
            first.setdefault(picture.path, (picture, subset))
    for path, (picture, subset) in first.items():
        text = "\0".join(texts[path]).encode(errors="surrogatepass")
        yield picture, subset, hashlib.sha256(text).hexdigest()[:32]


def _places(config: RunConfig, model: Path) -> dict[str, Path]:
    """Setting -> the file or folder that it means, of those that are set."""
    places = {_MODEL: model}
    for key in MODEL_KEYS:
        table, _, name = key.partition(".")
        value = getattr(getattr(config, table), name)
        if key == _MODEL or not value:
            continue
        place = expanded(value)
        if not place.exists() and is_hub_id(value):
            place = cached_folder(value) or place
        if place.exists():
            places[key] = place
    return places


def _relative(file: Path, place: Path) -> str:
    return file.name if file == place else str(file.relative_to(place))


def _file(path: Path, known: FileRecord | None, digests: FileDigests) -> FileRecord:
    try:
        stamp = stamp_of(path)
        if known is not None and known.stamp == stamp:
            return known
        return FileRecord(stamp, digests.of(path))
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror or error}.", "Check the file.") from error
