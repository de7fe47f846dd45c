"""Comparing runs: which prompts belong together, what is asked for, what the JSON holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.results.comparison import compare, matched_prompts
from engine.results.record import RunRecord, read_run
from engine.runs import RunDir
from engine.runs.events import SampleEvent, ValidationEvent
from tests.engine.results.conftest import Make
from tests.fake_run import PlayedTrainer, prepared_run
from tests.refusals import refused


def drawn(place: Path, name: str, prompts: list[tuple[str, int | None]]) -> RunRecord:
    """A run with samples of these prompts and seeds at step 0 and 5, and the trigger `name`."""
    run_dir: RunDir = prepared_run(place, name)
    trainer = PlayedTrainer(run_dir)
    run_dir.samples.mkdir()
    for step in (0, 5):
        for index, (prompt, seed) in enumerate(prompts):
            end = "" if seed is None else f"_{seed}"
            path = run_dir.samples / f"{name}_{step:06d}_{index:02d}_20261129050610{end}.png"
            path.write_bytes(b"")
            trainer.events.emit(SampleEvent(path=str(path), prompt=prompt, index=index, step=step))
    trainer.end()
    return read_run(run_dir)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([("a cat", 1)], [("a cat", 1)], [("a cat", 1, (0, 0))]),
        ([("a cat", 1)], [("a cat", 2)], []),
        ([("a cat", None)], [("a cat", None)], [("a cat", None, (0, 0))]),
        ([("a cat", 1), ("a dog", 2)], [("a dog", 2), ("a cow", 1)], [("a dog", 2, (1, 0))]),
        ([("one runs", 1)], [("two runs", 1)], [("{trigger} runs", 1, (0, 0))]),
        ([("one and two", 1)], [("one and two", 1)], [("one and two", 1, (0, 0))]),
        ([("a cat", 1), ("a cat", 1)], [("a cat", 1)], [("a cat", 1, (0, 0))]),
    ],
)
def test_prompts_that_belong_together(
    tmp_path: Path, first: list[tuple[str, int | None]], second: list[tuple[str, int | None]], expected: list[object]
) -> None:
    runs = [drawn(tmp_path / "1", "one", first), drawn(tmp_path / "2", "two", second)]
    assert [(matched.prompt, matched.seed, matched.indexes) for matched in matched_prompts(runs)] == expected


@pytest.mark.parametrize(("second", "is_remarked"), [(0.5, False), (0.503, False), (0.55, True), (None, False)])
def test_losses_from_other_images_are_remarked(tmp_path: Path, second: float | None, is_remarked: bool) -> None:
    runs = []
    for name, loss in (("one", 0.5), ("two", second)):
        trainer = PlayedTrainer(prepared_run(tmp_path, name))
        if loss is not None:
            trainer.events.emit(ValidationEvent(step=0, loss=loss))
        trainer.end()
        runs.append(read_run(trainer.run_dir))
    remark = compare(runs).loss_remark()
    assert bool(remark) is is_remarked and ("0.5000, 0.5500" in remark) is is_remarked


def test_a_prompt_that_a_third_run_lacks(tmp_path: Path) -> None:
    runs = [drawn(tmp_path / str(place), name, [("a cat", seed)])
            for place, (name, seed) in enumerate([("one", 1), ("two", 2), ("three", 1)])]  # fmt: skip
    (matched,) = matched_prompts(runs)
    assert matched.indexes == (0, None, 0) and matched.runs[1] is None
    assert matched.runs[0] is not None and matched.runs[0].base and matched.runs[0].base != matched.runs[0].last


def test_too_few_too_many_or_the_same_twice(trained: Make) -> None:
    run = read_run(trained())
    for runs, code, part in (
        ([run], "comparison-wrong-count", "2 to 6 runs; 1 named"),
        ([run] * 7, "comparison-wrong-count", "7 named"),
        ([run, run], "run-named-twice", run.name),
    ):
        with refused(code, part):
            compare(runs)


def test_the_json_has_all_of_it(trained: Make) -> None:
    runs = [trained("robot", (0.2, 0.15, 0.18)), trained("droid", (0.3, 0.2), training={"unet_lr": 2e-4})]
    report = json.loads(json.dumps(compare([read_run(run) for run in runs]).as_json()))
    assert [run["letter"] for run in report["runs"]] == ["A", "B"]
    best = report["runs"][0]["best"]
    assert (best["step"], best["verdict"], best["measures"]["validation_loss"]) == (20, "good", 0.15)
    assert best["measures"]["learned"] == pytest.approx(0.625)
    rate = {"key": "training.unet_lr", "title": "U-Net learning rate", "values": ["unset", "0.0002"]}
    assert rate in report["settings"]
    assert report["validation_losses"][-1] == {"step": 30, "losses": [0.18, None]}
    images = report["prompts"][0]["images"]
    assert Path(images[0]["base"]).is_file() and images[0]["best"] != images[0]["last"]
