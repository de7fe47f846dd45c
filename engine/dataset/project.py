"""The project folder, as Kohya users know it: pictures taken in, regularization pictures, and the place of the results.

`<place>/<name>/training_images/<repeats>_<name>/` holds the pictures of a plain source folder. A source with
`<repeats>_<name>` subfolders keeps them as they are; other subfolders are not read, as nowhere in this program.
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

from engine.dataset.folders import Folder, Source, caption_extensions, find_sources, has_pictures
from engine.dataset.intake import Intake, Way, carry_out, plan
from engine.dataset.pictures import Rejected
from engine.dataset.pool import Progress
from engine.dataset.scan import familiar_repeats
from engine.errors import DataError, StorageError, UsageError, storage_error
from engine.runs import RunDir, true_state
from engine.runs.layout import expanded
from engine.runs.prepare import require_file_name
from engine.text import listing, plural, printable

TakeIn = Literal["copy", "link", "leave"]
_NUMBERED = re.compile(r"[0-9]{1,6}_(.*)", re.DOTALL)


@dataclass(frozen=True)
class Regularization:
    """Pictures of the class that keep it from drifting."""

    source: Path
    class_word: str
    num_repeats: int = 1


@dataclass(frozen=True)
class Project:
    """What a project is to be. Nothing is read or made by it."""

    place: Path
    name: str
    source: Path
    """A folder of pictures, or the parent of `<repeats>_<name>` folders."""
    take_in: TakeIn = "copy"
    num_repeats: int | None = None
    """None: round(400 / pictures), at least 1; where the source has `<repeats>_<name>` folders, their own."""
    regularization: Regularization | None = None
    txt2img: bool = False
    """Make `txt2img-images`, for pictures that are drawn with the LoRA later."""
    caption_extension: str = ".txt"

    @property
    def path(self) -> Path:
        """The project's own folder, absolute."""
        return _absolute(self.place / self.name)

    @property
    def training(self) -> Path:
        """What `dataset.train_data_dir` names when pictures are taken in."""
        return self.path / "training_images"

    @property
    def regularizing(self) -> Path:
        """What `dataset.reg_data_dir` names when pictures are taken in."""
        return self.path / "regularization_images"

    @property
    def results(self) -> Path:
        """The run directory."""
        return self.path / "results_current"

    def folder_for(self, pictures: int) -> Path:
        """The folder of the pictures of a plain source that has so many."""
        return self.training / f"{self.num_repeats or familiar_repeats(pictures)}_{self.name}"

    def require_possible(self) -> None:
        """Refuse what cannot be; looks at names and places only.

        Raises:
            UsageError: a name that no folder can bear, or pictures that are in the project's own folder.
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
                    f"The pictures in {printable(source)} are in the project's own folder {printable(self.path)}.",
                    "Leave them where they are, or choose another place or name.",
                )


@dataclass(frozen=True)
class Made:
    """What came of making a project."""

    values: dict[str, Any]
    """Dotted keys of the configuration with their values; None leaves a key unset."""
    pictures: int
    added: int
    """Files that were taken in just now, captions included."""
    others: int
    """Pictures that are in the project's folders and not in the source: a run uses them too."""
    renamed: tuple[tuple[str, str], ...]
    """(name in the source, name in the project)."""
    unreadable: tuple[Rejected, ...]
    carried_from: Path | None = None
    """The earlier folder, where it had to stay."""

    def lines(self) -> list[str]:
        """It in words: what one would not expect."""
        lines = []
        if self.renamed:
            pairs = [f"{printable(one)} → {printable(other)}" for one, other in self.renamed]
            lines.append(
                f"{plural(len(pairs), 'picture')} renamed, as another one has the name in the project: "
                f"{listing(pairs, 3)}."
            )
        if self.others:
            verb = "is" if self.others == 1 else "are"
            lines.append(f"{plural(self.others, 'picture')} in the project {verb} not from this source, but used too.")
        if self.unreadable:
            names = listing([str(one) for one in self.unreadable])
            lines.append(f"{plural(len(self.unreadable), 'file')} not taken in: {names}.")
        if self.carried_from is not None:
            lines.append(f"{printable(self.carried_from)} stays; its pictures and captions were taken over.")
        return lines


def values(project: Project, *, taken_in: bool, numbered: bool, reg_numbered: bool = False) -> dict[str, Any]:
    """What a run needs to know of a project.

    Args:
        taken_in: the pictures are in the project; else the source itself is named.
        numbered: the source has `<repeats>_<name>` folders.
        reg_numbered: the source of the regularization pictures has them.
    """
    named_by_folder = taken_in and not numbered
    reg = project.regularization
    if reg is None:
        reg_dir = None
    else:
        reg_dir = str(project.regularizing if _takes_reg_in(taken_in, reg_numbered) else _absolute(reg.source))
    return {
        "dataset.train_data_dir": str(project.training if taken_in else _absolute(project.source)),
        "dataset.num_repeats": None if named_by_folder else project.num_repeats,
        "dataset.reg_data_dir": reg_dir,
        "saving.output_name": project.name,
        "saving.output_dir": str(project.results),
    }


def make(project: Project, *, earlier: Path | None = None, progress: Progress | None = None) -> Made:
    """Make the folders and take the pictures in. What is there stays; called again it adds what is missing.

    Args:
        earlier: the folder of this project as it was called or placed before: it is renamed, or, where runs stand in
            it or it is on another file system, its pictures and captions are taken over.
        progress: told (done, total) files; an exception of it ends the work, and the next call goes on.

    Raises:
        UsageError: see `Project.require_possible`; or a run is going on in a folder that would be renamed.
        DataError: no pictures, or they cannot be read.
        StorageError: no space, no permission, no links.
    """
    project.require_possible()
    sources = find_sources(_absolute(project.source), "Pictures")[0]
    numbered = sources[0].num_repeats is not None
    reg = project.regularization
    reg_sources = find_sources(_absolute(reg.source), "Regularization pictures")[0] if reg is not None else []
    reg_numbered = bool(reg_sources) and reg_sources[0].num_repeats is not None
    taken_in = project.take_in != "leave"
    count = sum(len(source.folder.pictures) for source in sources)
    own = project.folder_for(count)
    roots: list[Path] = []
    pairs: list[_Pair] = []
    carried: list[_Pair] = []
    with _storing(project.path):
        if taken_in:
            if earlier is not None:
                carried = _move_earlier(project, earlier, own)
            if not numbered:
                _rename_own(project, own, project.name)
            pairs += _pairs(sources, own)
            roots.append(project.training)
        if reg is not None and _takes_reg_in(taken_in, reg_numbered):
            reg_own = project.regularizing / f"{reg.num_repeats}_{reg.class_word}"
            if not reg_numbered:
                _rename_own(project, reg_own, None)
            pairs += _pairs(reg_sources, reg_own)
            roots.append(project.regularizing)
        project.results.mkdir(parents=True, exist_ok=True)
        if project.txt2img:
            (project.path / "txt2img-images").mkdir(exist_ok=True)
        intakes, unreadable = _take_in(project, (carried, pairs), progress)
    return Made(
        values(project, taken_in=taken_in, numbered=numbered, reg_numbered=reg_numbered),
        pictures=count,
        added=sum(len(intake.jobs) for intake in intakes) - len(unreadable),
        others=_count_others(roots, {picture for intake in intakes for picture in intake.pictures}),
        renamed=tuple(pair for intake in intakes for pair in intake.renamed),
        unreadable=tuple(unreadable),
        carried_from=earlier if carried else None,
    )


def pictures_of(path: Path) -> Path:
    """Where the pictures of a project are, ours or one of the kohya_ss GUI; any other folder is given back."""
    inside = [path / name for name in ("training_images", "img") if (path / name).is_dir()]
    return inside[0] if inside and not has_pictures(path) else path


_Pair = tuple[Folder, Path]
"""A folder to take in, and where."""


def _pairs(sources: list[Source], own: Path) -> list[_Pair]:
    """A plain folder becomes `own`, a numbered one keeps its name beside it."""
    return [
        (source.folder, own if source.num_repeats is None else own.with_name(source.folder.path.name))
        for source in sources
    ]


def _takes_reg_in(taken_in: bool, reg_numbered: bool) -> bool:
    """The class word is read from a folder's name, so a plain folder is linked into one even where all is left."""
    return taken_in or not reg_numbered


def _take_in(
    project: Project, rounds: tuple[list[_Pair], ...], progress: Progress | None
) -> tuple[list[Intake], list[Rejected]]:
    """One round after the other: what the first has brought is there for the second."""
    way: Way = "copy" if project.take_in == "copy" else "link"
    extensions = caption_extensions(project.caption_extension)
    intakes: list[Intake] = []
    unreadable: list[Rejected] = []
    for pairs in rounds:
        current = [plan(folder, target, way, extensions) for folder, target in pairs]
        unreadable += carry_out(current, way, progress)
        intakes += current
    pictures = {picture for intake in intakes for picture in intake.pictures}
    if pictures and not any(picture.exists() for picture in pictures):
        raise DataError(f"None of the pictures can be read: {listing([str(one) for one in unreadable])}.")
    return intakes, unreadable


def _move_earlier(project: Project, earlier: Path, own: Path) -> list[_Pair]:
    """Rename the project's earlier folder; or say what of it is to be taken over, where it has to stay."""
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
        sources = find_sources(training, "Pictures")[0]
    except DataError:
        return []  # nothing in it that could be lost
    return [
        (source.folder, own if source.name == earlier.name else own.with_name(source.folder.path.name))
        for source in sources
    ]


def _rename_own(project: Project, own: Path, name: str | None) -> None:
    """Other repeats or another name: the folder that is there gets the new name.

    Args:
        name: that of the folder to look for; None: any, if it is the only one.
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
            "Keep one of them: the pictures in all of them are trained on.",
        )
    if true_state(RunDir(project.results)).live:
        raise UsageError(
            f"A run is going on in {printable(project.path)}: its folder of pictures cannot be renamed.",
            "Wait for its end, or choose another name.",
        )
    others[0].rename(own)


def _count_others(roots: list[Path], planned: set[Path]) -> int:
    """Pictures that a run would read besides the planned ones."""
    return sum(
        1
        for root in roots
        for source in find_sources(root, "Pictures")[0]
        for picture in source.folder.pictures
        if picture not in planned
    )


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(expanded(str(path))))  # noqa: PTH100 - resolve() follows links


def _require_folder_name(name: str, what: str) -> None:
    if not name.strip() or "/" in name or name in (".", ".."):
        raise UsageError(f"{what} {name!r} cannot be a folder's name.", "Choose letters, digits, - and _.")


def _require_plain(path: Path) -> None:
    """A configuration is UTF-8 text; a path with other bytes cannot stand in it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{printable(path)} has bytes that are not UTF-8, which a configuration cannot hold.",
            "Choose another place or name.",
        ) from None


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turn what the system says while writing into a sentence."""
    try:
        yield
    except OSError as error:
        named = Path(printable(os.fsdecode(error.filename) if error.filename else path))
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise StorageError(
                f"{named} is a file, where a folder is needed.", "Choose another place or name."
            ) from None
        known = storage_error(error, named, "Writing")
        if known is None:
            raise StorageError(f"Writing {named} failed: {error.strerror or error}.") from error
        raise StorageError(known.message, known.hint.replace("another --output_dir", "another place")) from error
