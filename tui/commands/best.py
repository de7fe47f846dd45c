"""`lorasmith best RUN`: which of a run's files to take, why, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.results.columns import BEST, NOTHING, Column, learned_column
from engine.runs import RunDir, resolve
from engine.text import percent, printable
from tui.shell import output
from tui.text.verdict_words import verdict_word
from tui.texts import _

if TYPE_CHECKING:
    from engine.results.record import RunRecord
    from engine.results.similarity import Similarity
    from engine.results.verdict import Assessment, JudgedFile

_FIGURES = ("gap", "bleed", "response")


@click.command("best", short_help="Name the best file of a run, and why.")
@click.argument("run")
@click.option("--use", "folder", metavar="DIR", help="Copy it into this models folder, ready for use.")
@click.option("--overwrite", is_flag=True, help="With --use: replace a file of that name.")
@click.option("--with-clip", metavar="DIR", help="Compute CLIP-I and CLIP-T by the CLIP model in this folder.")
@click.option("--with-dino", metavar="DIR", help="Compute DINO by the vision transformer in this folder.")
@click.option("--with-face", metavar="FILE", help="Compare faces by this ONNX embedder.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    run: str,
    folder: str | None,
    overwrite: bool,
    with_clip: str | None,
    with_dino: str | None,
    with_face: str | None,
    as_json: bool,
) -> int:
    """Judge the files of RUN, a directory or a part of its name, and recommend one.

    learned is how much lower the loss on validation images is than the base model's (on training images, and named so,
    in a run without validation images), gap what training images gained beyond that; bleed is how far predictions for
    everyday prompts moved, relative to what those prompts still change (above 55 % other subjects suffer), response how
    much the rest of a prompt still counts (100 %: as in the base model). docs/results.md explains them.

    --with-clip, --with-dino and --with-face compare the samples with training images and prompts by models that are on
    this machine. The figures are kept with the run and shown next to the verdicts, which do not depend on them.

    --use writes NAME.safetensors into DIR, with the trigger, the recommended strength and a sample in its metadata.
    """
    from engine.results.record import read_run
    from engine.results.use_file import use

    record = read_run(resolve(run))
    assessment, used = record.assessment, None
    similarity = _similarity(record, with_clip, with_dino, with_face)
    if folder is not None:
        if not assessment.files:
            raise UsageError(_("The run has saved no file yet."), code="no-saved-file")
        if assessment.best is None:
            raise UsageError(assessment.why[0], code="no-best-file")
        used = use(record, assessment.best, expanded(folder), overwrite=overwrite)
    if as_json:
        output.json_result({**_record(record.run_dir, assessment, similarity), "used": str(used) if used else None})
        return ExitCode.DONE
    if not assessment.files:
        output.message(_("{0} has saved no file yet.").format(printable(record.name)))
        return ExitCode.DONE
    for line in _table(assessment):
        output.result(line)
    for line in _similarities(assessment, similarity):
        output.result(line)
    output.result("")
    if assessment.best is not None:
        output.result(_("Take {0}.").format(printable(assessment.best.file.path)))
    for sentence in (*assessment.why, *(f"{_('next:')} {sentence}" for sentence in assessment.advice)):
        for line in output.wrapped(printable(sentence), output.width_of_result(), "  "):
            output.result(line)
    if used is not None:
        output.result(_("Copied to {0}").format(printable(used)))
    return ExitCode.DONE


def _similarity(record: RunRecord, clip: str | None, dino: str | None, face: str | None) -> Similarity:
    """The figures of other models; those named on the command line are computed first."""
    from engine.results.similarity import compute

    named = {"clip": clip, "dino": dino, "face": face}
    paths = {kind: expanded(path) for kind, path in named.items() if path is not None}
    if not paths:
        return record.similarity
    steps = [judged.file.step for judged in record.assessment.files]
    return compute(record.run_dir, steps, record.trigger, progress=output.counters(), **paths)


def _similarities(assessment: Assessment, similarity: Similarity) -> Iterator[str]:
    """The figures of other models, one line per file, the base model first."""
    from engine.results.similarity import TITLES

    figures = similarity.figures()
    if not figures:
        return
    named = [
        (_("base model"), 0),
        *((printable(judged.file.path.name), judged.file.step) for judged in assessment.files),
    ]
    rows = [(_("by other models"), *(TITLES[key] for key in figures))]
    for name, step in named:
        values = similarity.steps.get(-1 if step is None else step, {})
        rows.append((name, *(f"{values[key]:.3f}" if key in values else "–" for key in figures)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(figures) + 1)]
    yield ""
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        yield "  ".join((name.ljust(widths[0]), *right))
    yield _("These figures do not count in the verdicts.")


def _table(assessment: Assessment) -> Iterator[str]:
    learned = learned_column(judged.measures for judged in assessment.files)
    head = ("file", "step", "epoch", learned.title.lower(), *_FIGURES, "verdict")
    rows = [head, *(_cells(judged, judged is assessment.best, learned) for judged in assessment.files)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for file, *figures, verdict in rows:
        right = [figure.rjust(width) for figure, width in zip(figures, widths[1:-1], strict=True)]
        yield "  ".join((file.ljust(widths[0]), *right, verdict))


def _cells(judged: JudgedFile, best: bool, learned: Column) -> tuple[str, ...]:
    from engine.results.verdict import best_words

    file, measures = judged.file, judged.measures
    shares = (learned.value(measures), *(getattr(measures, name) for name in _FIGURES))
    return (
        printable(file.path.name),
        NOTHING if file.step is None else str(file.step),
        NOTHING if file.epoch is None else str(file.epoch),
        *(NOTHING if share is None else percent(share) for share in shares),
        f"{verdict_word(judged.verdict.kind)} {BEST} {best_words(judged)}"
        if best
        else verdict_word(judged.verdict.kind),
    )


def _record(run_dir: RunDir, assessment: Assessment, similarity: Similarity) -> dict[str, Any]:
    return {
        "run": str(run_dir.path),
        "best": str(assessment.best.file.path) if assessment.best else None,
        "why": list(assessment.why),
        "advice": list(assessment.advice),
        "files": [_file(judged, similarity) for judged in assessment.files],
        "similarity": {"models": dict(similarity.models), "base": dict(similarity.steps.get(0, {}))},
    }


def _file(judged: JudgedFile, similarity: Similarity) -> dict[str, Any]:
    file, measures = judged.file, judged.measures
    derived = {"learned": measures.learned, "train_gain": measures.train_gain, "gap": measures.gap}
    return {
        "path": str(file.path), "step": file.step, "epoch": file.epoch, "verdict": judged.verdict.kind,
        "reasons": list(judged.verdict.reasons), "missing": list(judged.verdict.missing),
        "measures": {**asdict(measures), **derived},
        "similarity": dict(similarity.steps.get(-1 if file.step is None else file.step, {})),
    }  # fmt: skip
