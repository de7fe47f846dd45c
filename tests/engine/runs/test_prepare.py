"""Making the run directory: nothing is overwritten, no two runs in one place."""

from __future__ import annotations

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.load import load_config
from engine.errors import StorageError, UsageError
from engine.exit_codes import ExitCode
from engine.runs import RunDir, prepare_run, true_state, write_exit
from engine.runs.identity import boot_id, host
from engine.runs.prepare import absolute_paths, session_id
from engine.runs.state import mark_starting
from tests.refusals import refused

DEAD = {"pid": 1, "process_start": -1.0, "boot_id": boot_id(), "host": host()}


def end(run_dir: RunDir, state: str = "finished", code: int = 0) -> None:
    mark_starting(run_dir, DEAD)
    if state != "lost":
        write_exit(run_dir, state, code, 7)


def archives(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.name.startswith("results_2"))


def test_names_are_kohyas(prepared: RunDir) -> None:
    names = [prepared.lora_path(epoch=3), prepared.lora_path(step=150), prepared.lora_path()]
    assert [path.name for path in names] == [
        "robot-000003.safetensors", "robot-step00000150.safetensors", "robot.safetensors",
    ]  # fmt: skip
    when = datetime(2026, 11, 22, 5, 6, 7, tzinfo=UTC)
    assert prepared.sample_path(2, when, step=150).name == "robot_000150_02_20261122050607.png"
    assert prepared.sample_path(0, when, epoch=3, seed=9).name == "robot_e000003_00_20261122050607_9.png"
    assert prepared.samples == prepared.path / "sample"


def test_the_directory_describes_the_complete_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000")
    run_dir = prepare_run(config, command_line=["lorasmith", "--preset", "\udcff"], versions={"torch": "2.13.0"})
    meta = run_dir.meta
    assert meta["name"] == run_dir.name == "robot"
    assert meta["versions"] == {"torch": "2.13.0"} and meta["command_line"][-1] == "\udcff"
    assert meta["started_at"] == 1000 and 0 <= meta["session_id"] < 2**32
    assert load_config(run_dir.config_path) == config
    assert true_state(run_dir).state == "starting"


def test_the_session_is_that_of_the_configuration(config: RunConfig) -> None:
    first = prepare_run(config).meta["session_id"]
    second = prepare_run(config.changed(saving={"output_dir": config.saving.output_dir + "2"})).meta["session_id"]
    other = prepare_run(config.changed(training={"seed": 1}, saving={"output_dir": config.saving.output_dir + "3"}))
    assert first == second != other.meta["session_id"]
    assert session_id(1, "a", "b") != session_id(1, "ab", "")


def test_the_default_place_is_the_projects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": "näme [1]"}))
    assert run_dir.path == tmp_path / "näme [1]" / "results_current"
    assert run_dir.config_path.is_file()


def test_paths_become_absolute_and_prompts_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    config = RunConfig().changed(
        dataset={"train_data_dir": "images"},
        model={"pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5"},
        sampling={"sample_prompts": "a red robot"},
        saving={"output_dir": "out"},
    )
    changed = absolute_paths(config)
    assert changed.dataset.train_data_dir == str(tmp_path / "images")
    assert changed.saving.output_dir == str(tmp_path / "out")
    assert changed.model == config.model and changed.sampling == config.sampling


def test_a_path_that_toml_cannot_hold(config: RunConfig) -> None:
    with refused("path-not-utf8"):
        prepare_run(config.changed(dataset={"train_data_dir": "/images \udcff"}))
    assert not Path(config.saving.output_dir).exists()


def test_a_finished_run_is_renamed(config: RunConfig, prepared: RunDir) -> None:
    prepared.lora_path().write_bytes(b"first")
    end(prepared)
    logged: list[str] = []
    prepare_run(config, log=logged.append)
    (archive,) = archives(prepared.path.parent)
    assert (archive / "robot.safetensors").read_bytes() == b"first"
    assert RunDir(archive).name == "robot" and true_state(RunDir(archive)).state == "finished"
    assert not prepared.lora_path().exists() and str(archive) in logged[0]


def test_twice_in_one_second_gives_two_names(config: RunConfig, prepared: RunDir) -> None:
    for _ in range(3):
        end(prepared)
        prepare_run(config)
    assert len(archives(prepared.path.parent)) == 3


def test_in_another_directory_only_the_runs_files_move(config: RunConfig, tmp_path: Path) -> None:
    loras = tmp_path / "loras"
    config = config.changed(saving={"output_dir": str(loras)})
    run_dir = prepare_run(config)
    kept = [loras / "other.safetensors", loras / "robot-v2.safetensors", loras / "robot.txt"]
    names = ("robot.safetensors", "robot-000001.safetensors", "robot-step00000010.safetensors")
    moved = [loras / name for name in names]
    run_dir.samples.mkdir()
    kept.append(run_dir.samples / "other_000000_00_20260101000000.png")
    moved.append(run_dir.samples / "robot_000000_00_20260101000000.png")
    for path in kept + moved:
        path.write_bytes(b"x")
    end(run_dir)
    prepare_run(config)
    (archive,) = archives(loras)
    assert all(path.exists() for path in kept) and not any(path.exists() for path in moved)
    assert all((archive / path.relative_to(loras)).exists() for path in moved)
    assert RunDir(archive).config_path.is_file() and true_state(RunDir(archive)).state == "finished"


def test_files_of_others_are_not_overwritten(config: RunConfig) -> None:
    output = Path(config.saving.output_dir)
    output.mkdir(parents=True)
    (output / "robot.safetensors").write_bytes(b"made by another program")
    logged: list[str] = []
    prepare_run(config, log=logged.append)
    (archive,) = archives(output)
    assert (archive / "robot.safetensors").read_bytes() == b"made by another program"
    assert str(archive) in logged[0]


@pytest.mark.parametrize(("state", "code"), [("lost", None), ("stopped", 6), ("failed", 1)])
def test_an_unfinished_run_is_not_overwritten(config: RunConfig, prepared: RunDir, state: str, code: int) -> None:
    prepared.checkpoints.mkdir()
    (prepared.checkpoints / "step-7").mkdir()
    end(prepared, state, code)
    with refused("run-unfinished", state, f"lorasmith resume {prepared.path}") as caught:
        prepare_run(config)
    assert caught.value.exit_code == ExitCode.USAGE
    prepare_run(config, restart=True)
    assert (archives(prepared.path.parent)[0] / ".run" / "checkpoints" / "step-7").exists()


ENDS: dict[str, tuple[str, int, tuple[str, ...], bool]] = {
    "failed before any state": ("failed", 0, (), True),
    "failed at step 0": ("failed", 0, ("state-00000000",), True),
    "failed at step 0 after a sample": ("failed", 0, ("state-00000000", "sample"), True),
    "failed at step 0 while a state was written": ("failed", 0, (".state-00000000.safetensors.12.tmp",), True),
    "failed in a step before the second state": ("failed", 7, ("state-00000000",), True),
    "stopped before the first step": ("stopped", 0, (), True),
    "stopped at step 0": ("stopped", 0, ("state-00000000", "sample"), True),
    "lost before any state": ("lost", 0, (), True),
    "lost at step 0": ("lost", 0, ("state-00000000",), True),
    "lost after steps": ("lost", 7, ("state-00000000",), False),
    "stopped after steps": ("stopped", 7, ("state-00000000", "state-00000007"), False),
    "failed after a state": ("failed", 7, ("state-00000000", "state-00000005"), False),
    "failed in a resume, before its state was read": ("failed", 0, ("state-00000050",), False),
    "failed with something unknown among its states": ("failed", 0, ("mine",), False),
    "failed at step 0 with a LoRA that was asked for": ("failed", 0, ("state-00000000", "lora"), False),
    "on another machine": ("unknown", 0, (), False),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_run_that_trained_nothing_is_replaced_and_archived(name: str, config: RunConfig, prepared: RunDir) -> None:
    state, step, files, is_replaced = ENDS[name]
    prepared.checkpoints.mkdir()
    prepared.samples.mkdir()
    places = {
        "sample": prepared.samples / "robot_000000_00_20260101000000.png",
        "lora": prepared.lora_path(step=0),
        "mine": prepared.checkpoints / "mine",
    }
    for file in files:
        suffix = "" if file.startswith(".") else ".safetensors"
        places.get(file, prepared.checkpoints / f"{file}{suffix}").write_bytes(b"x")
    mark_starting(prepared, {**DEAD, "host": "elsewhere"} if state == "unknown" else {**DEAD, "step": step})
    if state in ("failed", "stopped"):
        write_exit(prepared, state, 1, step)
    assert (true_state(prepared).state, true_state(prepared).step) == (state, step)
    before = sorted(path.name for path in prepared.path.rglob("*"))
    if not is_replaced:
        with refused("run-unfinished", prepared.path):
            prepare_run(config)
        return
    prepare_run(config)
    (archive,) = archives(prepared.path.parent)
    assert sorted(path.name for path in archive.rglob("*")) == before, "nothing of the old run is lost"


def test_two_runs_on_one_directory(config: RunConfig, prepared: RunDir) -> None:
    for restart in (False, True):
        with refused("run-is-live", os.getpid(), "lorasmith attach"):
            prepare_run(config, restart=restart)


def test_of_many_concurrent_starts_one_wins(config: RunConfig, prepared: RunDir) -> None:
    end(prepared)
    results: list[object] = []

    def begin() -> None:
        try:
            results.append(prepare_run(config))
        except UsageError as error:
            results.append(error)

    starters = [threading.Thread(target=begin) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert sum(isinstance(result, RunDir) for result in results) == 1 and len(results) == 8
    assert len(archives(prepared.path.parent)) == 1


def test_a_file_in_the_way(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "robot").write_text("a file")
    with refused("place-is-a-file"):
        prepare_run(config)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_an_unwritable_place(config: RunConfig, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError) as caught:
        prepare_run(config)
    assert caught.value.exit_code == ExitCode.NO_SPACE and caught.value.hint


def test_a_disk_that_fills_up_leaves_no_half_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *_: object) -> int:
        raise OSError(errno.ENOSPC, "full", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError):
        prepare_run(config)
    assert not Path(config.saving.output_dir).exists()
