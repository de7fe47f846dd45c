"""The texts of the screen Results."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.text import Text

from engine.results.columns import BEST, FAVOURITE, SIGNS
from engine.results.similarity import Similarity
from engine.results.verdict import Assessment, JudgedFile
from engine.text import percent, printable
from tui.texts import _


def verdict_word(kind: str) -> str:
    """A verdict as a word; a file without one was not measured."""
    return _("not measured") if kind == "undecidable" else _(kind)


def rows(
    files: Sequence[JudgedFile], best: JudgedFile | None, favourites: Collection[str] = ()
) -> list[tuple[Text, ...]]:
    """The table's cells."""
    return [
        (
            Text(f"{FAVOURITE} " if judged.file.path.name in favourites else "").append(
                printable(judged.file.path.name)
            ),
            Text(f"{SIGNS[judged.verdict.kind]} {verdict_word(judged.verdict.kind)}").append(
                f" {BEST} " + _("best") if judged is best else "", "bold"
            ),
            Text("–" if judged.file.epoch is None else str(judged.file.epoch)),
            Text("–" if judged.file.step is None else str(judged.file.step)),
            Text(
                _share(judged.measures.learned if judged.measures.learned is not None else judged.measures.train_gain)
            ),
            Text(_share(judged.measures.response)),
        )
        for judged in files
    ]


def ranks(judged: JudgedFile, best: JudgedFile | None, favourites: Collection[str] = ()) -> tuple[object, ...]:
    """What the list can be sorted by: name, how much is learned, verdict, the best file first; favourites."""
    measures = judged.measures
    learned = measures.learned if measures.learned is not None else measures.train_gain
    kinds = list(SIGNS)
    return (
        judged.file.path.name,
        -(learned if learned is not None else -1.0),
        (judged is not best, kinds.index(judged.verdict.kind) if judged.verdict.kind in kinds else len(kinds)),
        judged.file.path.name not in favourites,
    )


def reasons(judged: JudgedFile, assessment: Assessment, similarity: Similarity | None = None) -> str:
    """The reasons for and against a file, advice for the recommended one, and what other models measure on its samples;
    one sentence per line."""
    lines = [*judged.verdict.reasons]
    if judged.verdict.missing:
        lines.append(_("Not measured: {0}.").format(", ".join(judged.verdict.missing)))
    if judged is assessment.best:
        lines += assessment.advice
    if similarity is not None and (line := similarity.line(judged.file.step)):
        lines.append(line)
    return "\n".join(printable(line) for line in lines)


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)
