"""Which saved file to use, and why. docs/results.md has the rules, benchmarks/verdicts.py measures how often they err.

Everything is relative to the run itself: how much its best file learned, and what its base model does. So the rules
hold for a face and for a style, and need only the measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.results.measures import MeasureBook, Measures
from engine.runs.history import SavedFile
from engine.text import percent, plural

Kind = Literal["undertrained", "good", "overtrained", "undecidable"]

NOTHING = 0.005
"""Share of the base model's loss below which a run has learned nothing that the measures show."""
NEARLY_ALL = 0.7
"""Share of the run's highest gain from which a file has learned enough: likeness comes early, the last third of
the gain is detail."""
ALL = 0.95
"""Share of the run's highest gain that counts as all of it: the measure is no more exact than that."""
REPEATED = 0.5
"""Share of training images that are versions of others from which a run counts as repetitive: part of its gain is
learned by heart, and validation images, which are versions too, do not show it."""
ALL_REPEATED = 0.825
"""`ALL` in a repetitive run."""
LOST = 0.1
"""Share of the run's highest gain that a later file may lose."""
LOST_UNSEEN = 0.2
"""The same on validation images alone, which are few, relative to an earlier file."""
STILL_LEARNING = 0.25
"""Share of the average speed of learning, per sum of learning rates, above which more training helps."""
FULL_SPEED = 0.95
"""Share of the average speed from which it is called that."""
WEAK_RESPONSE = 0.6
"""Below it the rest of a prompt has little effect."""
BURNT = {"saturation": (0.6, 1.6), "clipped": (0.0, 2.5), "contrast": (0.6, 1.6), "detail": (0.6, 1.6)}
"""Outside of these ranges samples look unlike base and training images; flat areas of pure white are not a fault."""
COPIED = 0.9
"""From here on a sample is a copy of a training image."""
COPIED_LATENT = (0.7, 0.3)
"""(least value, least rise over the base model's sample) from which a sample is a copy in latents; training images that
differ are at 0, sound runs of the demo below 0.3 (docs/results.md)."""
WIDE_GAP = 2 / 3
"""Share of the gain on training images that validation images did not get. With two validation images one half happens
by chance."""
BLEED = (0.5, 0.55, 0.75)
"""Bleed up to which other subjects stay as they are, from which they visibly suffer, and at which nothing is left of
them."""
DRIFT = (0.25, 0.6, 0.85)
"""The same for drift, which counts if bleed was not measured."""
OTHERS = 1 / 3
"""Weight of other subjects in the score; the rest is for what was learned."""
ALIKE = 0.01
"""Good files whose score is this close to the highest are equally good; the first of them is recommended: the less it
is trained, the less it has lost of what is not measured. A file that is still learning has nothing to lose yet."""
GROWTH = 0.03
"""Share of its gain that a file must have added since the previous file to count as still learning."""
_UNMEASURED = (
    "This file was not measured: no check came at its step, or the run ended before. The review shows how often the "
    "weights are measured."
)
_NEVER_MEASURED = "The weights were not measured: that needs images for it, and training.max_check_share above 0."


@dataclass(frozen=True)
class Verdict:
    """The judgement of one file by its measures."""

    kind: Kind
    reasons: tuple[str, ...]
    """Two or three sentences with figures."""
    missing: tuple[str, ...] = ()
    """The measurements that are needed to decide."""
    score: float | None = None
    """For ranking: what was learned and how well other subjects are kept, minus the weights of the faults."""


@dataclass(frozen=True)
class JudgedFile:
    """A file with its measures and its verdict."""

    file: SavedFile
    measures: Measures
    verdict: Verdict


@dataclass(frozen=True)
class Assessment:
    """The verdicts of a run's files in the order of their steps, one recommendation, and what to do next."""

    files: tuple[JudgedFile, ...]
    best: JudgedFile | None
    """The recommended file; None if there is none."""
    why: tuple[str, ...]
    """Why this file, or why none."""
    advice: tuple[str, ...]
    """What to do next, as sentences."""


def assess(files: Sequence[SavedFile], book: MeasureBook, steps_left: int = 0) -> Assessment:
    """Judge files, in the order of their steps, by their measures.

    Args:
        steps_left: of a run that was stopped before its end.
    """
    measured = [(file, Measures(-1) if file.step is None else book.at(file.step)) for file in files]
    judged = tuple(
        JudgedFile(file, measures, verdict)
        for (file, measures), verdict in zip(measured, judge([measures for _, measures in measured]), strict=True)
    )
    return Assessment(judged, *_choose(judged, steps_left))


def best_words(best: JudgedFile) -> str:
    """What the recommended file is called next to its verdict."""
    return "best of these" if best.verdict.kind == "overtrained" else "best"


def past_best(assessment: Assessment) -> str:
    """Why the run gets no better, one sentence: its two newest files are overtrained, and an older one is recommended.
    Empty if that is not so."""
    best = assessment.best
    measured = [judged for judged in assessment.files if judged.verdict.kind != "undecidable"]
    newest = measured[-2:]
    if len(measured) < 3 or best is None or best in newest:
        return ""
    if any(judged.verdict.kind != "overtrained" for judged in newest) or best.verdict.kind == "overtrained":
        return ""
    steps = " and ".join(str(judged.file.step) for judged in newest)
    return f"The files of steps {steps} are overtrained; that of step {best.file.step} is the best."


def judge(run: Sequence[Measures]) -> list[Verdict]:
    """The verdict of each of a run's files, from their measures in the order of their steps."""
    gains = [(index, gain) for index, measures in enumerate(run) if (gain := measures.gain) is not None]
    if not gains:
        reason = _UNMEASURED if any(measures.is_base_measured for measures in run) else _NEVER_MEASURED
        return [Verdict("undecidable", (reason,)) for _ in run]
    top, most = max(gains, key=lambda pair: pair[1])
    return [_verdict(run, index, top, most) for index in range(len(run))]


def _verdict(run: Sequence[Measures], index: int, top: int, most: float) -> Verdict:
    """The verdict of the file at `index`.

    Args:
        top: index of the file with the highest gain.
        most: its gain.
    """
    measures = run[index]
    gain = measures.gain
    if gain is None:
        return Verdict("undecidable", (_UNMEASURED,))
    learned = f"The loss is {_gains(measures)} than the base model's"
    if most < NOTHING and abs(gain) < NOTHING:
        text = "Hardly anything was learned: train for longer, or with higher learning rates."
        return Verdict("undertrained", (f"{learned}.", text), score=gain)
    if most < NOTHING:
        return Verdict("overtrained" if index else "undertrained", (f"{learned}.",), score=-1.0)
    share, against = gain / most, faults(measures)
    repetitive = is_repetitive(run)
    kept = others_kept(measures, strict=repetitive)
    score = (1 - OTHERS) * min(1.0, share / (ALL_REPEATED if repetitive else ALL)) + OTHERS * kept
    score -= sum(weight for weight, _ in against)
    highest = " and ".join(_lower(gain) for gain in (run[top].learned, run[top].train_gain) if gain is not None)
    reasons = [f"{learned}." if index == top else f"{learned}; at step {run[top].step} it is {highest}."]
    reasons += [text for _, text in against]
    if index > top and share < 1 - LOST:
        reasons.append("Since then the run has unlearned.")
        return Verdict("overtrained", tuple(reasons), score=score)
    if unlearned := _unlearned(run, index):
        reasons.append(unlearned)
    if against or unlearned:
        return Verdict("overtrained", tuple(reasons), score=score)
    if index < top and share < NEARLY_ALL:
        reasons.append("The run learns more after this file.")
        return Verdict("undertrained", tuple(reasons), score=score)
    last = top == len(run) - 1 and not faults(run[top])
    if last and (speed := _speed(run, top)) is not None and speed > STILL_LEARNING:
        pace = "no slower than on average" if speed >= FULL_SPEED else f"at {percent(speed)} of its average speed"
        reasons.append(f"The run was still learning when it ended, {pace}.")
        return Verdict("undertrained", tuple(reasons), score=score)
    return Verdict("good", tuple(reasons), _missing(measures), score)


def _gains(measures: Measures) -> str:
    """ "23 % lower on validation images and 27 % lower on training images"."""
    gains = {"validation images": measures.learned, "training images": measures.train_gain}
    return " and ".join(f"{_lower(gain)} on {where}" for where, gain in gains.items() if gain is not None)


def _lower(gain: float) -> str:
    return f"{percent(abs(gain))} {'lower' if gain >= 0 else 'higher'}"


def is_repetitive(run: Sequence[Measures]) -> bool:
    """Whether most training images of a run are versions of others."""
    return any(measures.repeated is not None and measures.repeated >= REPEATED for measures in run)


def _unlearned(run: Sequence[Measures], index: int) -> str:
    """Whether the file lost what an earlier one learned on validation images: a sentence, or empty."""
    now = run[index].learned
    earlier = [(measures.learned, measures.step) for measures in run[:index] if measures.learned is not None]
    if now is None or not earlier:
        return ""
    gain, step = max(earlier)
    if gain <= 0 or now >= (1 - LOST_UNSEEN) * gain:
        return ""
    return f"On validation images it is {_lower(now)}, after {_lower(gain)} at step {step}: it learns by heart."


def others_kept(measures: Measures, *, strict: bool = False) -> float:
    """How well other subjects are kept, 1 to 0, from the bleed, else from the drift; 1 if neither is known.

    Args:
        strict: from the worse of the two.
    """
    known = [
        (moved, limits) for moved, limits in ((measures.bleed, BLEED), (measures.drift, DRIFT)) if moved is not None
    ]
    kept = [min(1.0, max(0.0, (high - moved) / (high - low))) for moved, (low, _, high) in known]
    return min(kept if strict else kept[:1], default=1.0)


def faults(measures: Measures) -> list[tuple[float, str]]:
    """The faults of a file: (how much it subtracts from the score, sentence)."""
    faults: list[tuple[float, str]] = []
    if measures.bleed is not None:
        if measures.bleed >= BLEED[1]:
            text = f"Everyday prompts bleed by {percent(measures.bleed)}: other subjects suffer."
            faults.append((0.0, text))
    elif measures.drift is not None and measures.drift >= DRIFT[1]:
        text = f"Predictions for everyday prompts moved by {percent(measures.drift)}: other subjects suffer."
        faults.append((0.0, text))
    if measures.response is not None and measures.response < WEAK_RESPONSE:
        text = f"The rest of a prompt has {percent(measures.response)} of its effect in the base model."
        faults.append((WEAK_RESPONSE - measures.response, text))
    for name, ratio in measures.burn.items():
        low, high = BURNT[name]
        if not low <= ratio <= high:
            text = f"Samples have {ratio:.1f} times the {_LOOKS[name]} of base and training images."
            faults.append((0.2, text))
    if measures.copying is not None and measures.copying >= COPIED:
        faults.append((0.1, f"A sample is nearly a copy of {measures.copied} ({percent(measures.copying)})."))
    elif measures.latent_copying is not None and _is_copied(measures.latent_copying, measures.latent_base):
        value = percent(measures.latent_copying)
        faults.append((0.1, f"A sample is nearly a copy of {measures.latent_copied} ({value} in latents)."))
    if measures.gap is not None and measures.train_gain and measures.gap > WIDE_GAP * measures.train_gain:
        text = f"Training images gained {percent(measures.gap)} more than validation images."
        faults.append((0.1, text))
    return faults


def _is_copied(value: float, base: float | None) -> bool:
    least, rise = COPIED_LATENT
    return value >= least and (base is None or value - base >= rise)


_LOOKS = {
    "saturation": "colour saturation", "clipped": "clipped light and dark", "contrast": "local contrast",
    "detail": "fine detail",
}  # fmt: skip


def _speed(run: Sequence[Measures], index: int) -> float | None:
    """How fast the file learned since the previous one, relative to the average since the start; both per sum of
    learning rates, since a falling rate alone makes learning slow."""
    now, before = run[index], run[index - 1] if index else None
    gain = now.gain
    if gain is None or not now.rate_sum or gain <= 0:
        return None
    if before is None:
        return 1.0
    earlier, rates = before.gain, now.rate_sum - before.rate_sum
    if earlier is None or rates <= 0 or gain - earlier < GROWTH * gain:
        return None
    return (gain - earlier) / rates / (gain / now.rate_sum)


def _missing(measures: Measures) -> tuple[str, ...]:
    absent = {
        "validation images": measures.learned, "captions that differ": measures.response,
        "samples at this step": measures.copying,
    }  # fmt: skip
    if measures.copying is not None and not measures.burn:
        absent["samples of the base model (sampling.sample_at_first)"] = None
    return tuple(name for name, value in absent.items() if value is None)


def _choose(
    judged: Sequence[JudgedFile], steps_left: int
) -> tuple[JudgedFile | None, tuple[str, ...], tuple[str, ...]]:
    """The recommended file, why, and what to do next."""
    ranked = [file for file in judged if file.verdict.score is not None]
    if not ranked:
        return None, ("No file can be recommended: nothing was measured. Compare the samples.",), ()
    good = [file for file in ranked if file.verdict.kind != "overtrained"] or ranked
    highest = max(file.verdict.score or 0.0 for file in good)
    best = next(
        file
        for file in good
        if (file.verdict.score or 0.0) >= highest - (ALIKE if file.verdict.kind == "good" else 0.0)
    )
    return best, best.verdict.reasons, tuple(_advice(judged, best, steps_left))


def _advice(judged: Sequence[JudgedFile], best: JudgedFile, steps_left: int) -> list[str]:
    kinds = [file.verdict.kind for file in judged]
    advice = []
    if best.verdict.kind == "undertrained" and steps_left > 0:
        advice.append(f"Resume this run: {plural(steps_left, 'step')} of it are left.")
    elif best.verdict.kind == "undertrained":
        advice.append("Train 2 or 3 epochs more: resume this run with a higher number of steps or epochs.")
    if best.verdict.kind == "overtrained":
        which = "first" if judged[0] is best else "best"
        advice.append(
            f"Even the {which} file is overtrained: use it at a lower strength, or train again with half the learning "
            "rates, and save more often."
        )
    if best.measures.response is not None and best.measures.response < WEAK_RESPONSE:
        advice.append("Use more varied images, and describe in the captions what should stay changeable.")
    if is_repetitive([file.measures for file in judged]):
        advice.append("Use more varied images: most of these are versions of others, and so are validation images.")
    gap, trained = best.measures.gap, best.measures.train_gain
    if gap is not None and trained and gap > WIDE_GAP * trained:
        advice.append("Use more, and more varied, images: most of the gain is on the training images themselves.")
    if kinds.count("good") > 1 and best.verdict.kind == "good":
        advice.append("Other files are good as well: compare their samples and choose.")
    return advice
