"""From a run to figures that every view shows: the process, its record, `lorasmith best`, the page, the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.exit_codes import ExitCode
from engine.results.record import read_run
from engine.results.report import write_report
from engine.results.similarity import Similarity, compute, read_similarity
from engine.runs import RunDir
from engine.runs.events import ValidationEvent
from tests.fake_run import PlayedTrainer, prepared_run, trained_on_copies
from tests.refusals import refused
from tui import main
from tui.text.results import reasons


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A finished run with two files and samples of the base model and of both."""
    for name in ("CACHE", "CONFIG", "STATE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    made = trained_on_copies(tmp_path)
    trainer = PlayedTrainer(made)
    trainer.sample()
    trainer.events.emit(ValidationEvent(step=0, loss=0.4))
    for loss in (0.2, 0.19):
        trainer.train(10)
        trainer.save(validation_loss=loss)
        trainer.sample()
    trainer.end()
    return made


def test_figures_are_computed_kept_and_shown(
    run_dir: RunDir, clip: Path, vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_run(run_dir)
    assert before.similarity == Similarity() and "other models" not in page(run_dir, tmp_path)
    assert main.run(["best", str(run_dir.path), "--with-clip", str(clip)]) == ExitCode.DONE
    assert "These figures do not count in the verdicts." in capsys.readouterr().out
    first = read_similarity(run_dir)
    assert first.figures() == ["clip_i", "clip_t"] and list(first.steps) == [0, 10, 20]
    assert all(-1 <= value <= 1 for values in first.steps.values() for value in values.values())
    assert main.run(["best", str(run_dir.path), "--with-dino", str(vit), "--json"]) == ExitCode.DONE
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["files"][0]["similarity"]) == {"clip_i", "clip_t", "dino"}
    assert shown["similarity"]["models"] == {"clip_i": "tiny-clip", "clip_t": "tiny-clip", "dino": "tiny-vit"}
    record = read_run(run_dir)
    assert {key: record.similarity.steps[10][key] for key in first.steps[10]} == first.steps[10], "kept"
    assert record.assessment == before.assessment, "no part of the verdict"

    assert main.run(["best", str(run_dir.path)]) == ExitCode.DONE
    shown = capsys.readouterr().out
    for value in record.similarity.steps[20].values():
        assert f"{value:.3f}" in shown
    html = page(run_dir, tmp_path)
    assert "Similarity by other models" in html and f"{record.similarity.steps[0]['dino']:.3f}" in html
    text = reasons(record.assessment.files[0], record.assessment, record.similarity).splitlines()[-1]
    assert text.startswith(f"CLIP-I {record.similarity.steps[10]['clip_i']:.3f} (base ") and "not part of" in text


def page(run_dir: RunDir, place: Path) -> str:
    write_report(read_run(run_dir), place / "page.html")
    return (place / "page.html").read_text("utf-8")


def test_errors_of_the_process_are_raised_here(run_dir: RunDir, vit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused("embedder-of-other-type"):
        compute(run_dir, [10], "robot", clip=vit)
    assert main.run(["best", str(run_dir.path), "--with-clip", "/nowhere"]) == ExitCode.BAD_DATA
    assert "config.json is missing" in capsys.readouterr().err
    assert not run_dir.similarity_path.exists()


def strange(run_dir: RunDir) -> None:
    meta = json.loads(run_dir.meta_path.read_text())
    run_dir.meta_path.write_text(json.dumps({**meta, "host": "another"}))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (strange, "training-images-unknown"),
        (lambda run_dir: run_dir.inputs_path.unlink(), "training-images-unknown"),
        (lambda run_dir: [path.unlink() for path in run_dir.samples.glob("*_0000[12]0_*")], "run-without-samples"),
    ],
)
def test_what_a_run_lacks_is_one_sentence(
    run_dir: RunDir, change: Callable[[RunDir], Any], code: str, vit: Path
) -> None:
    change(run_dir)
    with refused(code):
        compute(run_dir, [10, 20, None], "robot", dino=vit)


@pytest.mark.parametrize(
    "content",
    [
        "[]", "{", '{"figures": 3}', '{"figures": {"dino": []}}', '{"figures": {"dino": {"steps": [1]}}}',
        '{"figures": {"dino": {"steps": {"x": 1, "-5": 0.5, "5": "0.5", "6": 1e99, "99999999999999999": 0.1}}}}',
    ],
)  # fmt: skip
def test_a_record_that_is_none_gives_nothing(tmp_path: Path, content: str) -> None:
    run_dir = prepared_run(tmp_path)
    run_dir.similarity_path.write_text(content)
    assert read_similarity(run_dir) == Similarity()
    assert Similarity().line(5) == "" and Similarity({5: {"dino": 0.5}}, {}).line(None) == ""
