"""The directory of a queue: entries, order, what a person changes, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import UsageError
from engine.paths import user_state
from engine.queue.entry import FAILED, FINISHED, HELD, RUNNING, STATES, STOPPED, WAITING, Entry, Reason
from engine.queue.store import Queue, queue_directory
from tests.engine.queue.conftest import Add


def names(queue: Queue, *states: str) -> list[str]:
    return [entry.name for entry in queue.entries() if not states or entry.state in states]


def put(queue: Queue, entry: Entry, state: str, **values: object) -> Entry:
    changed = queue.change(entry, lambda present: replace(present, state=state, **values))  # type: ignore[arg-type]
    assert changed is not None
    return changed


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as error:
        act()
    return error.value.code


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert queue_directory() == user_state() / "queue"
    monkeypatch.setenv("LORASMITH_QUEUE", str(tmp_path / "shared"))
    assert queue_directory() == tmp_path / "shared"
    assert queue_directory(str(tmp_path / "typed")) == tmp_path / "typed"


def test_an_entry_is_a_file_and_its_configuration(queue: Queue, add: Add) -> None:
    (entry,) = add("anna", training={"num_processes": 2}, memory={"device": "cuda:1"})
    assert (entry.id, entry.state, entry.processes, entry.device) == ("0001", WAITING, 2, "cuda:1")
    assert Queue(queue.path).entries() == [entry]
    config = load_config(queue.config_path(entry))
    assert config.saving.output_name == "anna" and config.training.num_processes == 2
    assert [line.what for line in queue.journal.read()] == ["added"]


def test_numbers_are_not_used_again(queue: Queue, add: Add) -> None:
    queue.remove(add("a", "b"))
    assert [entry.id for entry in add("c")] == ["0003"]


def test_a_place_is_taken_until_its_run_has_ended(queue: Queue, add: Add) -> None:
    (entry,) = add("a")
    assert refused(lambda: add("b", "a")) == "queue-place-taken" and names(queue) == ["a"]
    put(queue, entry, FINISHED)
    assert [entry.name for entry in add("a")] == ["a"]


@pytest.mark.parametrize(
    ("place", "order"),
    [
        ("first", "cabd"),
        ("last", "abdc"),
        ("up", "acbd"),
        ("down", "abdc"),
        ("1", "cabd"),
        ("2", "acbd"),
        ("3", "abcd"),
        ("4", "abdc"),
    ],
)
def test_moving(queue: Queue, add: Add, place: str, order: str) -> None:
    entries = add("a", "b", "c", "d")
    assert queue.move(entries[2], place) == order.index("c") + 1
    assert "".join(names(queue)) == order


@pytest.mark.parametrize("place", ["0", "5", "-1", "here", ""])
def test_no_such_place(queue: Queue, add: Add, place: str) -> None:
    entries = add("a", "b", "c", "d")
    assert refused(lambda: queue.move(entries[2], place)) == "queue-place-missing"


def test_numbers_between_two_never_run_out(queue: Queue, add: Add) -> None:
    add("a", "b", "c")
    for _ in range(80):  # each halves the distance, and a float has 52 bits
        order = names(queue)
        queue.move(queue.entries()[2], "2")
        assert names(queue) == [order[0], order[2], order[1]]


def test_running_first_then_waiting_then_ended(queue: Queue, add: Add) -> None:
    a, b, c, d, _ = add("a", "b", "c", "d", "e")
    put(queue, a, FINISHED, ended=10.0)
    put(queue, b, FAILED, ended=20.0)
    put(queue, d, RUNNING)
    queue.hold([c])
    assert names(queue) == ["d", "c", "e", "b", "a"]


CHANGES: dict[str, tuple[Callable[[Queue, Entry], object], set[str]]] = {
    "hold": (lambda queue, entry: queue.hold([entry]), {WAITING, HELD}),
    "release": (lambda queue, entry: queue.release([entry]), {WAITING, HELD, RUNNING}),
    "retry": (lambda queue, entry: queue.retry([entry]), {FAILED, STOPPED}),
    "remove": (lambda queue, entry: queue.remove([entry]), set(STATES) - {RUNNING}),
    "move": (lambda queue, entry: queue.move(entry, "first"), {WAITING, HELD}),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_possible_in_which_state(queue: Queue, add: Add, change: str, state: str) -> None:
    (entry,) = add("a")
    entry = put(queue, entry, state)
    act, possible = CHANGES[change]
    if state in possible:
        act(queue, entry)
        return
    with pytest.raises(UsageError) as error:
        act(queue, entry)
    assert error.value.code.startswith("queue-entry-")
    assert queue.entries() == [entry]


def test_what_runs_is_ended_by_another_command(queue: Queue, add: Add) -> None:
    entry = put(queue, add("a")[0], RUNNING)
    for act in (queue.hold, queue.remove):
        with pytest.raises(UsageError) as error:
            act([entry])
        assert f"lorasmith stop {entry.run_dir}" in error.value.hint


def test_a_retry_forgets_the_reason(queue: Queue, add: Add) -> None:
    entry = put(queue, add("a")[0], FAILED, losses=4, lost_step=7, reason=Reason("x", "X", "No.", ""), ended=1.0)
    queue.retry([entry])
    (entry,) = queue.entries()
    assert (entry.state, entry.losses, entry.lost_step, entry.reason, entry.ended) == (WAITING, 0, -1, Reason(), None)


def test_picking(queue: Queue, add: Add) -> None:
    a, b, c = add("anna", "anna-2", "bert")
    assert queue.pick(["1", "anna-2", "ber"]) == [a, b, c]
    assert queue.pick(["anna", "0003"]) == [a, c]
    assert refused(lambda: queue.pick(["ann"])) == "queue-entry-ambiguous"
    for word in ("nobody", "7", "", "../anna"):
        assert refused(lambda word=word: queue.pick([word])) == "queue-entry-missing"  # type: ignore[misc]


def test_the_switch(queue: Queue, add: Add) -> None:
    add("a")
    for paused in (True, True, False, False):
        queue.set_paused(paused)
        assert Queue(queue.path).paused is paused
    assert [line.what for line in queue.journal.read()] == ["added", "queue-paused"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "null", '{"id": "0002"}', '{"id": "../x", "name": "x", "run_dir": "/x"}', '{"id": 2}', "{" * 5000],
)
def test_files_that_are_no_entries_are_left_alone(queue: Queue, add: Add, content: str) -> None:
    add("a")
    (queue.path / "0002.json").write_text(content)
    assert names(queue) == ["a"]
    assert [entry.id for entry in add("b")] == ["0002"]


def test_values_of_another_kind_count_as_missing(queue: Queue, add: Add) -> None:
    (entry,) = add("a")
    path = queue.path / "0001.json"
    record = json.loads(path.read_text())
    record |= {"tries": "many", "ended": -1, "cards": [1], "node": None, "reason": "why", "later": 1, "processes": 1e99}
    path.write_text(json.dumps(record))
    assert queue.entries() == [entry]


def test_links_are_not_followed(queue: Queue, add: Add, tmp_path: Path) -> None:
    add("a")
    target = tmp_path / "elsewhere.json"
    os.rename(queue.path / "0001.json", target)  # noqa: PTH104
    (queue.path / "0001.json").symlink_to(target)
    assert queue.entries() == []


def test_changes_at_the_same_time_are_all_made(queue: Queue, add: Add) -> None:
    (entry,) = add("a")
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(
            lambda _: queue.change(entry, lambda present: replace(present, tries=present.tries + 1)), range(40)
        ):
            pass
    assert queue.entries()[0].tries == 40


def test_the_journal_is_read_from_where_it_was_left(queue: Queue, add: Add) -> None:
    add("a")
    queue.journal.skip()
    assert queue.journal.poll() == []
    add("b")
    with queue.journal.path.open("a") as file:
        file.write('{"time": 1, "what": "half')
    assert [line.name for line in queue.journal.poll()] == ["b"] and queue.journal.poll() == []
    with queue.journal.path.open("a") as file:
        file.write('"}\n[1]\n')
    assert [line.what for line in queue.journal.poll()] == ["half"]
