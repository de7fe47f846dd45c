"""Collects the inputs of a run, and compares them with the record of its first start. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import load_config
from engine.config.resolve import ResolvedConfig
from engine.dataset.digests import FileDigests
from engine.dataset.images import ImageInfo, Scan, Subset
from engine.dataset.pool import ordered_map, workers
from engine.dataset.scan import scan
from engine.errors import DataError
from engine.families.resolved import resolve_run
from engine.models.files import weight_files
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.paths import expanded
from engine.reading import open_file
from engine.runs.inputs import (
    MERGED,
    FileRecord,
    ImageRecord,
    Inputs,
    Stamp,
    changes,
    model_titles,
    read_inputs,
    stamp_of,
    write_inputs,
)
from engine.runs.layout import RunDir
from engine.runs.resume import last_saved_state
from engine.text import printable
from engine.types import Progress

_MODEL_EXTRAS = frozenset({".json", ".txt", ".model"})
"""Configurations and tokenizers in a model's folder."""
_CHANGED = "changed before it was read"
"""Instead of a digest."""
_MODEL = "model.pretrained_model_name_or_path"


@dataclass(frozen=True)
class Comparison:
    """The recorded inputs of a run, and the present ones."""

    recorded: Inputs
    current: Inputs
    changes: tuple[str, ...]
    """A phrase for each kind of change; empty where nothing changed."""


def compare(run_dir: RunDir, progress: Progress | None = None) -> Comparison | None:
    """Compare an ended run's record with its present inputs; None where nothing was trained or recorded yet.

    Reads headers of images, and whole files only where size or time differ from the record.

    Raises:
        LoraSmithError: a folder, the model or the configuration is missing or broken.
    """
    recorded = read_inputs(run_dir)
    if recorded is None or last_saved_state(run_dir) is None:
        return None
    run = resolve_run(run_dir.with_own_datasets(load_config(run_dir.config_path)))
    current = collect_inputs(run.config, scan(run.config, progress), run.recognition.path, recorded)
    return Comparison(recorded, current, tuple(changes(recorded, current)))


def accept(run_dir: RunDir, comparison: Comparison) -> None:
    """Record the present inputs.

    Raises:
        StorageError: no space or no permission; the old record is intact.
    """
    write_inputs(run_dir, replace(comparison.current, environment=comparison.recorded.environment))


def collect_inputs(
    config: ResolvedConfig,
    images: Scan,
    model: Path,
    recorded: Inputs | None = None,
    digests: FileDigests | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    largest: int | None = None,
) -> Inputs:
    """The present inputs.

    Args:
        images: every image of the configuration, also those that cannot be decoded.
        model: file or folder of the recognised checkpoint.
        recorded: an earlier record: a file with the same size and times is not read again.
        should_stop: called before each file; after True the result is incomplete.
        largest: larger files of the model, in bytes, get no digest yet unless it is known: see `completed`.

    Raises:
        DataError: a file cannot be read.
    """
    digests = digests or FileDigests()
    jobs = list(_jobs(images))

    def read(job: tuple[ImageInfo, Subset, str]) -> tuple[str, ImageRecord | None]:
        image, subset, caption = job
        if should_stop():
            return str(image.path), None
        old = recorded.images.get(str(image.path)) if recorded else None
        mask = image.mask_path
        return str(image.path), ImageRecord(
            "reg" if subset.is_reg else "validation" if subset.is_validation else "train",
            _file(image.path, old.file if old else None, digests),
            caption,
            image.caption_path.name if image.caption_path else "",
            None if mask is None else _file(mask, old.mask if old else None, digests),
        )

    records = {path: item for path, item in ordered_map(read, jobs, workers(4), ahead=64) if item is not None}
    places = model_places(config, model)
    models: dict[str, Mapping[str, FileRecord]] = {}
    for key, place in places.items():
        same = recorded is not None and recorded.places.get(key) == str(place)
        before = recorded.models.get(key, {}) if recorded is not None and same else {}
        files = [(file, _relative(file, place)) for file in model_files(place)]
        models[key] = {
            name: _file(file, before.get(name), digests, largest) for file, name in files if not should_stop()
        }
    return Inputs(records, models, {key: str(place) for key, place in places.items()})


def completed(inputs: Inputs, digests: FileDigests) -> Inputs:
    """The inputs with the digests that `collect_inputs` left out.

    A file that has changed since then gets a digest that no file has: what of it was trained on is unknown.

    Raises:
        DataError: a file cannot be read.
    """

    def complete(place: Path, name: str, record: FileRecord) -> FileRecord:
        if record.digest:
            return record
        path = place if place.is_file() else place / name
        now = _file(path, None, digests)
        same = now.stamp == record.stamp == _stamp(path)
        return now if same else replace(record, digest=_CHANGED)

    models = {
        key: {name: complete(Path(inputs.places[key]), name, record) for name, record in files.items()}
        for key, files in inputs.models.items()
    }
    return replace(inputs, models=models)


def model_files(place: Path) -> list[Path]:
    """The files of a model that decide numbers: the file itself, or of a folder the weights that are used of each part,
    with configurations and tokenizers."""
    if place.is_file():
        return [place]
    files: list[Path] = []
    for folder in [place, *sorted(inner for inner in place.glob("*") if inner.is_dir())]:
        files += sorted(file for file in folder.glob("*") if file.suffix in _MODEL_EXTRAS and file.is_file())
        if not (folder / "config.json").is_file():
            continue  # checkpoints next to a folder's parts are not used
        try:
            files += [file for file in weight_files(folder.parent, folder.name) if file.is_file()]
        except ValueError:  # none, or other file names
            files += sorted(file for file in folder.glob("*.safetensors") if file.is_file())
    return files


def _jobs(images: Scan) -> Iterator[tuple[ImageInfo, Subset, str]]:
    """Each image once, with the digest of all its captions before shuffling and dropout."""
    texts: dict[Path, list[str]] = {}
    first: dict[Path, tuple[ImageInfo, Subset]] = {}
    for subset in images.subsets:
        for image in subset.images:
            texts.setdefault(image.path, []).append(subset.text(image))
            first.setdefault(image.path, (image, subset))
    for path, (image, subset) in first.items():
        text = "\0".join(texts[path]).encode(errors="surrogatepass")
        yield image, subset, hashlib.sha256(text).hexdigest()[:32]


def model_places(config: ResolvedConfig, model: Path) -> dict[str, Path]:
    """Setting -> the file or folder of weights that it names, for those that are set.

    Args:
        model: file or folder of the recognised checkpoint.
    """
    places = {_MODEL: model}
    for key in model_titles():
        value = config.value(key)
        if key == _MODEL or not value:
            continue
        place = expanded(value)
        if not place.exists() and is_hub_id(value):
            place = cached_folder(value) or place
        if place.exists():
            places[key] = place
    for number, (name, _) in enumerate(config.model.merged, 1):
        places[f"{MERGED} {number}"] = expanded(name)
    return places


def _relative(file: Path, place: Path) -> str:
    return file.name if file == place else str(file.relative_to(place))


def _file(path: Path, recorded: FileRecord | None, digests: FileDigests, largest: int | None = None) -> FileRecord:
    stamp = _stamp(path)
    try:
        if recorded is not None and recorded.stamp == stamp:
            digests.add(path, stamp, recorded.digest)
            return recorded
        if largest is not None and stamp[0] > largest and not digests.known(path):
            with open_file(path):  # an error comes now and not later
                return FileRecord(stamp, "")
        return FileRecord(stamp, digests.of(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _stamp(path: Path) -> Stamp:
    try:
        return stamp_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{printable(path)} cannot be read: {error.strerror or error}.", "Check the file.", code="file-unreadable"
    )
