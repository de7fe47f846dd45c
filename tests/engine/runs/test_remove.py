"""Deleting a run takes its own files and nothing else, and never a run that may continue."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from engine.runs import RunDir, true_state
from engine.runs.layout import write_record
from engine.runs.remove import belongings, remove_run
from tests.refusals import refused

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def ended(prepared: RunDir, start: Start) -> RunDir:
    """A finished run with a sample, and files of the person beside its own."""
    start(prepared).wait()
    prepared.samples.mkdir()
    (prepared.samples / "robot_000003_00_x.png").write_bytes(b"12345")
    return prepared


def test_it_takes_its_own_files_and_the_empty_folders(ended: RunDir) -> None:
    counted = belongings(ended)
    assert counted.files >= 7 and counted.bytes > ended.events_path.stat().st_size
    assert remove_run(ended) == counted
    assert not ended.path.exists() and ended.path.parent.is_dir()


def test_what_is_the_persons_stays(ended: RunDir) -> None:
    kept = [ended.path / "notes.txt", ended.path / "robot-best.safetensors", ended.samples / "mine.png"]
    for path in kept:
        path.write_text("mine")
    remove_run(ended)
    assert sorted(path for path in ended.path.rglob("*") if path.is_file()) == sorted(kept)
    assert not ended.is_run


def test_a_live_run_is_refused(prepared: RunDir, start: Start, eventually: Callable[..., None]) -> None:
    start(prepared, 999, 0.05)
    eventually(lambda: true_state(prepared).state == "running")
    with refused("run-is-live", prepared.path):
        remove_run(prepared)
    assert prepared.is_run and prepared.config_path.is_file()


def test_a_run_of_another_machine_is_refused(ended: RunDir) -> None:
    ended.exit_path.unlink()
    write_record(ended.state_path, {"state": "running", "host": "elsewhere", "pid": 1, "step": 3})
    with refused("run-on-other-machine", "elsewhere"):
        remove_run(ended)
    assert ended.lora_path().is_file()


def test_a_linked_private_folder_is_refused_and_its_target_left(ended: RunDir) -> None:
    target = ended.path.parent / "elsewhere"
    ended.private.rename(target)
    ended.private.symlink_to(target)
    before = sorted(ended.path.parent.rglob("*"))
    with refused("run-damaged", "symbolic link"):
        remove_run(ended)
    assert sorted(ended.path.parent.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may delete everything")
def test_no_permission_is_a_sentence(ended: RunDir) -> None:
    ended.path.chmod(0o555)
    try:
        with refused("not-writable", ended.path):
            remove_run(ended)
    finally:
        ended.path.chmod(0o755)
    assert ended.is_run
