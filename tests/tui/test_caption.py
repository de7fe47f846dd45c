"""`lorasmith caption` as a process: what it prints, its exit codes, Ctrl-C, continuing, and taking back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from engine.captioning.job import CaptionJob
from engine.runs.state import true_state
from tests.fake_endpoint import FakeEndpoint, running
from tests.refusals import require
from tui.main import run

Ran = subprocess.CompletedProcess[str]
COMMAND = [sys.executable, "-m", "tui.main", "caption"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    monkeypatch.setenv("LORASMITH_API_KEY", "sk-secret")
    with running() as fake:
        fake.key = "sk-secret"
        yield fake


@pytest.fixture
def project(place: Path) -> Path:
    """A project with five images, one of them with a caption."""
    folder = place / "ann" / "training_images" / "8_ann smith"
    folder.mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (40 + number, 30), "red").save(folder / f"{number}.png")
    (folder / "0.txt").write_text("old words")
    return place / "ann"


def caption(*arguments: object) -> Ran:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def texts(project: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(project.rglob("*.txt"))}


def test_captions_of_a_project_and_back_again(project: Path) -> None:
    done = caption(project, "--with", "template", "--template", "photo of {trigger}, {folder}", "--trigger", "smithy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 captions written in {project}/training_images.\n"
    assert f"The images are in {project}/training_images." in done.stderr
    assert f"{project}/training_images/.captions/undo" in done.stderr, "where the changes are noted"
    expected = {f"{number}.txt": "photo of smithy, ann smith\n" for number in range(1, 5)}
    assert texts(project) == {"0.txt": "old words", **expected}
    (project / "training_images" / "8_ann smith" / "3.txt").write_text("by hand")
    undone = caption(project, "--undo")
    assert undone.stdout == "3 captions as before (Template).\n"
    assert "not touched, as it was changed since:" in undone.stderr and "3.txt" in undone.stderr
    assert texts(project) == {"0.txt": "old words", "3.txt": "by hand"}
    assert caption(project, "--undo").stdout.startswith("Nothing to undo in ")


def test_a_dry_run_shows_the_first_ones(project: Path, server: FakeEndpoint) -> None:
    arguments = (project, "--with", "endpoint", "--url", server.address, "--existing", "append", "--dry-run")
    done = caption(*arguments)
    assert done.returncode == 0 and done.stderr.endswith("Nothing was written.\n")
    assert done.stdout.splitlines()[:5] == [
        "8_ann smith/0.png", "  - old words", "  + old words, a 40 x 30 image",
        "8_ann smith/1.png", "  + a 41 x 30 image",
    ]  # fmt: skip
    result = json.loads(caption(*arguments, "--json").stdout)
    assert [entry["before"] for entry in result["proposed"]] == ["old words", "", ""]
    assert len(server.requests) == 6 and texts(project) == {"0.txt": "old words"}
    assert not (project / "training_images" / ".captions").exists()


def test_json_is_the_events(project: Path, server: FakeEndpoint) -> None:
    server.script = [400]
    done = caption(project, "--with", "endpoint", "--url", server.address, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["type"] == "run_started" and events[-1]["type"] == "run_finished"
    written = [name for event in events for name in event.get("written", [])]
    assert written == [f"8_ann smith/{number}.png" for number in (2, 3, 4)]
    assert ["1.png" in event["text"] for event in events if event["type"] == "warning"] == [True]
    undone = json.loads(caption(project, "--undo", "--json").stdout)
    assert undone == {"what": "Endpoint", "restored": 3, "skipped": [], "left": 0}


@pytest.fixture
def slow(project: Path, server: FakeEndpoint) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A captioning that is met in the middle, followed by a process."""
    server.delay = 0.3
    command = [*COMMAND, str(project), "--with", "endpoint", "--url", server.address]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(texts(project)) >= 2)
    yield project, process
    process.kill()
    process.communicate()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def test_ctrl_c_stops_cleanly_and_the_folder_alone_continues(
    slow: tuple[Path, subprocess.Popen[str]], server: FakeEndpoint
) -> None:
    project, process = slow
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert "Continue with: lorasmith caption" in err
    before = texts(project)
    assert out == f"{len(before) - 1} caption{'s' * (len(before) > 2)} written in {project}/training_images.\n"
    assert 2 <= len(before) < 5
    server.delay = 0
    second = caption(project)
    assert second.returncode == 0 and "Continuing with Endpoint." in second.stderr
    assert second.stdout == f"4 captions written in {project}/training_images.\n"
    assert len(server.requests) == 4, "no image is asked about twice"
    assert {**texts(project), **before} == texts(project)


def test_a_follower_that_is_killed_kills_nothing_and_the_folder_alone_follows(
    slow: tuple[Path, subprocess.Popen[str]], server: FakeEndpoint
) -> None:
    project, process = slow
    server.going.clear()  # however slow this machine is, the captioner is met at work
    process.kill()
    job = CaptionJob.of(project / "training_images")
    assert true_state(job).live
    refused = caption(project, "--with", "template", "--template", "x")
    assert refused.returncode == 2 and "Follow that with: lorasmith caption" in refused.stderr
    following = subprocess.Popen([*COMMAND, str(project)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: following.stderr is not None and following.stderr.readline())  # it tells what it has found
    server.going.set()
    following.communicate(timeout=60)
    assert following.returncode == 0
    assert len(texts(project)) == 5 and len(server.requests) == 4


def test_a_captioner_that_is_killed_is_reported(slow: tuple[Path, subprocess.Popen[str]]) -> None:
    project, process = slow
    pid = true_state(CaptionJob.of(project / "training_images")).pid
    assert pid, "0 would be this whole group of processes"
    os.kill(pid, signal.SIGKILL)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "The captioner was lost:" in err and "Continue with:" in err


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (["--with", "blob"], "captioner-unknown", ("'blob'", "blip, blip2")),
        ([], "captioning-missing", ()),
        (["--trigger", "x"], "captioner-not-set", ("--with",)),
        (["--with", "blip", "--url", "http://x"], "caption-option-unknown", ("'url'", "existing, ")),
        (["--with", "blip", "--set", "num_beams"], "assignment-without-value", ("--set num_beams",)),
        (
            ["--with", "wd14", "--set", "general_threshold=2"],
            "caption-option-not-possible",
            ("Tag threshold: '2'",),
        ),
        (["--with", "template", "--template", "{trigger}"], "caption-option-not-possible", ("{trigger}",)),
        (["--undo", "--with", "blip"], "options-not-together", ("--undo", "--json")),
    ],
)
def test_wrong_use(
    project: Path, arguments: list[str], code: str, parts: tuple[str, ...], shown: list[Exception]
) -> None:
    assert run(["caption", str(project), *arguments]) == 2
    require(shown[-1], code, *parts)


def test_a_model_that_is_not_there(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The process that would describe the images refuses it."""
    assert run(["caption", str(project), "--with", "wd14", "--model", "nowhere", "--dry-run", "--json"]) == 3
    answer = json.loads(capfd.readouterr().out)
    assert answer["error_code"] == "captioner-folder-missing" and "nowhere" in answer["error"]


def test_without_a_folder_it_shows_what_there_is(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["caption"]) == 0
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == [
        "blip", "blip2", "florence2", "transformers", "wd14", "endpoint", "template",
    ]  # fmt: skip
    assert run(["caption", "--with", "wd14"]) == 0
    options = capfd.readouterr().out
    assert "general_threshold = 0.35\n    Tag threshold." in options and "(from 0 to 1)" in options
    assert 'trigger_word = ""  (--trigger)\n' in options and max(map(len, options.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [["--with", "template"], ["--undo"], [], ["--with", "template", "--dry-run"]])
def test_a_mistyped_folder_is_shown_and_not_made(
    place: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["caption", str(place / "nowhere"), *arguments]) == 3
    assert "The folder" in (message := capfd.readouterr().err) and "does not exist." in message
    assert not (place / "nowhere").exists()


def test_a_folder_without_images_gets_no_job(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "empty").mkdir()
    assert run(["caption", str(place / "empty"), "--with", "template"]) == 3
    assert "Images: No images in" in capfd.readouterr().err and not any((place / "empty").iterdir())
