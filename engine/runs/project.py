"""The project folder, as Kohya users know it: imported images, regularization images, and the results.

`<place>/<name>/training_images/<repeats>_<name>/` holds the images of a plain source folder. A source with
`<repeats>_<name>` subfolders keeps them as they are; other subfolders are never read in this program.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.dataset.folders import Folder, Source, caption_extensions, find_sources, has_images
from engine.dataset.image_import import ImportMethod, ImportPlan, plan_import, run_imports
from engine.dataset.images import Rejected
from engine.dataset.scan import default_repeats
from engine.errors import DataError, StorageError, UsageError, storage_error
from engine.paths import expanded
from engine.runs import RunDir, true_state
from engine.runs.prepare import require_file_name
from engine.text import NAME_HINT, listing, plural, printable
from engine.types import Progress

TakeIn = Literal["copy", "link", "leave"]
_NUMBERED = re.compile(r"[0-9]{1,6}_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Regularization:
    """Images of the class, to keep it from drifting."""

    source: Path
    class_word: str
    num_repeats: int = 1


@dataclass(frozen=True)
class Project:
    """The plan of a project. Reads and creates nothing."""

    place: Path
    name: str
    source: Path
    """A folder of images, or the parent of `<repeats>_<name>` folders."""
    take_in: TakeIn = "copy"
    num_repeats: int | None = None
    """None: round(400 / images), at least 1; where the source has `<repeats>_<name>` folders, their own."""
    regularization: Regularization | None = None
    txt2img: bool = False
    """Create `txt2img-images`, for images generated with the LoRA later."""
    caption_extension: str = ".txt"

    @property
    def path(self) -> Path:
        """The project's own folder, absolute."""
        return _absolute(self.place / self.name)

    @property
    def training(self) -> Path:
        """The `dataset.train_data_dir` of imported images."""
        return self.path / "training_images"

    @property
    def regularizing(self) -> Path:
        """The `dataset.reg_data_dir` of imported images."""
        return self.path / "regularization_images"

    @property
    def results(self) -> Path:
        """The run directory."""
        return self.path / "results_current"

    def folder_for(self, images: int) -> Path:
        """The folder for the images of a plain source with this number of images."""
        return self.training / f"{self.num_repeats or default_repeats(images)}_{self.name}"

    def require_possible(self) -> None:
        """Refuse an impossible project; checks names and paths only.

        Raises:
            UsageError: a name that no folder can have, or images that are in the project's own folder.
        """
        require_file_name(self.name)
        _require_folder_name(self.name, "The name")
        if self.regularization is not None:
            _require_folder_name(self.regularization.class_word, "The class word")
        _require_plain(self.path)
        sources = [self.source] if self.take_in != "leave" else []
        sources += [self.regularization.source] if self.regularization is not None else []
        for source in sources:
            inside = expanded(str(source)).resolve()
            if inside.is_relative_to(self.path.resolve()):
                raise UsageError(
                    f"The images in {printable(source)} are in the project's own folder {printable(self.path)}.",
                    "Use them without import, or choose another place or name.",
                    code="images-in-own-folder",
                )


@dataclass(frozen=True)
class CreatedProject:
    """The result of `make`."""

    values: dict[str, Any]
    """Dotted keys of the configuration with their values; None leaves a key unset."""
    images: int
    added: int
    """Files that were imported just now, captions included."""
    others: int
    """Images in the project's folders that are not in the source: a run uses them too."""
    renamed: tuple[tuple[str, str], ...]
    """(name in the source, name in the project)."""
    unreadable: tuple[Rejected, ...]
    carried_from: Path | None = None
    """The earlier folder, where it could not be renamed."""

    def lines(self) -> list[str]:
        """Remarks for the person, about anything unexpected."""
        lines = []
        if self.renamed:
            pairs = [f"{printable(old)} → {printable(new)}" for old, new in self.renamed]
            lines.append(
                f"{plural(len(pairs), 'image')} renamed, because the name exists in the project: {listing(pairs, 3)}."
            )
        if self.others:
            verb = "is" if self.others == 1 else "are"
            lines.append(f"{plural(self.others, 'image')} in the project {verb} not from this source, but used too.")
        if self.unreadable:
            names = listing([str(file) for file in self.unreadable])
            lines.append(f"{plural(len(self.unreadable), 'file')} not imported: {names}.")
        if self.carried_from is not None:
            lines.append(f"{printable(self.carried_from)} stays; its images and captions were copied.")
        return lines


def values(project: Project, *, imported: bool, numbered: bool, reg_numbered: bool = False) -> dict[str, Any]:
    """The settings of a run in a project.

    Args:
        imported: the images are in the project; else the source is used.
        numbered: the source has `<repeats>_<name>` folders.
        reg_numbered: the source of the regularization images has them.
    """
    counted_by_folder = imported and not numbered
    reg = project.regularization
    if reg is None:
        reg_dir = None
    else:
        reg_dir = str(project.regularizing if _imports_reg(imported, reg_numbered) else _absolute(reg.source))
    return {
        "dataset.train_data_dir": str(project.training if imported else _absolute(project.source)),
        "dataset.num_repeats": None if counted_by_folder else project.num_repeats,
        "dataset.reg_data_dir": reg_dir,
        "saving.output_name": project.name,
        "saving.output_dir": str(project.results),
    }


def make(project: Project, *, earlier: Path | None = None, progress: Progress | None = None) -> CreatedProject:
    """Create the folders and import the images. Existing files stay; a second call adds missing ones.

    Args:
        earlier: the former folder of this project: it is renamed, or, where it contains runs or is on another file
            system, its images and captions are imported.
        progress: called with (done, total) files; an exception of it ends the work, and the next call continues.

    Raises:
        UsageError: see `Project.require_possible`; or a run is live in a folder that would be renamed.
        DataError: no images, or they cannot be read.
        StorageError: no space, no permission, no links.
    """
    project.require_possible()
    sources = find_sources(_absolute(project.source), "Images")[0]
    numbered = sources[0].num_repeats is not None
    reg = project.regularization
    reg_sources = find_sources(_absolute(reg.source), "Regularization images")[0] if reg is not None else []
    reg_numbered = bool(reg_sources) and reg_sources[0].num_repeats is not None
    imported = project.take_in != "leave"
    count = sum(len(source.folder.images) for source in sources)
    own = project.folder_for(count)
    roots: list[Path] = []
    pairs: list[_Pair] = []
    carried: list[_Pair] = []
    with _storing(project.path):
        if imported:
            if earlier is not None:
                carried = _move_earlier(project, earlier, own)
            if not numbered:
                _rename_own(project, own, project.name)
            pairs += _pairs(sources, own)
            roots.append(project.training)
        if reg is not None and _imports_reg(imported, reg_numbered):
            reg_own = project.regularizing / f"{reg.num_repeats}_{reg.class_word}"
            if not reg_numbered:
                _rename_own(project, reg_own, None)
            pairs += _pairs(reg_sources, reg_own)
            roots.append(project.regularizing)
        if project.txt2img:
            (project.path / "txt2img-images").mkdir(parents=True, exist_ok=True)
        intakes, unreadable = _take_in(project, (carried, pairs), progress)
    return CreatedProject(
        values(project, imported=imported, numbered=numbered, reg_numbered=reg_numbered),
        images=count,
        added=sum(len(intake.jobs) for intake in intakes) - len(unreadable),
        others=_count_others(roots, {image for intake in intakes for image in intake.images}),
        renamed=tuple(pair for intake in intakes for pair in intake.renamed),
        unreadable=tuple(unreadable),
        carried_from=earlier if carried else None,
    )


def images_of(path: Path) -> Path:
    """Where the images of a project are, ours or one of the kohya_ss GUI; any other folder is returned."""
    inside = [path / name for name in ("training_images", "img") if (path / name).is_dir()]
    return inside[0] if inside and not has_images(path) else path


_Pair = tuple[Folder, Path]
"""A folder to import, and its target."""


def _pairs(sources: list[Source], own: Path) -> list[_Pair]:
    """A plain folder becomes `own`, a numbered one keeps its name next to it."""
    return [
        (source.folder, own if source.num_repeats is None else own.with_name(source.folder.path.name))
        for source in sources
    ]


def _imports_reg(imported: bool, reg_numbered: bool) -> bool:
    """The class word is part of a folder's name, so a plain folder is linked into one even without import."""
    return imported or not reg_numbered


def _take_in(
    project: Project, rounds: tuple[list[_Pair], ...], progress: Progress | None
) -> tuple[list[ImportPlan], list[Rejected]]:
    """Import in rounds: the second one sees the files of the first."""
    method: ImportMethod = "copy" if project.take_in == "copy" else "link"
    extensions = caption_extensions(project.caption_extension)
    intakes: list[ImportPlan] = []
    unreadable: list[Rejected] = []
    for pairs in rounds:
        current = [plan_import(folder, target, method, extensions) for folder, target in pairs]
        unreadable += run_imports(current, method, progress)
        intakes += current
    images = {image for intake in intakes for image in intake.images}
    if images and not any(image.exists() for image in images):
        raise DataError(
            f"None of the images can be read: {listing([str(file) for file in unreadable])}.", code="no-readable-images"
        )
    return intakes, unreadable


def _move_earlier(project: Project, earlier: Path, own: Path) -> list[_Pair]:
    """Rename the project's earlier folder; where that is impossible, return the folders to import from it."""
    training = earlier / project.training.name
    if earlier == project.path or not training.is_dir():
        return []
    has_runs = any(RunDir(path).is_run for path in earlier.glob("results_*"))
    if not has_runs and not os.path.lexists(project.path):
        project.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            earlier.rename(project.path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            _rename_own(project, own, earlier.name)
            return []
    try:
        sources = find_sources(training, "Images")[0]
    except DataError:
        return []  # nothing in it that could be lost
    return [
        (source.folder, own if source.name == earlier.name else own.with_name(source.folder.path.name))
        for source in sources
    ]


def _rename_own(project: Project, own: Path, name: str | None) -> None:
    """Rename the existing folder for other repeats or another name.

    Args:
        name: of the existing folder; None: any, if it is the only one.
    """
    if not own.parent.is_dir():
        return
    others = [
        path
        for path in own.parent.iterdir()
        if path != own and path.is_dir() and (match := _NUMBERED.fullmatch(path.name)) and name in (None, match[1])
    ]
    if not others or (name is None and (own.exists() or len(others) > 1)):
        return
    if own.exists() or len(others) > 1:
        both = listing([printable(path.name) for path in (*([own] if own.exists() else []), *others)])
        raise UsageError(
            f"{printable(own.parent)} has several folders of this name: {both}.",
            "Keep one of them: the images in all of them are trained on.",
            code="several-image-folders",
        )
    if true_state(RunDir(project.results)).live:
        raise UsageError(
            f"A training is running in {printable(project.path)}: its folder of images cannot be renamed.",
            "Wait for its end, or choose another name.",
            code="run-is-live",
        )
    others[0].rename(own)


def _count_others(roots: list[Path], expected: set[Path]) -> int:
    """The number of images that a run would read besides the expected ones."""
    return sum(
        1
        for root in roots
        for source in find_sources(root, "Images")[0]
        for image in source.folder.images
        if image not in expected
    )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(expanded(str(path))))  # noqa: PTH100 - resolve() follows links


def _require_folder_name(name: str, what: str) -> None:
    if not name.strip() or "/" in name or name in (".", ".."):
        raise UsageError(f"{what} {name!r} cannot be a folder's name.", NAME_HINT, code="name-not-possible")


def _require_plain(path: Path) -> None:
    """A configuration is UTF-8 text; a path with other bytes cannot be in it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{printable(path)} has bytes that are not UTF-8, which a configuration cannot hold.",
            "Choose another place or name.",
            code="path-not-utf8",
        ) from None


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing into a StorageError, or a UsageError where a file is in the way."""
    try:
        yield
    except OSError as error:
        target = Path(printable(os.fsdecode(error.filename) if error.filename else path))
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise UsageError(
                f"{target} is a file, where a folder is needed.",
                "Choose another place or name.",
                code="place-is-a-file",
            ) from None
        converted = storage_error(error, target, "Writing")
        if converted is None:
            raise StorageError(f"Writing {target} failed: {error.strerror or error}.", code="write-failed") from error
        raise StorageError(
            converted.message, converted.hint.replace("another --output_dir", "another place"), code=converted.code
        ) from error
