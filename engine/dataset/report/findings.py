"""What the report says: a kind of finding with its reason and remedy, and the pictures that it is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.text import plural

Level = Literal["error", "warning", "note"]
"""error: the training stops, or goes without these pictures. warning: it will show in the result. note: good to
know."""

LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of finding; the documentation is made from these."""

    code: str
    level: Level
    title: str
    """What is the case, as a heading: "Blurred"."""
    limit: str
    """When it is found, with the threshold, for the documentation."""
    why: str
    """Why it matters."""
    advice: str
    """What to do."""
    repair: str = ""
    """What `--repair` does about it in the copy; empty: nothing can be done safely."""
    noun: str = "picture"
    """What is counted."""


@dataclass(frozen=True, slots=True)
class Case:
    """One picture, or pictures that belong together."""

    pictures: tuple[Path, ...]
    said: str = ""
    """What is known of these: "28 % is cut off"."""


@dataclass(frozen=True, slots=True)
class Finding:
    """All cases of one kind."""

    kind: Kind
    cases: tuple[Case, ...] = ()
    said: str = ""
    """What is known of all together."""

    @property
    def pictures(self) -> list[Path]:
        """Every picture that it is about, once."""
        return list(dict.fromkeys(picture for case in self.cases for picture in case.pictures))

    @property
    def heading(self) -> str:
        """ "Blurred: 3 pictures"."""
        count = len(self.pictures)
        grouped = any(len(case.pictures) > 1 for case in self.cases)
        counted = plural(count, self.kind.noun)
        if grouped and len(self.cases) > 1:
            return f"{self.kind.title}: {counted} in {plural(len(self.cases), 'group')}"
        return f"{self.kind.title}: {counted}" if count else self.kind.title

    def as_json(self) -> dict[str, Any]:
        """Everything, with the kind's words."""
        kind = self.kind
        return {
            "code": kind.code,
            "level": kind.level,
            "title": kind.title,
            "heading": self.heading,
            "said": self.said,
            "why": kind.why,
            "advice": kind.advice,
            "repair": kind.repair,
            "noun": kind.noun,
            "cases": [{"pictures": [str(path) for path in case.pictures], "said": case.said} for case in self.cases],
        }

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> Finding:
        """From `as_json`."""
        names = ("code", "level", "title", "why", "advice", "repair", "noun")
        kind = Kind(limit="", **{name: stored[name] for name in names})
        cases = tuple(Case(tuple(map(Path, case["pictures"])), case["said"]) for case in stored["cases"])
        return cls(kind, cases, stored["said"])


@dataclass(frozen=True)
class Report:
    """What was found, the worst first."""

    findings: tuple[Finding, ...]
    pictures: int
    """That are trained on."""
    notes: tuple[str, ...] = ()
    """What the scan decided or left out."""
    buckets: dict[tuple[int, int], int] = field(default_factory=dict)
    """(width, height) in px to pictures."""

    def count(self, level: Level) -> int:
        """Findings of a level."""
        return sum(1 for finding in self.findings if finding.kind.level == level)

    @property
    def failed(self) -> bool:
        """Whether something is an error, or there is nothing to train on."""
        return self.count("error") > 0 or not self.pictures

    @property
    def verdict(self) -> str:
        """All in one line."""
        counts = [plural(self.count(level), level) for level in LEVELS if self.count(level)]
        return f"{plural(self.pictures, 'picture')}: {', '.join(counts) if counts else 'nothing found'}"

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "version": 1,
            "pictures": self.pictures,
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
            tuple(Finding.restored(one) for one in stored["findings"]),
            stored["pictures"],
            tuple(stored["notes"]),
            {(width, height): count for width, height, count in stored["buckets"]},
        )
