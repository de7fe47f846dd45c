"""The texts of the screen Results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.text import Text

from engine.results.columns import BEST, BY_NAME, FAVOURITE, NOTHING, SIGNS, learned_column
from engine.results.similarity import Similarity
from engine.results.verdict import Assessment, JudgedFile, best_words
from engine.text import percent, printable
from tui.text.verdict_words import verdict_word
from tui.texts import _

LEAST_NAME = 24
"""Cells of a file's name, where it has to be cut."""
GAP = 2
"""Cells beside each cell of the table."""
DROPPED = ("epoch", "step", "response", "learned")
"""What is left out of a table that is too narrow, in this order; the text below the table has it then."""


def titles(files: Sequence[JudgedFile]) -> dict[str, str]:
    """The table's columns: name to heading."""
    learned = learned_column(judged.measures for judged in files)
    return {
        "file": _("File"), "verdict": _("Verdict"), "epoch": _("Epoch"), "step": _("Step"),
        "learned": _(learned.title), "response": _(BY_NAME["response"].heading),
    }  # fmt: skip


def columns_for(width: int, natural: Mapping[str, int]) -> dict[str, int]:
    """The columns that fit whole into a table so wide, with their widths; a name is cut before figures are left out.

    Args:
        natural: the columns with the width of their widest cell.
    """
    widths = dict(natural)
    for name in DROPPED:
        spare = 0 if name == DROPPED[0] else max(0, natural["file"] - LEAST_NAME)
        if _excess(widths, width) <= spare:
            break
        del widths[name]
    widths["file"] -= max(0, _excess(widths, width))
    widths["file"] = max(1, widths["file"])
    return widths


def _excess(widths: Mapping[str, int], width: int) -> int:
    return sum(widths.values()) + GAP * len(widths) - width


def rows(
    files: Sequence[JudgedFile], best: JudgedFile | None, favourites: Collection[str] = ()
) -> list[dict[str, Text]]:
    """The table's cells, by column."""
    learned = learned_column(judged.measures for judged in files)
    return [
        {
            "file": Text(f"{FAVOURITE} " if judged.file.path.name in favourites else "").append(
                printable(judged.file.path.name)
            ),
            "verdict": Text(f"{SIGNS[judged.verdict.kind]} {verdict_word(judged.verdict.kind)}").append(
                f" {BEST} {_(best_words(judged))}" if judged is best else "", "bold"
            ),
            "epoch": Text(NOTHING if judged.file.epoch is None else str(judged.file.epoch)),
            "step": Text(NOTHING if judged.file.step is None else str(judged.file.step)),
            "learned": Text(_share(learned.value(judged.measures))),
            "response": Text(_share(judged.measures.response)),
        }
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


def reasons(judged: JudgedFile, assessment: Assessment, similarity: Similarity | None = None, figures: str = "") -> str:
    """The reasons for and against a file, advice for the recommended one, and what other models measure on its samples;
    one sentence per line.

    Args:
        figures: of the file, for which its table has no room.
    """
    lines = [figures] if figures else []
    lines += judged.verdict.reasons
    if judged.verdict.missing:
        lines.append(_("Not measured: {0}.").format(", ".join(judged.verdict.missing)))
    if judged is assessment.best:
        lines += assessment.advice
    if similarity is not None and (line := similarity.line(judged.file.step)):
        lines.append(line)
    return "\n".join(printable(line) for line in lines)


def _share(value: float | None) -> str:
    return NOTHING if value is None else percent(value)
