"""`lorasmith report` and `lorasmith compare`: what they print, where they write, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.exit_codes import ExitCode
from engine.runs import RunDir
from engine.runs.events import ValidationEvent
from engine.runs.remove import remove_run
from tests.fake_run import PlayedTrainer, prepared_run
from tests.refusals import require
from tui import main


@pytest.fixture
def run_dir(place: Path) -> RunDir:
    """A finished run with two files; the first is the better one."""
    return finished(place, "robot", (0.1, 0.2))


def finished(place: Path, name: str, losses: tuple[float, ...]) -> RunDir:
    made = prepared_run(place, name)
    trainer = PlayedTrainer(made)
    trainer.events.emit(ValidationEvent(step=0, loss=0.4))
    for loss in losses:
        trainer.train(10)
        trainer.save(validation_loss=loss)
        trainer.sample()
    trainer.end()
    return made


def test_a_report_goes_into_the_run(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["report", "robot"], ["report", str(run_dir.path), "--html"]):
        assert main.run(arguments) == ExitCode.DONE
        printed = capsys.readouterr()
        assert printed.out == f"{run_dir.path / 'robot_report.html'}\n"
        assert "4 images, one file without links to others." in printed.err
    assert "robot-step00000010.safetensors" in run_dir.report_path.read_text("utf-8")


def test_a_file_of_another_is_not_overwritten(
    run_dir: RunDir, place: Path, capsys: pytest.CaptureFixture[str], shown: list[Exception]
) -> None:
    page = place / "notes.html"
    page.write_text("my notes")
    for arguments in (["report", "robot", "--html", str(page)], ["compare", "robot", "robot", "--html", str(page)]):
        assert main.run(arguments) == ExitCode.USAGE
        require(shown[-1], "output-exists", page, "--overwrite")
        assert not capsys.readouterr().out
        assert page.read_text() == "my notes"
    assert main.run(["report", "robot", "--html", str(page), "--overwrite"]) == ExitCode.DONE
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_a_place_that_cannot_be_written(run_dir: RunDir, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("x")
    assert main.run(["report", "robot", "--html", str(place / "file" / "page.html")]) == ExitCode.NO_SPACE
    assert "cannot be written" in capsys.readouterr().err


def test_no_such_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["report", "nobody"]) == ExitCode.USAGE
    assert "There is no run 'nobody'." in capsys.readouterr().err


def test_a_comparison_fits_eighty_columns(run_dir: RunDir, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(place, "droid-with-a-name-that-is-much-longer-than-one-column", (0.3, 0.05))
    assert main.run(["compare", "robot", "droid"]) == ExitCode.DONE
    lines = capsys.readouterr().out.splitlines()
    table = lines[2:]
    assert max(map(len, table)) <= 80
    printed = "\n".join(table)
    for words in (
        "Best file",
        "✓ good",
        "87.5 %",
        "0.0500 ◂",
        "0.1000 ◂",
        "Settings that differ",
        "seed in two runs: 2",
    ):
        assert words in printed, words


def test_a_comparison_as_json_and_page(run_dir: RunDir, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(place, "droid", (0.3, 0.05))
    page = place / "compare.html"
    assert main.run(["compare", "robot", "droid", "--json", "--html", str(page)]) == ExitCode.DONE
    printed = capsys.readouterr()
    listed = json.loads(printed.out)
    assert [run["name"] for run in listed["runs"]] == ["robot", "droid"] and str(page) in printed.err
    assert "A robot · B droid" in page.read_text("utf-8")


@pytest.mark.parametrize("arguments", [[], ["robot"], ["robot"] * 7])
def test_a_comparison_of_too_few_or_too_many(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main.run(["compare", *arguments]) == ExitCode.USAGE
    assert f"of 2 to 6 runs; {len(arguments)} named" in capsys.readouterr().err


def test_a_report_goes_with_its_run(run_dir: RunDir) -> None:
    assert main.run(["report", "robot"]) == ExitCode.DONE
    remove_run(run_dir)
    assert not run_dir.path.exists()
