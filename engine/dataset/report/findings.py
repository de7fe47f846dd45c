"""The content of the report: kinds of findings with reason and advice, and the affected images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.text import plural

Level = Literal["error", "warning", "note"]
"""error: training stops, or ignores these images. warning: the result gets worse. note: for information."""

LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding; the documentation is generated from these."""

    code: str
    level: Level
    title: str
    """The heading: "Blurred"."""
    limit: str
    """The condition with its threshold, for the documentation."""
    why: str
    """Why it matters."""
    advice: str
    """What to do."""
    repair: str = ""
    """What `--repair` does in the copy; empty: there is no safe repair."""
    noun: str = "image"
    """Noun for counts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One image, or images that belong together."""

    images: tuple[Path, ...]
    text: str = ""
    """Details of this case: "28 % is cut off"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """All cases of one kind."""

    kind: Kind
    cases: tuple[Case, ...] = ()
    text: str = ""
    """Details of all cases together."""

    @property
    def images(self) -> list[Path]:
        """Every affected image, once."""
        return list(dict.fromkeys(image for case in self.cases for image in case.images))

    @property
    def heading(self) -> str:
        """ "Blurred: 3 images"."""
        count = len(self.images)
        grouped = any(len(case.images) > 1 for case in self.cases)
        counted = plural(count, self.kind.noun)
        if grouped and len(self.cases) > 1:
            return f"{self.kind.title}: {counted} in {plural(len(self.cases), 'group')}"
        return f"{self.kind.title}: {counted}" if count else self.kind.title

    def as_json(self) -> dict[str, Any]:
        """All fields, with the texts of the kind."""
        kind = self.kind
        return {
            "code": kind.code,
            "level": kind.level,
            "title": kind.title,
            "heading": self.heading,
            "text": self.text,
            "why": kind.why,
            "advice": kind.advice,
            "repair": kind.repair,
            "noun": kind.noun,
            "cases": [{"images": [str(path) for path in case.images], "text": case.text} for case in self.cases],
        }

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Finding:
        """From `as_json`."""
        names = ("code", "level", "title", "why", "advice", "repair", "noun")
        kind = Kind(limit="", **{name: stored[name] for name in names})
        cases = tuple(Case(tuple(map(Path, case["images"])), case["text"]) for case in stored["cases"])
        return cls(kind, cases, stored["text"])


@dataclass(frozen=True)
class Report:
    """The findings, the most severe first."""

    findings: tuple[Finding, ...]
    images: int
    """Number of training images."""
    notes: tuple[str, ...] = ()
    """Notes of the scan."""
    buckets: dict[tuple[int, int], int] = field(default_factory=dict)
    """(width, height) in px to images."""

    def count(self, level: Level) -> int:
        """Findings of a level."""
        return sum(1 for finding in self.findings if finding.kind.level == level)

    @property
    def failed(self) -> bool:
        """Whether there is an error, or no training image."""
        return self.count("error") > 0 or not self.images

    @property
    def verdict(self) -> str:
        """A one-line summary."""
        counts = [plural(self.count(level), level) for level in LEVELS if self.count(level)]
        return f"{plural(self.images, 'image')}: {', '.join(counts) if counts else 'no findings'}"

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "version": 2,
            "images": self.images,
            "verdict": self.verdict,
            "levels": {level: self.count(level) for level in LEVELS},
            "findings": [finding.as_json() for finding in self.findings],
            "buckets": [[*size, count] for size, count in self.buckets.items()],
            "notes": list(self.notes),
        }

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Report:
        """From `as_json`."""
        return cls(
            tuple(Finding.restored(entry) for entry in stored["findings"]),
            stored["images"],
            tuple(stored["notes"]),
            {(width, height): count for width, height, count in stored["buckets"]},
        )
