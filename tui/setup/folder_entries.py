"""What is entered in the step Folders: read from the draft, written into it, and turned into a project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from engine.config.local_paths import is_windows_path
from engine.errors import LoraSmithError
from engine.paths import expanded
from engine.runs import RunDir
from engine.runs.project import CreatedProject, Project, Regularization, TakeIn, values
from engine.text import printable
from tui.setup.demo import DEMO, DEMO_IMAGES, DEMO_TRIGGER, DEMO_VALIDATION, is_demo
from tui.texts import _

if TYPE_CHECKING:
    from tui.setup.draft import Draft

TRIGGER_WORD, NAME = _("the trigger word"), _("the name")
"""What `Entries.trial` has instead of them."""
_SHARE = re.compile(r"(\d+(?:[.,]\d+)?)\s*%")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_MADE = "folders.made"
"""In the draft's extras: what `make` has made, from which entries."""
_STORED = {"validation": "held_out"}
"""Field to its key in the draft's extras, where that is not the field's name: earlier versions wrote it."""


@dataclass(frozen=True)
class Entries:
    """The fields as they were typed; kept in the draft's extras under "folders.<field>"."""

    place: str = ""
    name: str = ""
    trigger: str = ""
    """Empty: the name."""
    source: str = ""
    take_in: str = "copy"
    repeats: str = ""
    """Empty: computed."""
    validation: str = ""
    """A folder, or a share of the images as "10 %"; empty: see `engine.dataset.auto_validation`."""
    regularize: bool = False
    class_word: str = ""
    reg_source: str = ""
    txt2img: bool = False

    @classmethod
    def from_draft(cls, draft: Draft) -> Entries:
        """What was entered; at first the configuration's own values, and for the demo its own images."""
        stored = {
            entry.name: value
            for entry in fields(cls)
            if isinstance(value := draft.extras.get(f"folders.{_stored(entry.name)}"), type(entry.default))
        }
        if stored.get("take_in") not in get_args(TakeIn):
            stored.pop("take_in", None)
        trigger = _trigger(draft)
        if stored.get("source") or stored.get("name"):
            return cls(**cast("dict[str, Any]", {**stored, "trigger": stored.get("trigger") or trigger}))
        name = draft.get("saving.output_name") or ""
        source = draft.get("dataset.train_data_dir") or ""
        share = draft.get("dataset.validation_split")
        entries = cls(
            place=_place(draft.get("saving.output_dir") or "", name),
            name=name,
            trigger=trigger,
            source=source,
            take_in="leave" if source else "copy",
            repeats=str(draft.get("dataset.num_repeats") or ""),
            validation=draft.get("dataset.validation_data_dir") or ("" if share is None else f"{share * 100:g} %"),
            regularize=bool(draft.get("dataset.reg_data_dir")),
            reg_source=draft.get("dataset.reg_data_dir") or "",
        )
        if source or configured(draft) or not is_demo(draft):
            return entries
        return entries.with_demo()

    def with_demo(self) -> Entries:
        """The images that come with the program, left where they are."""
        return replace(
            self,
            name=self.name or DEMO,
            trigger=self.trigger or DEMO_TRIGGER,
            source=DEMO_IMAGES,
            validation=DEMO_VALIDATION,
            take_in="leave",
        )

    def without_demo(self) -> Entries:
        """What was typed; the defaults for what the demo's images came with."""
        return replace(
            self,
            name="" if self.name in (DEMO, DEMO_TRIGGER) else self.name,
            trigger="" if self.trigger == DEMO_TRIGGER else self.trigger,
            validation="" if self.validation == DEMO_VALIDATION else self.validation,
            take_in=Entries.take_in,
            repeats="",
        )

    @property
    def word(self) -> str:
        """The trigger word."""
        return self.trigger or self.name

    @property
    def num_repeats(self) -> int | None:
        """The number that was typed; None where it will be computed, or is no number."""
        return int(self.repeats) if self.repeats.isdecimal() and 1 <= int(self.repeats) <= 100_000 else None

    def project(self, caption_extension: str = ".txt", repeats: int | None = None) -> Project:
        """The project that the entries describe, with `repeats` where none were typed."""
        reg = Regularization(Path(self.reg_source), self.class_word) if self.regularize else None
        return Project(
            place=Path(self.place),
            name=self.name,
            source=Path(self.source),
            take_in=cast("TakeIn", self.take_in),
            num_repeats=self.num_repeats or repeats,
            regularization=reg,
            txt2img=self.txt2img,
            caption_extension=caption_extension,
        )

    def problems(self, dataset_config: str = "") -> Iterator[str]:
        """Sentences about what is missing or impossible; reads no image.

        Args:
            dataset_config: names the images where no folder is named.
        """
        if not self.name:
            yield _("Give the project a name.")
        if not self.source and not dataset_config:
            yield _("Enter the folder of the images.")
        if self.repeats and self.num_repeats is None:
            yield _("Repeats are a number from 1 to 100000, or empty to have them computed.")
        if self.regularize and not (self.class_word and self.reg_source):
            yield _("Regularization images need a class word and a folder.")
        if (share := _share(self.validation)) is not None and not 0 <= share < 1:
            yield _("The share of validation images is 0 % or more, and below 100 %.")
        if _NUMBER.fullmatch(number := self.validation.strip()) and not expanded(number).is_dir():
            yield _("There is no folder {0} of validation images. For a share of the images write {0} %.").format(
                number
            )
        if self.name and self.source:
            try:
                self.project().require_possible()
            except LoraSmithError as error:
                yield str(error)

    def trial(self) -> dict[str, Any]:
        """Keys of the configuration (dots as "__") for reading the images of the source.

        Name and trigger are placeholders, so that typing one does not read ten thousand images again.
        """
        share = _share(self.validation)
        without_config = {"dataset__dataset_config": None} if self.source else {}
        return without_config | {
            "dataset__train_data_dir": self.source,
            "dataset__num_repeats": self.num_repeats,
            "dataset__reg_data_dir": self.reg_source if self.regularize and self.reg_source else None,
            "dataset__validation_data_dir": self.validation if self.validation and share is None else None,
            "dataset__validation_split": share,
            "dataset__class_tokens": TRIGGER_WORD if self.trigger else None,
            "saving__output_name": NAME,
            "saving__output_dir": "",
        }

    def store(self, draft: Draft) -> None:
        """Write everything into the draft. Until the images are taken in, a run would read them from the source."""
        for key, value in self._as_stored().items():
            draft.extras[f"folders.{key}"] = value
        trial = self.trial()
        for key in ("validation_data_dir", "validation_split"):
            draft.set(f"dataset.{key}", trial[f"dataset__{key}"])
        if not self.trigger or self.trigger == self.name:
            if draft.get("dataset.class_tokens") != self.name:
                draft.set("dataset.class_tokens", None)
        else:
            draft.set("dataset.class_tokens", self.trigger)
        draft.set("dataset.dataset_config", None if self.source else configured(draft) or None)
        if self.name and self.source:
            for key, value in self._values(draft).items():
                draft.set(key, value)
        else:
            draft.set("saving.output_name", self.name)
            draft.set("dataset.train_data_dir", self.source)

    def _as_stored(self) -> dict[str, Any]:
        """The fields by their keys in the draft's extras."""
        return {_stored(name): value for name, value in asdict(self).items()}

    def _values(self, draft: Draft) -> dict[str, Any]:
        """The settings of the project as it was made, as far as the entries still describe it; else of the source."""
        source = values(self.project(), imported=False, numbered=True, reg_numbered=True)
        stored = draft.extras.get(_MADE)
        if stored is None:
            return source
        if {**stored["entries"], "trigger": self.trigger} == self._as_stored():  # no file depends on the trigger
            return dict(stored["values"])
        if self.earlier(draft) is not None:
            return {**source, "dataset.train_data_dir": stored["values"]["dataset.train_data_dir"]}
        return source

    def earlier(self, draft: Draft) -> Path | None:
        """The folder of this project when these images were taken in: it may have been renamed or moved since."""
        stored = draft.extras.get(_MADE)
        if stored is None or stored["entries"]["source"] != self.source:
            return None
        return None if "leave" in (self.take_in, stored["entries"]["take_in"]) else Path(stored["path"])

    def record(self, draft: Draft, result: CreatedProject) -> None:
        """Keep what was made, and what a run needs of it, in the draft."""
        draft.extras[_MADE] = {"entries": self._as_stored(), "values": result.values, "path": str(self.project().path)}
        self.store(draft)


def configured(draft: Draft) -> str:
    """The dataset configuration that the draft began with; a folder that is named in the step replaces it."""
    return str(draft.values.get("dataset.dataset_config") or draft.base().dataset.dataset_config or "")


def _trigger(draft: Draft) -> str:
    """The trigger word of the settings; the demo's only with the demo's images."""
    word = str(draft.get("dataset.class_tokens") or "")
    source = draft.extras.get("folders.source") or draft.get("dataset.train_data_dir") or DEMO_IMAGES
    is_preset = draft.preset == DEMO and "dataset.class_tokens" not in draft.values
    return "" if is_preset and source != DEMO_IMAGES else word


def _stored(name: str) -> str:
    """The key of a field in the draft's extras, after "folders."."""
    return _STORED.get(name, name)


def _place(output_dir: str, name: str) -> str:
    """Where the project of a configuration is: its folder of results is the place of a new project, except that of a
    run, which has its files there. The working directory where it has none."""
    results = Path(output_dir)
    if _is_project(results, name):
        return str(results.parent.parent)
    usable = output_dir and not _of_windows(output_dir) and not RunDir(_absolute(output_dir)).is_run
    return str(_absolute(output_dir) if usable else Path.cwd())


def place_note(draft: Draft) -> str:
    """What the `output_dir` of the draft's file means for its project; empty where it means the same, or is unset."""
    output_dir, name = str(draft.get("saving.output_dir") or ""), str(draft.get("saving.output_name") or "")
    same = not output_dir or _of_windows(output_dir) or _is_project(Path(output_dir), name)  # Windows: has a note
    if same or not draft.get("dataset.train_data_dir"):
        return ""
    place, written = Path(_place(output_dir, name)), printable(output_dir)
    if place != _absolute(output_dir):
        return _("output_dir = {0}: not used; the step Folders sets the place").format(written)
    results = printable(place / (name or "NAME") / "results_current")
    return _("output_dir = {0}: the place of the project, whose results are in {1}").format(written, results)


def _is_project(results: Path, name: str) -> bool:
    return bool(name) and (results.name, results.parent.name) == ("results_current", name)


def _of_windows(output_dir: str) -> bool:
    return is_windows_path("saving.output_dir", output_dir)


def _absolute(path: str) -> Path:
    return Path(expanded(path)).absolute()


def _share(text: str) -> float | None:
    """ "10 %" as 0.1; None for anything else."""
    match = _SHARE.fullmatch(text.strip())
    return float(match[1].replace(",", ".")) / 100 if match else None
