"""A request for images with LoRA files at given strengths, next to the base's, outside a run. Loads no torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine import clock
from engine.config import RunConfig
from engine.config.prompts import read_prompts
from engine.errors import UsageError
from engine.models.header import read_header
from engine.paths import expanded
from engine.results.base_choice import Base
from engine.runs.contact import BASE
from engine.text import printable
from engine.types import SampleRequest

STRENGTHS = (1.0,)
"""The default."""
LIMIT = 100.0
"""The largest absolute strength; images break long before."""


@dataclass(frozen=True)
class LoraFile:
    """One file, and its share where several are combined."""

    path: Path
    strength: float = 1.0

    @property
    def label(self) -> str:
        """Its name in the title of a column."""
        return printable(self.path.name).removesuffix(".safetensors")


@dataclass(frozen=True)
class Column:
    """The images at the same strengths, one for each prompt."""

    label: str
    strengths: tuple[float, ...]
    """Of each file, in their order; 0 is off."""


@dataclass(frozen=True)
class TryRequest:
    """Everything that the drawing process needs."""

    config: RunConfig
    files: tuple[Path, ...]
    columns: tuple[Column, ...]
    prompts: tuple[SampleRequest, ...]
    directory: Path
    """Where the images go; created if missing."""
    stem: str
    """The start of each image's name."""

    def image_path(self, prompt: int, column: int) -> Path:
        """The path of an image."""
        return self.directory / f"{self.stem}_{prompt:02d}_{column:02d}.png"

    @property
    def grid_path(self) -> Path:
        """The path of the grid of all images."""
        return self.directory / f"{self.stem}_grid.png"

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the process."""
        return {
            "config": self.config.model_dump(mode="json"),
            "files": [str(file.absolute()) for file in self.files],
            "columns": [asdict(column) for column in self.columns],
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "directory": str(self.directory.absolute()),
            "stem": self.stem,
        }

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> TryRequest:
        """The request that `as_json` wrote."""
        return cls(
            RunConfig.model_validate(values["config"]),
            tuple(Path(file) for file in values["files"]),
            tuple(Column(column["label"], tuple(column["strengths"])) for column in values["columns"]),
            tuple(SampleRequest(**prompt) for prompt in values["prompts"]),
            Path(values["directory"]),
            values["stem"],
        )


def read_file(word: str) -> LoraFile:
    """Parse `FILE`, `FILE:0.7` or `FILE=0.7`; a file of that very name takes precedence.

    Raises:
        UsageError: there is no such file, or the strength is invalid.
    """
    path = expanded(word)
    if path.is_file():
        return LoraFile(path)
    mark = max(word.rfind(":"), word.rfind("="))
    if mark > 0 and (path := expanded(word[:mark])).is_file():
        return LoraFile(path, read_strength(word[mark + 1 :]))
    raise UsageError(
        f"There is no LoRA file {printable(word)}.",
        "Name a .safetensors file; with a strength of its own: FILE:0.7.",
        code="lora-file-missing",
    )


def read_strength(text: str) -> float:
    """Parse a strength.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        value = LIMIT * 2
    if not -LIMIT <= value <= LIMIT:  # also a NaN
        raise UsageError(
            f"{printable(text.strip()) or 'Nothing'} is not a strength.",
            f"Enter a number from -{LIMIT:g} to {LIMIT:g}, such as 0.8.",
            code="strength-invalid",
        )
    return value


def read_strengths(text: str) -> tuple[float, ...]:
    """Parse strengths separated by commas.

    Raises:
        UsageError: one is invalid, or there are none.
    """
    strengths = tuple(read_strength(word) for word in text.split(",") if word.strip())
    if not strengths:
        raise UsageError("No strength is named.", "Numbers with commas between them: 0.6,0.8,1.0.", code="no-strength")
    return tuple(dict.fromkeys(strengths))


def columns_of(files: Sequence[LoraFile], strengths: Sequence[float], *, compare: bool) -> tuple[Column, ...]:
    """The base, then the files at each strength: all of them together, or with `compare` one after the other.

    Each file's own strength is multiplied with the column's.
    """
    columns = [Column(BASE, (0.0,) * len(files))]
    groups = [[number] for number in range(len(files))] if compare else [list(range(len(files)))]
    for group in groups:
        for strength in strengths:
            own = tuple(_rounded(files[n].strength * strength) if n in group else 0.0 for n in range(len(files)))
            names = [f"{files[n].label} {own[n]:g}" for n in group]
            columns.append(Column(f"{own[0]:g}" if len(files) == 1 else "\n".join(names), own))
    return tuple(column for column in columns if column is columns[0] or any(column.strengths))


def _rounded(strength: float) -> float:
    """Rounded, to hide floating-point errors of a product."""
    return round(strength, 6)


def prompts_of(
    base: Base, first: Path, typed: Sequence[str], changes: Mapping[str, Any], log: Callable[[str], None]
) -> tuple[SampleRequest, ...]:
    """The prompts: those that are typed, in Kohya's syntax; else those of the run that the first file belongs to, else
    its trigger phrase. `{trigger}` is replaced by the trigger.

    Args:
        changes: fields of every `SampleRequest` to be replaced: "seed", "width", "steps", …
        log: called with the source of the prompts, and with their flags that have no effect.

    Raises:
        UsageError: no prompt is known; one is malformed.
    """
    config: RunConfig = base.config
    trigger = config.trigger if base.run_dir is not None else trigger_of(first)
    if typed:
        config = config.changed(sampling={"sample_prompts": list(typed)})
    elif base.run_dir is not None:
        log(f"The prompts are those of the run {printable(base.run_dir.name)}.")
    elif trigger:
        log(f"The prompt is the trigger of {printable(first.name)}, from its metadata: {printable(trigger)}.")
        config = config.changed(sampling={"sample_prompts": ["{trigger}"]})
    else:
        raise UsageError(
            f"There is no prompt: {printable(first)} is not in a run, and its metadata name no trigger.",
            'Add one: --prompt "a photo of …".',
            code="no-prompt",
        )
    config = config.changed(dataset={"class_tokens": trigger or None})
    prompts = read_prompts(config, log, base.family.spec.prompt_flags)
    if not prompts:
        raise UsageError(
            "There is nothing to generate: the prompts are empty.",
            'Add one: --prompt "a photo of …".',
            code="no-prompt",
        )
    return tuple(_fixed(prompt.request, prompt.random_seed, changes) for prompt in prompts)


def _fixed(request: SampleRequest, random_seed: bool, changes: Mapping[str, Any]) -> SampleRequest:
    """The request with one seed for all columns."""
    if random_seed:
        request = replace(request, seed=random.SystemRandom().randrange(2**32))
    return replace(request, **changes)


def trigger_of(file: Path) -> str:
    """The trigger phrase in the metadata of a file; empty where it has none."""
    phrase = read_header(file).metadata.get("modelspec.trigger_phrase", "").strip()
    return "" if phrase == "None" else phrase


def free_stem(directory: Path, name: str) -> str:
    """A start of file names that is not used in `directory`: `name` and the time in UTC."""
    when = datetime.fromtimestamp(clock.now(), UTC)
    stem = free = f"{name}_{when:%Y%m%dT%H%M%SZ}"
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    number = 1
    while any(name.startswith(f"{free}_") for name in names):
        number += 1
        free = f"{stem}-{number}"
    return free
