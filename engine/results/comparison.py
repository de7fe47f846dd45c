"""Two or more runs side by side: settings that differ, the best file of each, losses, samples of equal prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UsageError
from engine.results.columns import COLUMNS
from engine.results.grid import prompt_seed, sample_step
from engine.results.record import RunRecord
from engine.results.settings import SettingRow, differing_settings
from engine.results.verdict import JudgedFile
from engine.text import printable

MOST_RUNS = 6
LETTERS = "ABCDEF"
"""By which runs are named in a comparison: they may have equal names."""
_TRIGGER = "{trigger}"


@dataclass(frozen=True)
class PromptImages:
    """One run's samples of a prompt."""

    base: Path | None
    best: Path | None
    """At the step of the recommended file, or the newest one before it."""
    last: Path | None


@dataclass(frozen=True)
class MatchedPrompt:
    """A prompt that several runs have, with the same seed."""

    prompt: str
    """With "{trigger}" for the trigger word of each run, where these differ."""
    seed: int | None
    """None: the seed was not fixed, and images differ by chance too."""
    runs: tuple[PromptImages | None, ...]
    """One per run; None if it lacks the prompt."""
    indexes: tuple[int | None, ...]
    """The prompt's index in each run."""


SAME_LOSS = 0.01
"""Share by which validation losses of the same base model on the same images may differ, by precision and machine."""


@dataclass(frozen=True)
class Comparison:
    """The data of a comparison, everything in the order of `runs`."""

    runs: tuple[RunRecord, ...]
    settings: tuple[SettingRow, ...]
    """Only those that differ."""
    prompts: tuple[MatchedPrompt, ...]
    """Only those that at least two runs have."""

    @property
    def letters(self) -> str:
        """One letter per run."""
        return LETTERS[: len(self.runs)]

    @property
    def labels(self) -> tuple[str, ...]:
        """ "A smithy", "B smithy-2"."""
        names = (printable(run.title) for run in self.runs)
        return tuple(f"{letter} {name}" for letter, name in zip(self.letters, names, strict=True))

    def prompt_text(self, matched: MatchedPrompt) -> str:
        """A prompt as it was written, with the trigger words of all runs that have it: "a robot/smithy on a beach"."""
        triggers = (run.trigger for run, index in zip(self.runs, matched.indexes, strict=True) if index is not None)
        return matched.prompt.replace(_TRIGGER, "/".join(dict.fromkeys(filter(None, triggers))))

    def losses(self) -> list[tuple[int, tuple[float | None, ...]]]:
        """Validation losses by step."""
        steps = sorted({step for run in self.runs for step in run.history.validation_losses})
        return [(step, tuple(run.history.validation_losses.get(step) for run in self.runs)) for step in steps]

    def loss_remark(self) -> str:
        """Why the heights of the curves cannot be compared; empty where the runs began at the same validation loss."""
        first = [losses[0] for run in self.runs if 0 in (losses := run.history.validation_losses)]
        if not first or max(first) - min(first) <= SAME_LOSS * min(first):
            return ""
        values = ", ".join(f"{loss:.4f}" for loss in first)
        return (
            f"The runs began at different validation losses ({values}): their validation images, timesteps or base "
            "models differ. Compare how far each falls, not the values."
        )

    def best_steps(self) -> tuple[int | None, ...]:
        """The newest step with samples up to the recommended file of each run."""
        return tuple(sample_step(run, run.best_step) for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """For `compare --json`."""
        return {
            "runs": [{"letter": letter, **_run_json(run)} for letter, run in zip(self.letters, self.runs, strict=True)],
            "settings": [{"key": row.key, "title": row.title, "values": list(row.values)} for row in self.settings],
            "validation_losses": [{"step": step, "losses": list(losses)} for step, losses in self.losses()],
            "prompts": [_prompt_json(prompt) for prompt in self.prompts],
        }


def compare(runs: Sequence[RunRecord]) -> Comparison:
    """Compare runs.

    Raises:
        UsageError: fewer than two, more than `MOST_RUNS`, or one of them twice.
    """
    require_number(len(runs))
    paths = [run.run_dir.path.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for place, path in enumerate(paths) if path in paths[:place])
        raise UsageError(f"The run {printable(twice)} is named twice.", "Name another one.", code="run-named-twice")
    settings = differing_settings([run.config for run in runs])
    return Comparison(tuple(runs), tuple(settings), tuple(matched_prompts(runs)))


def require_number(runs: int) -> None:
    """Refuse a comparison of too few or too many runs.

    Raises:
        UsageError: fewer than two, or more than `MOST_RUNS`.
    """
    if not 2 <= runs <= MOST_RUNS:
        hint = "lorasmith compare RUN RUN; `lorasmith runs` lists them."
        raise UsageError(
            f"A comparison is of 2 to {MOST_RUNS} runs; {runs} named.", hint, code="comparison-wrong-count"
        )


def matched_prompts(runs: Sequence[RunRecord]) -> list[MatchedPrompt]:
    """Prompts that at least two runs have with equal seeds: word for word, or apart from each run's trigger word."""
    samples = [
        (place, index, prompt, prompt_seed(run, index))
        for place, run in enumerate(runs)
        for index, prompt in sorted(run.samples.prompts.items())
    ]
    matched: list[MatchedPrompt] = []
    for by_trigger in (False, True):
        groups: dict[tuple[str, int | None], dict[int, int]] = {}
        for place, index, prompt, seed in samples:
            text = prompt.replace(runs[place].trigger, _TRIGGER) if by_trigger and runs[place].trigger else prompt
            groups.setdefault((text, seed), {}).setdefault(place, index)
        several = {key: indexes for key, indexes in groups.items() if len(indexes) > 1}
        matched += [_matched(runs, prompt, seed, indexes) for (prompt, seed), indexes in several.items()]
        matched_pairs = {pair for indexes in several.values() for pair in indexes.items()}
        samples = [sample for sample in samples if sample[:2] not in matched_pairs]
    return sorted(matched, key=lambda match: next(index for index in match.indexes if index is not None))


def _matched(runs: Sequence[RunRecord], prompt: str, seed: int | None, indexes: Mapping[int, int]) -> MatchedPrompt:
    """A prompt with its images; `indexes` are the prompt's by the place of the run."""
    places = [indexes.get(place) for place in range(len(runs))]
    images = [None if index is None else _images(run, index) for run, index in zip(runs, places, strict=True)]
    return MatchedPrompt(prompt, seed, tuple(images), tuple(places))


def _images(run: RunRecord, index: int) -> PromptImages:
    images, steps = run.samples.images, run.samples.steps
    best = sample_step(run, run.best_step)
    return PromptImages(
        base=images.get((index, 0)),
        best=images.get((index, best)) if best is not None else None,
        last=images.get((index, steps[-1])) if steps else None,
    )


def _run_json(run: RunRecord) -> dict[str, Any]:
    best = run.assessment.best
    return {
        "name": run.name, "path": str(run.run_dir.path), "state": run.state.state, "step": run.history.step,
        "max_train_steps": run.history.max_train_steps, "seconds": round(run.seconds, 1), "memory": dict(run.memory),
        "best": None if best is None else _file_json(best), "why": list(run.assessment.why),
    }  # fmt: skip


def _file_json(judged: JudgedFile) -> dict[str, Any]:
    measures: Mapping[str, float | None] = {column.name: column.value(judged.measures) for column in COLUMNS}
    return {
        "path": str(judged.file.path), "step": judged.file.step, "epoch": judged.file.epoch,
        "verdict": judged.verdict.kind, "reasons": list(judged.verdict.reasons), "measures": measures,
    }  # fmt: skip


def _prompt_json(matched: MatchedPrompt) -> dict[str, Any]:
    images = [
        None if samples is None else {name: _path(getattr(samples, name)) for name in ("base", "best", "last")}
        for samples in matched.runs
    ]
    return {"prompt": matched.prompt, "seed": matched.seed, "images": images}


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
