"""Finding runs again: by path, by name, from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.paths import user_state
from engine.runs import RunDir, find_runs, prepare_run, record_run, resolve, resolve_live, write_exit
from engine.runs.identity import boot_id, host
from engine.runs.state import mark_starting
from tests.refusals import refused


def make(tmp_path: Path, name: str) -> RunDir:
    output = str(tmp_path / name / "results_current")
    return prepare_run(RunConfig().changed(saving={"output_name": name, "output_dir": output}))


def finish(run_dir: RunDir) -> None:
    mark_starting(run_dir, {"pid": 1, "process_start": -1.0, "boot_id": boot_id(), "host": host()})
    write_exit(run_dir, "finished", 0, 1)


def test_runs_below_the_directory_and_recorded_ones(tmp_path: Path) -> None:
    inside, outside = make(tmp_path / "here", "cat"), make(tmp_path / "there", "dog [1]")
    assert [run.name for run in find_runs([tmp_path / "here"])] == ["cat"]
    assert record_run(outside) is None
    with (user_state() / "runs.jsonl").open("ab") as file:
        file.write(b'{"path": "/gone"}\nnonsense\n{"pa')
    assert {run.run_dir for run in find_runs([tmp_path / "here"])} == {inside, outside}
    assert [run.name for run in find_runs()] == ["dog [1]"]


def test_an_unwritable_list_is_reported(prepared: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert "name it by its path" in (record_run(prepared) or "")


def test_a_run_is_meant_by_path_or_part_of_a_name(tmp_path: Path) -> None:
    cat, category = make(tmp_path, "cat"), make(tmp_path, "category")
    for text, meant in (
        (str(cat.path), cat), (str(cat.path.parent), cat), (str(cat.config_path), cat), ("cat", cat),
        ("egory", category),
    ):  # fmt: skip
        assert resolve(text, [tmp_path]) == meant
    with refused("run-ambiguous", "2 runs", "'at'", cat.path, category.path):
        resolve("at", [tmp_path])
    with refused("run-missing", "'dog'", cat.path):
        resolve("dog", [tmp_path])


def test_without_a_name_the_only_run_that_trains_is_meant(tmp_path: Path) -> None:
    with refused("run-missing", "No run is training", "No run is known"):
        resolve_live([tmp_path])
    cat, dog = make(tmp_path, "cat"), make(tmp_path, "dog")
    finish(cat)
    finish(dog)
    with refused("run-missing", "Name the run to show", cat.path, dog.path):
        resolve_live([tmp_path])
    bird = make(tmp_path, "bird")
    assert resolve_live([tmp_path]) == bird
    fish = make(tmp_path, "fish")
    with refused("run-ambiguous", "2 runs are training", bird.path, fish.path):
        resolve_live([tmp_path])


def test_the_current_run_goes_before_its_earlier_ones(tmp_path: Path) -> None:
    run_dir = make(tmp_path, "cat")
    for _ in range(2):
        finish(run_dir)
        make(tmp_path, "cat")
    runs = find_runs([tmp_path])
    assert [run.archived for run in runs].count(True) == 2 and runs[0].run_dir == run_dir
    assert resolve("cat", [tmp_path]) == run_dir
    archive = next(run.run_dir for run in runs if run.archived)
    assert resolve(archive.path.name, [tmp_path]) == archive


def test_without_any_run(tmp_path: Path) -> None:
    with refused("run-missing", "'x'") as caught:
        resolve("x", [tmp_path])
    assert "No run is known" in caught.value.hint
