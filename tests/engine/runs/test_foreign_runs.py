"""Run directories of strangers: nothing in one is followed or trusted as a path, and one rotten run hides no other."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.captioning.job import CaptionJob, start
from engine.config import RunConfig
from engine.errors import LoraSmithError
from engine.runs import (
    ControlBox,
    EventFollower,
    EventLog,
    RunDir,
    RunLock,
    StateWriter,
    find_runs,
    prepare_resume,
    prepare_run,
    read_events,
    request,
    resolve,
    true_state,
    write_exit,
)
from engine.runs.contact import collect
from engine.runs.events import RunStartedEvent, StepEvent, event_of
from engine.runs.history import RunHistory
from engine.runs.integrity import fault_of
from engine.runs.launch import launch, log_tail
from engine.runs.layout import own_file
from engine.runs.remove import remove_run
from tests.refusals import refused

pytestmark = pytest.mark.timeout(60)
FILES = ("meta.json", "state.json", "events.jsonl", "train.log", "exit.json", "lock", "reserve", "dataset.json",
         "inputs.json")  # fmt: skip
FOLDERS = ("control", "checkpoints")
PLACES = (*(f".run/{name}" for name in (*FILES, *FOLDERS)), ".run", "sample", "robot.toml",
          ".run/.state.json.tmp", ".run/oom-1.json", ".run/checkpoints/state-00000001.safetensors")  # fmt: skip


@pytest.fixture
def ended(prepared: RunDir) -> RunDir:
    """A stopped run."""
    log = EventLog(prepared.events_path)
    log.emit(RunStartedEvent(name="robot", step=0, pid=1))
    log.emit(StepEvent(step=3, epoch=1, loss=0.5))
    log.close()
    prepared.checkpoints.mkdir()
    prepared.samples.mkdir()
    prepared.log_path.write_text("line\n")
    prepared.state_path.write_text(json.dumps({"state": "stopped", "step": 3, "pid": 1, "host": "here"}))
    write_exit(prepared, "stopped", 6, 3)
    return prepared


def make_link(path: Path, outside: Path) -> None:
    """Move what is at `path` outside, and leave a link to it; else link to a file outside."""
    target = outside / path.name
    if path.exists():
        path.rename(target)
    else:
        target.write_bytes(b"content")
    path.symlink_to(target)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


ACTIONS: dict[str, Callable[[RunDir], object]] = {
    "resume": prepare_resume, "remove": remove_run, "stop": lambda run: request(run, "stop"),
    "launch": lambda run: launch(run, command=["true"]), "name": lambda run: resolve(str(run.path)),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_links_in_it_are_never_followed(ended: RunDir, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    good = prepare_run(RunConfig().changed(saving={"output_name": "cat", "output_dir": str(tmp_path / "cat")}))
    make_link(ended.path / place, outside)
    before = content(outside)
    state = true_state(ended)
    assert state.state == "damaged" and "symbolic link" in state.detail and place.split("/")[0] in state.detail
    assert {run.run_dir: run.state.state for run in find_runs([tmp_path])}[ended] == "damaged"
    assert good in [run.run_dir for run in find_runs([tmp_path])]
    for name, action in ACTIONS.items():
        with refused("run-damaged", "symbolic link"):
            action(ended)
        assert content(outside) == before, name
    StateWriter(ended, interval=0).update(force=True, state="running")
    for write in (lambda: EventLog(ended.events_path).close(), lambda: RunLock(ended.lock_path).release()):
        with suppress(OSError, LoraSmithError):
            write()
    read_events(ended.events_path), log_tail(ended), ControlBox(ended, None).take()  # type: ignore[arg-type]
    assert content(outside) == before


def test_a_dangling_link_makes_nothing(ended: RunDir, tmp_path: Path) -> None:
    ended.reserve_path.unlink(missing_ok=True)
    ended.reserve_path.symlink_to(tmp_path / "victim")
    with refused("run-damaged", "symbolic link"):
        prepare_resume(ended)
    assert not (tmp_path / "victim").exists()


def test_a_run_behind_a_link_that_a_person_typed_is_fine(ended: RunDir, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(ended.path)
    run = resolve(str(tmp_path / "short"))
    assert true_state(run).state == "stopped" and prepare_resume(run).step == 3


def _file(path: Path) -> None:
    path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("place", "make"),
    [
        *((f".run/{name}", make) for name in (*FILES, *FOLDERS) for make in (os.mkfifo, Path.mkdir, _file)),
        ("robot.toml", Path.mkdir), ("robot.toml", os.mkfifo), ("sample", _file), ("sample", os.mkfifo),
    ],
)  # fmt: skip
def test_what_is_no_file_or_no_folder_is_one_bad_row(ended: RunDir, place: str, make: Callable[[Path], Any]) -> None:
    path = ended.path / place
    rightful = (make is Path.mkdir) == (path.name in FOLDERS or place == "sample") and make is not os.mkfifo
    if path.is_dir():
        path.rmdir() if not any(path.iterdir()) else path.rename(ended.path.parent / "away")
    else:
        path.unlink(missing_ok=True)
    make(path)
    runs = find_runs([ended.path.parent.parent])
    assert [run.run_dir for run in runs] == [ended]
    assert (runs[0].state.state == "damaged") is not rightful
    if not rightful:
        what = "folder" if path.name in (*FOLDERS, "sample") else "file"
        with refused("run-damaged", path, f"a {what} belongs"):
            prepare_resume(ended)


def test_dot_run_that_is_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / ".run").write_text("x")
    assert not RunDir(tmp_path).is_run and find_runs([tmp_path]) == []
    assert fault_of(RunDir(tmp_path))


NAMES = ["../../victim", "/etc/x", "..", ".", "a/b", "", "  ", "a\x00b", "a\nb", "x" * 300, "\udfff\ud800", 5, ["a"],
         {"a": 1}, True, 1.5]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_is_no_file_name_writes_nowhere(ended: RunDir, name: object) -> None:
    meta = json.loads(ended.meta_path.read_text())
    ended.meta_path.write_text(json.dumps({**meta, "name": name, "config": "../../../etc/passwd"}))
    assert ended.name == "robot"  # the project's
    for path in (ended.config_path, ended.lora_path(), ended.lora_path(epoch=1)):
        assert path.parent == ended.path
    assert true_state(ended).state == "damaged"
    with refused("run-damaged", ended.meta_path):
        prepare_resume(ended)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../victim.png", "..", ".", "", "a\x00", "x" * 5000, "\ud800", "link.png"]
)
def test_files_that_events_name_are_those_of_the_run(ended: RunDir, path: str) -> None:
    victim = ended.path.parent / "victim.png"
    Image.new("RGB", (8, 8)).save(victim)
    (ended.samples / "link.png").symlink_to(victim)
    events = [event_of("sample", {"path": path, "index": 0, "step": 1, "prompt": "x"}),
              event_of("saved", {"path": path, "step": 1}, 1, 0.0)]  # fmt: skip
    history = RunHistory()
    history.feed(events)
    assert not history.samples(ended).images and not collect(events, ended).images
    assert history.files(ended) == [] and own_file(ended.samples, path) is None


def test_a_file_that_an_event_names_elsewhere_is_found_here(ended: RunDir) -> None:
    Image.new("RGB", (8, 8)).save(ended.samples / "a.png")
    assert own_file(ended.samples, "/old/place/sample/a.png") == ended.samples / "a.png"


def test_removing_takes_nothing_behind_links(ended: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "robot_1.png").write_bytes(b"mine")
    (ended.samples / "robot_1.png").symlink_to(outside / "robot_1.png")
    (ended.path / "robot.safetensors").symlink_to(outside / "robot_1.png")
    remove_run(ended)
    assert content(outside) and not (ended.path / "robot.safetensors").is_symlink()


def test_a_new_run_puts_linked_folders_away_and_writes_through_none(ended: RunDir, tmp_path: Path) -> None:
    place, outside = tmp_path / "new", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    (outside / "robot_x.png").write_bytes(b"mine")
    (place / "sample").symlink_to(outside)
    (place / ".run").symlink_to(outside / "nowhere")
    run = prepare_run(RunConfig().changed(saving={"output_name": "robot", "output_dir": str(place)}))
    assert fault_of(run) == "" and content(outside) == {str(outside / "robot_x.png"): b"mine"}
    assert list(outside.iterdir()) == [outside / "robot_x.png"]


def test_commands_that_are_links_or_pipes_are_refused_and_removed(ended: RunDir, tmp_path: Path) -> None:
    (tmp_path / "stop.json").write_text('{"command": "stop"}')
    (ended.control / "1.json").symlink_to(tmp_path / "stop.json")
    os.mkfifo(ended.control / "2.json")
    (ended.control / "3.json").mkdir()
    (ended.control / "4.json").write_text('{"command": "stop"}')
    log = EventLog(ended.events_path)
    assert [command.id for command in ControlBox(ended, log).take()] == ["4"]
    assert [command.id for command in ControlBox(ended, log).take()] == []
    assert (tmp_path / "stop.json").exists() and not os.path.lexists(ended.control / "1.json")
    log.close()


@pytest.mark.parametrize("place", ["", "job.json", "events.jsonl", "lock", "control"])
def test_a_captioning_job_of_a_stranger_leads_nowhere(tmp_path: Path, place: str) -> None:
    folder, outside = tmp_path / "images", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    job = CaptionJob.of(folder)
    if place:
        job.path.mkdir()
        (outside / "file").write_bytes(b"mine")
        (job.path / place).symlink_to(outside / "file" if place != "control" else outside)
    else:
        job.path.symlink_to(outside)
    before = content(outside)
    with refused("run-damaged", "symbolic link"):
        start(folder, "wd14", {})
    assert content(outside) == before


def test_a_captioning_job_names_no_other_folder(tmp_path: Path) -> None:
    job = CaptionJob.of(tmp_path)
    job.path.mkdir()
    job.meta_path.write_text(json.dumps({"folder": "/etc", "trial": 3, "captioner": ["x"], "options": 5}))
    assert job.folder == tmp_path and job.trial == 0
    with refused("captioner-unknown"):
        job.settings()


def test_one_long_line_is_no_event_and_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runs.events.follower.MAX_LINE", 1000)
    monkeypatch.setattr(EventFollower, "CHUNK", 300)
    line = '{"v":1,"seq":%d,"time":1.0,"type":"note","text":"%s"}\n'
    path = tmp_path / "events.jsonl"
    path.write_text(line % (0, "a") + line % (1, "x" * 5000) + line % (2, "b") + "y" * 3000)
    follower = EventFollower(path)
    events = []
    while new := follower.poll():
        events += new
        assert len(follower._rest) <= 1300
    assert [event.seq for event in events] == [0, 2] and follower.bad_lines == 2 and follower.partial
    with path.open("a") as file:
        file.write("\n" + line % (3, "c"))
    assert [event.seq for event in follower.poll()] == [3] and not follower.partial
