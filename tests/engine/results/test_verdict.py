"""Verdicts from tables of measures: which file, why, and what next."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engine.results.measures import MeasureBook, Measures
from engine.results.verdict import JudgedFile, assess, judge, past_best
from engine.runs.events import event_of
from engine.runs.history import SavedFile


def measures(step: int, learned: float | None, **more: Any) -> Measures:
    """Base losses are 1, so that a loss is 1 less what was learned; training images gained as much."""
    loss = None if learned is None else 1 - learned
    gained = more.pop("trained", learned)
    rate_sum = more.pop("rate_sum", float(step))
    train = None if gained is None else 1 - gained
    return Measures(step, loss, train, None if loss is None else 1.0, 1.0, rate_sum=rate_sum, **more)


def kinds(*run: Measures) -> list[str]:
    return [verdict.kind for verdict in judge(run)]


CASES: tuple[tuple[str, list[Measures], list[str]], ...] = (
    ("nothing measured", [measures(10, None, trained=None)], ["undecidable"]),
    ("one that was not", [measures(10, 0.3, rate_sum=0), measures(20, None, trained=None)], ["good", "undecidable"]),
    ("rises, and is flat at the end", [measures(10, 0.2), measures(20, 0.38), measures(30, 0.39)],
     ["undertrained", "good", "good"]),
    ("still rising at the end", [measures(10, 0.1), measures(20, 0.2), measures(30, 0.3)],
     ["undertrained", "undertrained", "undertrained"]),
    ("slow only because the rate fell", [measures(10, 0.2, rate_sum=10), measures(20, 0.22, rate_sum=10.4)],
     ["undertrained", "undertrained"]),
    ("the last bit of a falling rate", [measures(10, 0.2, rate_sum=10), measures(20, 0.203, rate_sum=10.01)],
     ["good", "good"]),
    ("falls again", [measures(10, 0.25), measures(20, 0.4), measures(30, 0.3)],
     ["undertrained", "good", "overtrained"]),
    ("a little less is no loss", [measures(10, 0.4), measures(20, 0.38)], ["good", "good"]),
    ("worse than the base", [measures(10, -0.1), measures(20, -0.4)], ["undertrained", "overtrained"]),
    ("other subjects suffer", [measures(10, 0.4, drift=0.3), measures(20, 0.41, drift=0.7)],
     ["good", "overtrained"]),
    ("the prompt hardly counts", [measures(10, 0.4, response=1.0), measures(20, 0.41, response=0.4)],
     ["good", "overtrained"]),
    ("other subjects suffer more than the file learned", [measures(10, 0.4, drift=0.2), measures(20, 0.42, drift=0.58)],
     ["good", "good"]),
    ("flat white is no fault", [measures(10, 0.4), measures(20, 0.41, burn={"clipped": 2.0})], ["good", "good"]),
    ("nothing learned, whatever the samples look like", [measures(3, 0.001, burn={"clipped": 4.0}), measures(6, 0.002)],
     ["undertrained", "undertrained"]),
    ("nothing learned, then harm", [measures(10, 0.002), measures(90, -0.5)], ["undertrained", "overtrained"]),
    ("burnt", [measures(10, 0.4), measures(20, 0.41, burn={"contrast": 2.0})], ["good", "overtrained"]),
    ("copies", [measures(10, 0.4), measures(20, 0.41, copying=0.95, copied="a.png")], ["good", "overtrained"]),
    ("copies in latents", [measures(10, 0.4, latent_copying=0.69), measures(20, 0.41, latent_copying=0.7)],
     ["good", "overtrained"]),
    ("alike in latents as the base's sample is", [measures(10, 0.4, latent_copying=0.95, latent_base=0.6),
     measures(20, 0.41, latent_copying=0.95, latent_base=0.7)], ["overtrained", "good"]),
    ("by heart", [measures(10, 0.3, trained=0.6), measures(20, 0.29, trained=0.9)], ["good", "overtrained"]),
    ("not by heart: two validation images are few", [measures(10, 0.3, trained=0.5), measures(20, 0.3, trained=0.6)],
     ["good", "good"]),
    ("validation images unlearned", [measures(10, 0.4, trained=0.5), measures(20, 0.31, trained=0.7)],
     ["good", "overtrained"]),
    ("a validation image that is odd", [measures(10, 0.4, trained=0.5), measures(20, 0.35, trained=0.6)],
     ["good", "good"]),
    ("everyday prompts bleed", [measures(10, 0.4, bleed=0.5), measures(20, 0.41, bleed=0.7)], ["good", "overtrained"]),
    ("bleed counts before drift", [measures(10, 0.4, bleed=0.3, drift=0.7), measures(20, 0.41, bleed=0.7, drift=0.2)],
     ["good", "overtrained"]),
    ("still rising, and bleeding", [measures(10, 0.3, bleed=0.4), measures(20, 0.4, bleed=0.7)],
     ["good", "overtrained"]),
    ("without validation images", [measures(10, None, trained=0.2), measures(20, None, trained=0.5),
                                   measures(30, None, trained=0.51)], ["undertrained", "good", "good"]),
)  # fmt: skip


@pytest.mark.parametrize(("run", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_kinds(run: list[Measures], expected: list[str]) -> None:
    assert kinds(*run) == expected
    assert all(verdict.reasons and all(text.endswith(".") for text in verdict.reasons) for verdict in judge(run))


def assessed(*run: Measures, steps_left: int = 0) -> Any:
    book = MeasureBook()
    files = [SavedFile(Path(f"/r/robot-{entry.step}.safetensors"), 1, entry.step, 1) for entry in run]
    book.at = {entry.step: entry for entry in run}.__getitem__  # type: ignore[method-assign]
    return assess(files, book, steps_left)


def test_a_stopped_run_is_resumed_and_not_made_longer() -> None:
    still_learning = [measures(10, 0.1), measures(20, 0.2), measures(30, 0.3)]
    assert assessed(*still_learning, steps_left=85).advice[0] == "Resume this run: 85 steps of it are left."
    assert "Train 2 or 3 epochs more" in assessed(*still_learning).advice[0]


@pytest.mark.parametrize(
    ("run", "step", "advice"),
    [
        ([measures(10, 0.2), measures(20, 0.38), measures(30, 0.39)], 20, "compare their samples"),
        ([measures(10, 0.3), measures(20, 0.4), measures(30, 0.3)], 20, ""),
        ([measures(10, 0.1), measures(20, 0.2), measures(30, 0.3)], 30, "Train 2 or 3 epochs more"),
        ([measures(10, 0.4, drift=0.65), measures(20, 0.41, drift=0.8)], 10, "Even the first file is overtrained"),
        ([measures(10, 0.1, drift=0.65), measures(20, 0.41, drift=0.8)], 20, "Even the best file is overtrained"),
        ([measures(10, 0.4, response=0.3)], 10, "more varied images"),
        ([measures(10, 0.4, drift=0.2), measures(20, 0.42, drift=0.58)], 10, "compare their samples"),
        # equally good, and a plateau: the first; nearly as good, but the run still learns: the highest
        ([measures(10, 0.395), measures(20, 0.4), measures(30, 0.4)], 10, "compare their samples"),
        ([measures(10, 0.1), measures(20, 0.188), measures(30, 0.2, rate_sum=22)], 30, "Train 2 or 3 epochs more"),
        # of what is learned of versions of a few images, the last part is those images
        ([measures(10, 0.34, repeated=0.4), measures(20, 0.4, repeated=0.4)], 20, ""),
        ([measures(10, 0.34, repeated=0.5), measures(20, 0.4, repeated=0.5)], 10, "versions of others"),
        # bleed alone counts, and the worse of both
        ([measures(10, 0.36, bleed=0.5, drift=0.3), measures(20, 0.4, bleed=0.5, drift=0.5)], 20, ""),
        (
            [
                measures(10, 0.36, bleed=0.5, drift=0.3, repeated=0.8),
                measures(20, 0.4, bleed=0.5, drift=0.5, repeated=0.8),
            ],
            10,
            "versions of others",
        ),
        ([measures(10, 0.2, repeated=0.8), measures(20, 0.4, repeated=0.8)], 20, "versions of others"),
    ],
)
def test_the_recommended_file_and_what_next(run: list[Measures], step: int, advice: str) -> None:
    assessment = assessed(*run)
    assert assessment.best.file.step == step and assessment.why == assessment.best.verdict.reasons
    assert advice in " ".join(assessment.advice)


def test_without_measures_nothing_is_recommended() -> None:
    assessment = assessed(measures(10, None, trained=None))
    assert assessment.best is None and "nothing was measured" in assessment.why[0]
    assert assess([], MeasureBook()).best is None


@pytest.mark.parametrize(
    ("run", "ends"),
    [
        ([measures(10, 0.4), measures(20, 0.3), measures(30, 0.2)], True),
        ([measures(10, 0.4), measures(20, 0.3)], False),
        ([measures(10, 0.2), measures(20, 0.4), measures(30, 0.3)], False),
        ([measures(10, 0.4), measures(20, 0.3), measures(30, 0.41)], False),
        ([measures(10, 0.4, drift=1), measures(20, 0.3, drift=1), measures(30, 0.2, drift=1)], False),
    ],
)
def test_past_best(run: list[Measures], ends: bool) -> None:
    reason = past_best(assessed(*run))
    assert reason == ("The files of steps 20 and 30 are overtrained; that of step 10 is the best." if ends else "")


def test_any_measures_give_a_verdict_and_a_file_of_the_run() -> None:
    rng = random.Random(7)

    def some(low: float, high: float) -> float | None:
        return None if rng.random() < 0.3 else rng.uniform(low, high)

    for _ in range(300):
        run = [
            measures(10 * n, some(-1, 1), trained=some(-1, 1), drift=some(0, 2), response=some(-1, 2),
                     copying=some(0, 1), burn={"detail": rng.uniform(0, 3)}, rate_sum=rng.choice((0.0, 10.0 * n)))
            for n in range(1, rng.randint(2, 7))
        ]  # fmt: skip
        assessment = assessed(*run)
        assert all(isinstance(file, JudgedFile) and file.verdict.reasons for file in assessment.files)
        assert assessment.best is None or assessment.best in assessment.files


def test_the_book_reads_hostile_events() -> None:
    book = MeasureBook()
    for data in ({"step": 5, "loss": "x", "loss_t200": [], "burn": 3}, {"step": -1, "loss": 1}, {"step": True}, {}):
        for kind in ("validation", "measures", "sample_measures", "step", "other"):
            book.take(event_of(kind, {**data, "lr": "fast", "copied": 3}))
    assert book.steps() == [5]
    assert (book.at(5).learned, book.at(5).burn, book.at(5).copied, book.at(5).rate_sum) == (None, {}, "", 0.0)


@pytest.mark.parametrize("has_base", [True, False])
def test_without_samples_of_the_base_model_their_look_is_not_judged(has_base: bool) -> None:
    """The clipped light may be the base model's own, or that of its guidance."""
    book = MeasureBook()
    if has_base:
        book.take(event_of("sample", {"path": "0.png", "prompt": "a", "index": 0, "step": 0}))
    book.take(event_of("sample_measures", {"step": 5, "burn": {"clipped": 4.0}}))
    assert book.at(5).burn == ({"clipped": 4.0} if has_base else {})


def test_a_run_that_ended_before_its_first_check_is_not_called_unmeasurable() -> None:
    book = MeasureBook()
    book.take(event_of("validation", {"step": 0, "loss": 0.5}))
    (verdict,) = judge([book.at(5)])
    assert verdict.kind == "undecidable" and "the run ended before" in verdict.reasons[0]
    (verdict,) = judge([MeasureBook().at(5)])
    assert "training.max_check_share above 0" in verdict.reasons[0]


def test_the_sum_of_rates_counts_a_step_once() -> None:
    book = MeasureBook()
    for step in (1, 2, 3, 2, 3, 4):  # resumed after step 3 from the state of step 1
        book.take(event_of("step", {"step": step, "lr": {"unet": 0.1, "text_encoder": 0.05}}))
        book.take(event_of("validation", {"step": step, "loss": 0.5}))
    assert book.at(4).rate_sum == pytest.approx(0.4)
