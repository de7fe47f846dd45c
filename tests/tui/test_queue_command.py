"""`lorasmith queue`: what is added, checked, listed and changed, by the command's own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import load_config
from engine.paths import ASSETS
from engine.queue import Queue, Reason, running
from engine.queue.entry import Entry
from tui.setup.queueing import new_entries

Lorasmith = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def queue(place: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    monkeypatch.setenv("LORASMITH_QUEUE", str(place / "queue"))
    return Queue(place / "queue")


def listed(lorasmith: Lorasmith) -> dict[str, str]:
    return {
        entry["name"]: entry["state"] for entry in json.loads(lorasmith("queue", "list", "--json").stdout)["entries"]
    }


def test_presets_times_values(lorasmith: Lorasmith, queue: Queue, place: Path) -> None:
    done = lorasmith(
        "queue", "add", "--preset", "demo", "--name", "anna", "--set", "training.max_train_steps=5",
        "--grid", "training.unet_lr=1e-4,2e-4", "--grid", "network.network_dim=4,8",
    )  # fmt: skip
    names = [f"anna-unet_lr-{rate}-network_dim-{rank}" for rate in ("1e-4", "2e-4") for rank in (4, 8)]
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{number:04d}  {name}" for number, name in enumerate(names, 1)]
    assert "lorasmith queue start" in done.stderr
    entries = queue.entries()
    configs = [load_config(queue.config_path(entry)) for entry in entries]
    assert [config.saving.output_name for config in configs] == [entry.name for entry in entries] == names
    assert [(config.training.unet_lr, config.network.network_dim) for config in configs] == [
        (1e-4, 4), (1e-4, 8), (2e-4, 4), (2e-4, 8),
    ]  # fmt: skip
    assert {config.training.max_train_steps for config in configs} == {5}
    assert {config.memory.on_oom for config in configs} == {"retry"}
    assert [entry.run_dir for entry in entries] == [str(place / name / "results_current") for name in names]
    assert not any((place / name).exists() for name in names), "the run directories are made at the start"


def test_the_trigger_word_stays(queue: Queue) -> None:
    """A run's name shows its values; the word in the captions is another matter."""
    new, _ = new_entries(
        ["robot.toml"], ["training.seed=1,2"], images=str(ASSETS / "demo_pictures"), name="smithy",
        model=str(ASSETS / "demo_base"),
    )  # fmt: skip
    assert [item.config.saving.output_name for item in new] == ["smithy-seed-1", "smithy-seed-2"]
    assert {item.config.trigger for item in new} == {"smithy"}


def test_a_folder_for_all(queue: Queue, place: Path) -> None:
    several, _ = new_entries(["demo"], ["training.seed=1,2"], output_dir="out", name="a")
    assert [item.config.saving.output_dir for item in several] == [str(place / "out" / f"a-seed-{n}") for n in (1, 2)]
    single, _ = new_entries(["demo"], output_dir="out", name="a")
    assert single[0].config.saving.output_dir == str(place / "out")


def test_the_same_run_without_the_queue(queue: Queue) -> None:
    new, _ = new_entries(
        ["demo"], ["training.seed=1"], ["training.max_train_steps=5"], images=str(ASSETS / "demo_pictures"), name="a",
        early_stop=True, kohya_exact=False,
    )  # fmt: skip
    assert new[0].command_line == (
        "lorasmith", "--preset", "demo", "--images", str(ASSETS / "demo_pictures"), "--name", "a", "--early-stop",
        "--set", "training.max_train_steps=5", "--set", "training.seed=1",
    )  # fmt: skip


def test_presets_of_one_name(queue: Queue, place: Path) -> None:
    for name in ("slow", "fast"):
        (place / f"{name}.toml").write_text((Path(__file__).parents[2] / "presets" / "demo.toml").read_text())
    new, _ = new_entries(
        ["slow.toml", "fast.toml"], images=str(ASSETS / "demo_pictures"), model=str(ASSETS / "demo_base")
    )
    assert [item.config.saving.output_name for item in new] == ["smithy-slow", "smithy-fast"]


def test_stop_stays_and_everything_else_retries(queue: Queue) -> None:
    for typed, recorded in (("auto", "retry"), ("ask", "retry"), ("retry", "retry"), ("stop", "stop")):
        new, _ = new_entries(["demo"], overrides=[f"memory.on_oom={typed}"])
        assert new[0].config.memory.on_oom == recorded


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--grid", "training.unet_lr=1e-4,much,more"], ["2 of 3", "much", "more"]),
        (["--grid", "training.unet_lr=1e-4", "--images", "nowhere"], ["nowhere"]),
        (["--grid", "training.seed=1,2", "--images", "nowhere"], ["2 of 2", "nowhere", "1 other"]),
        (["--grid", "training.seed=1,x", "--model", "nowhere"], ["2 of 2", "'x'", "nowhere"]),
        (["--grid", "training.unet_lr"], ["no list of values"]),
        (["--preset", "nobody"], ["nobody"]),
        ([], ["is the place of 0001 smithy"]),
    ],
)
def test_nothing_is_added_when_something_is_wrong(
    lorasmith: Lorasmith, queue: Queue, arguments: list[str], words: list[str]
) -> None:
    assert lorasmith("queue", "add", "--preset", "demo").returncode == 0
    done = lorasmith("queue", "add", "--preset", "demo", *arguments)
    assert done.returncode in (2, 3) and done.stdout == "", done.stderr
    for word in words:
        assert word in done.stderr
    assert list(listed(lorasmith)) == ["smithy"]


def add(queue: Queue, *names: str) -> list[Entry]:
    return queue.add([new_entries(["demo"], name=name)[0][0] for name in names])


def test_a_life(lorasmith: Lorasmith, queue: Queue) -> None:
    add(queue, "a", "b", "c")
    assert lorasmith("queue", "move", "c", "first").stderr == "c is number 1 of those that wait.\n"
    assert lorasmith("queue", "pause", "a").returncode == 0
    assert listed(lorasmith) == {"c": "waiting", "a": "held", "b": "waiting"}
    assert lorasmith("queue", "remove", "3", "b").returncode == 0
    failed = replace(queue.entries()[0], state="failed", reason=Reason("x", "Images", "None.", "Add\nsome."), ended=1.0)
    queue.write(failed)
    lines = lorasmith("queue", "list").stdout.splitlines()
    assert "not running; 1 failed" in lines[0] and lines[2:] == [
        "      Images: None.", "      hint: Add", "      hint: some.",
    ]  # fmt: skip
    assert lorasmith("queue", "retry").returncode == 2
    assert lorasmith("queue", "retry", "--failed").returncode == 0 and listed(lorasmith) == {"a": "waiting"}
    assert "does not wait" not in lorasmith("queue", "pause").stderr and queue.paused
    assert lorasmith("queue", "start", "--unless-paused").returncode == 0 and queue.paused


def test_what_runs_is_not_removed(lorasmith: Lorasmith, queue: Queue) -> None:
    (entry,) = add(queue, "a")
    queue.write(replace(entry, state="running"))
    for command in ("remove", "pause"):
        done = lorasmith("queue", command, "a")
        assert done.returncode == 2 and f"lorasmith stop {entry.run_dir}" in done.stderr
    assert listed(lorasmith) == {"a": "running"}


@pytest.mark.parametrize("cards", ["0", "-1", "some", "1.5"])
def test_numbers_of_cards(lorasmith: Lorasmith, queue: Queue, cards: str) -> None:
    assert lorasmith("queue", "start", "--cards", cards).returncode == 2


def test_an_empty_queue_ends_at_once(lorasmith: Lorasmith, queue: Queue) -> None:
    done = lorasmith("queue", "start")
    assert done.returncode == 0, done.stderr
    assert [line.split("queue: ")[1].split(" as ")[0] for line in done.stdout.splitlines()] == [
        "started on this machine", "ended: empty",
    ]  # fmt: skip
    assert running(queue) is None


def test_without_a_cluster(lorasmith: Lorasmith, queue: Queue) -> None:
    """Ray is not installed, or nothing is there: both are reported at once, and nothing runs."""
    add(queue, "a")
    done = lorasmith("queue", "start", "--on", "127.0.0.1:1")
    assert done.returncode == 2 and "Ray" in done.stderr and listed(lorasmith) == {"a": "waiting"}


def test_ctrl_c_ends_only_the_showing(queue: Queue, fake_command: list[str], eventually: Callable[..., None]) -> None:
    """The queue's process is played by this one: it holds the lock."""
    from engine.runs.lock import RunLock

    add(queue, "a")
    with RunLock(queue.private / "lock"):
        process = subprocess.Popen([*fake_command, "queue", "start"], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None and "as process" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130 and "The queue continues" in process.stderr.read()
        assert running(queue) is not None


def test_the_commands_load_no_torch(place: Path) -> None:
    code = (
        "import sys; sys.argv = ['lorasmith', 'queue', 'list']\n"
        "from tui.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'textual', 'pydantic'} & sys.modules.keys(), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == 0, done.stderr[-600:]
