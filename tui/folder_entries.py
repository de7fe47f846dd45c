"""What is entered in the step of the folders: from the draft, into the draft, and as a project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from engine.dataset.project import Made, Project, Regularization, TakeIn, values
from engine.errors import LoraSmithError
from engine.paths import ASSETS
from tui.configuration import DEMO
from tui.texts import _

if TYPE_CHECKING:
    from tui.draft import Draft

_SHARE = re.compile(r"(\d+(?:[.,]\d+)?)\s*%")
_MADE = "folders.made"
"""In the draft's extras: what `make` has made, from which entries."""


DEMO_PICTURES, DEMO_HELD_OUT = str(ASSETS / "demo_pictures"), str(ASSETS / "demo_heldout")


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
    held_out: str = ""
    """A folder, or a share of the pictures as "10 %"."""
    regularize: bool = False
    class_word: str = ""
    reg_source: str = ""
    txt2img: bool = False

    @classmethod
    def from_draft(cls, draft: Draft) -> Entries:
        """What was entered; for the first time what the configuration says, and for the demo its own pictures."""
        known = {
            one.name: value
            for one in fields(cls)
            if isinstance(value := draft.extras.get(f"folders.{one.name}"), type(one.default))
        }
        if known.get("take_in") not in get_args(TakeIn):
            known.pop("take_in", None)
        trigger = draft.get("dataset.class_tokens") or ""
        if known.get("source") or known.get("name"):
            return cls(**cast("dict[str, Any]", {**known, "trigger": known.get("trigger") or trigger}))
        name = draft.get("saving.output_name") or ""
        source = draft.get("dataset.train_data_dir") or ""
        share = draft.get("dataset.validation_split") or 0
        entries = cls(
            place=_place(draft.get("saving.output_dir") or "", name),
            name=name,
            trigger=trigger,
            source=source,
            take_in="leave" if source else "copy",
            repeats=str(draft.get("dataset.num_repeats") or ""),
            held_out=draft.get("dataset.validation_data_dir") or (f"{share * 100:g} %" if share else ""),
            regularize=bool(draft.get("dataset.reg_data_dir")),
            reg_source=draft.get("dataset.reg_data_dir") or "",
        )
        if source or configured(draft) or not _is_demo(draft):
            return entries
        return entries.with_demo()

    def with_demo(self) -> Entries:
        """The pictures that come with the program, left where they are."""
        demo = {
            "name": self.name or DEMO,
            "trigger": self.trigger or "smithy",
            "source": DEMO_PICTURES,
            "held_out": DEMO_HELD_OUT,
            "take_in": "leave",
        }
        return Entries(**{**asdict(self), **demo})

    @property
    def word(self) -> str:
        """The trigger word."""
        return self.trigger or self.name

    @property
    def num_repeats(self) -> int | None:
        """The number that was typed; None where it is to be computed, or is no number."""
        return int(self.repeats) if self.repeats.isdecimal() and 1 <= int(self.repeats) <= 100_000 else None

    def project(self, caption_extension: str = ".txt", repeats: int | None = None) -> Project:
        """The project that is meant, with `repeats` where none were typed."""
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
        """Sentences about what is missing or cannot be; reads no picture.

        Args:
            dataset_config: names the pictures where no folder is given.
        """
        if not self.name:
            yield _("Give the project a name.")
        if not self.source and not dataset_config:
            yield _("Name the folder of the pictures.")
        if self.repeats and self.num_repeats is None:
            yield _("Repeats are a number from 1 to 100000, or empty to have them computed.")
        if self.regularize and not (self.class_word and self.reg_source):
            yield _("Regularization pictures need a class word and a folder.")
        if (share := _share(self.held_out)) is not None and not 0 < share < 1:
            yield _("The share of held-out pictures is above 0 % and below 100 %.")
        if self.name and self.source:
            try:
                self.project().require_possible()
            except LoraSmithError as error:
                yield str(error)

    def trial(self) -> dict[str, Any]:
        """Keys of the configuration (dots as "__") with which the source can be looked at.

        The names are only named, so that typing one does not read ten thousand pictures again.
        """
        share = _share(self.held_out)
        chosen = {"dataset__dataset_config": None} if self.source else {}
        return chosen | {
            "dataset__train_data_dir": self.source,
            "dataset__num_repeats": self.num_repeats,
            "dataset__reg_data_dir": self.reg_source if self.regularize and self.reg_source else None,
            "dataset__validation_data_dir": self.held_out if self.held_out and share is None else None,
            "dataset__validation_split": share or 0.0,
            "dataset__class_tokens": _("the trigger word") if self.trigger else None,
            "saving__output_name": _("the name"),
            "saving__output_dir": "",
        }

    def store(self, draft: Draft) -> None:
        """Write everything into the draft. Until the pictures are taken in, a run would read them from the source."""
        for key, value in asdict(self).items():
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

    def _values(self, draft: Draft) -> dict[str, Any]:
        """Those of the project as it was made, as far as that is still meant; else those of the source."""
        given = values(self.project(), taken_in=False, numbered=True, reg_numbered=True)
        made = draft.extras.get(_MADE)
        if made is None:
            return given
        if {**made["entries"], "trigger": self.trigger} == asdict(self):  # no file of the project depends on it
            return dict(made["values"])
        if self.earlier(draft) is not None:
            return {**given, "dataset.train_data_dir": made["values"]["dataset.train_data_dir"]}
        return given

    def earlier(self, draft: Draft) -> Path | None:
        """The folder of this project as it was called and placed when these pictures were taken in."""
        made = draft.extras.get(_MADE)
        if made is None or made["entries"]["source"] != self.source:
            return None
        return None if "leave" in (self.take_in, made["entries"]["take_in"]) else Path(made["path"])

    def remember(self, draft: Draft, made: Made) -> None:
        """Note what was made, and what a run needs of it."""
        draft.extras[_MADE] = {"entries": asdict(self), "values": made.values, "path": str(self.project().path)}
        self.store(draft)


def configured(draft: Draft) -> str:
    """The dataset configuration that the draft began with; a folder that is named in the step goes before it."""
    return str(draft.values.get("dataset.dataset_config") or draft.base().dataset.dataset_config or "")


def _place(output_dir: str, name: str) -> str:
    """Where the project of a configuration is; the working directory where it has none."""
    results = Path(output_dir)
    known = name and (results.name, results.parent.name) == ("results_current", name)
    return str(results.parent.parent if known else Path.cwd())


def _share(text: str) -> float | None:
    """ "10 %" as 0.1; None for anything else."""
    match = _SHARE.fullmatch(text.strip())
    return float(match[1].replace(",", ".")) / 100 if match else None


def _is_demo(draft: Draft) -> bool:
    model = draft.get("model.pretrained_model_name_or_path")
    return draft.preset == DEMO or bool(model and Path(model) == ASSETS / "demo_base")
