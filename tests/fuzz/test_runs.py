"""Run directories with any content: whoever lists, follows or shows them raises nothing and shows every other run."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from engine.config import RunConfig
from engine.runs import (
    ControlBox,
    Event,
    EventFollower,
    EventLog,
    RunDir,
    find_runs,
    prepare_run,
    read_events,
    true_state,
)
from engine.runs.events import EVENT_TYPES
from engine.runs.follow import explain
from engine.runs.history import RunHistory
from engine.runs.pace import earlier
from engine.runs.state import STATES, RunState, StateWriter, moment
from tests.fuzz.search import VALUES, examples, json_texts, search, tables
from tui.commands import runs as runs_command
from tui.narrators import BarNarrator, Narrator, last_saved
from tui.widgets.chart import chart_rows
from tui.words import hints, rows
from tui.words import run as words

STATE_KEYS = (
    "state",
    "step",
    "epoch",
    "max_train_steps",
    "phase",
    "pid",
    "process_start",
    "boot_id",
    "host",
    "updated",
)
META_KEYS = ("name", "created", "session_id", "config", "host", "schema", "versions")
EXIT_KEYS = ("state", "exit_code", "step", "time", "title", "message", "hint")
EVENT_KEYS = (
    "step", "epoch", "index", "path", "prompt", "loss", "loss_average", "lr", "memory", "eta_seconds", "done", "total",
    "unit", "phase", "name", "state", "max_train_steps", "updates_per_epoch", "epochs", "bytes", "text", "message",
    "title", "hint", "command", "result", "id", "requested", "free", "device", "written", "proposed", "pid",
    "images_per_second", "seconds_per_step", "changes", "remedy", "difference",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs; the user's own list is elsewhere."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def made(place: Path, name: str) -> RunDir:
    return prepare_run(RunConfig().changed(saving={"output_name": name, "output_dir": str(place / name)}))


def show(run: RunDir, history: RunHistory, state: RunState) -> None:
    """Everything that a screen or a line says of a run."""
    words.heading(run.name, state.state, history)
    words.progress_lines(history, state, 80)
    words.facts(history, None, "cpu", 1)
    if history.oom is not None:
        words.oom_lines(history.oom)
    chart_rows(history.raw, history.smoothed, history.held_out, history.max_train_steps, 80, 20)
    history.files(run), history.samples(run), explain(run, state)
    moment(state.updated)


def test_a_list_of_runs_has_them_all(place: Path) -> None:
    """The frame of what follows: a good run is in the list."""
    good = made(place, "good")
    assert [run.run_dir for run in find_runs([place])] == [good]


@examples()
def test_records_of_any_content(place: Path, examples: int) -> None:
    good, bad = made(place, "good"), made(place, "bad")
    keys = {bad.state_path: STATE_KEYS, bad.meta_path: META_KEYS, bad.exit_path: EXIT_KEYS, bad.lock_path: STATE_KEYS}

    def check(contents: tuple[bytes, ...]) -> None:
        for path, content in zip(keys, contents, strict=True):
            path.write_bytes(content)
        found = {run.run_dir: run for run in find_runs([place])}
        assert good in found and bad in found and found[bad].state.state in STATES
        json.dumps([runs_command._record(run) for run in found.values()], allow_nan=False)
        for run in found.values():
            rows.row(run, 80), rows.about(run)
        earlier(found.values())
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert runs_command.command.callback is not None and runs_command.command.callback(as_json=False) == 0
        assert len(out.getvalue().splitlines()) == 2
        show(bad, RunHistory(), true_state(bad))
        StateWriter(bad, interval=0).update(force=True, step=1)

    search(st.tuples(*(json_texts(*wanted) for wanted in keys.values())), check, examples)


def _events(value: tuple[str, dict[str, Any], Any]) -> Event:
    kind, data, when = value
    return Event(kind, 0, when, data)


TIMES = st.sampled_from([0.0, 1e300, -1e300, float("nan"), 1.7e9])
EVENTS = st.tuples(st.sampled_from(sorted(EVENT_TYPES)), tables(*EVENT_KEYS), TIMES)


@pytest.mark.parametrize("teller", [Narrator, BarNarrator])
@examples()
def test_events_of_any_values(place: Path, examples: int, teller: Callable[[RunDir], Narrator]) -> None:
    run = made(place, "run")

    def check(values: list[tuple[str, dict[str, Any], Any]]) -> None:
        events = [_events(value) for value in values]
        history = RunHistory()
        history.feed(events)
        show(run, history, true_state(run))
        for event in events:
            words.event_text(event)
        with redirect_stderr(io.StringIO()):
            narrator = teller(run)
            for event in events:
                narrator(event)
            narrator.tell_history(events)
            narrator.close()
            assert last_saved(narrator) is None

    search(st.lists(EVENTS, max_size=12), check, examples)


def _line(value: tuple[object, ...]) -> bytes:
    seq, when, kind, data = value
    return json.dumps({"v": 1, "seq": seq, "time": when, "type": kind, **data}).encode("utf-8", "surrogatepass")  # type: ignore[dict-item]


LINES = st.lists(
    st.tuples(st.integers(0, 50) | VALUES, st.just(1.7e9) | VALUES, st.sampled_from(sorted(EVENT_TYPES)) | VALUES,
              tables(*EVENT_KEYS)).map(_line) | st.binary(max_size=50) | st.just(b"["  * 5000),
    max_size=20,
).map(b"\n".join)  # fmt: skip


@examples()
def test_a_log_of_any_bytes_in_any_pieces(place: Path, examples: int) -> None:
    run = made(place, "run")

    def check(value: tuple[bytes, list[int]]) -> None:
        log, cuts = value
        run.events_path.write_bytes(b"")
        follower, history, found = EventFollower(run.events_path), RunHistory(), []
        places = sorted({cut % (len(log) + 1) for cut in cuts})
        for start, end in zip([0, *places], [*places, len(log)], strict=True):
            with run.events_path.open("ab") as file:
                file.write(log[start:end])
            while events := follower.poll():
                found += events
                history.feed(events)
        assert found == read_events(run.events_path)
        show(run, history, true_state(run))
        EventLog(run.events_path).close()

    search(st.tuples(LINES, st.lists(st.integers(0, 5000), max_size=5)), check, examples)


@examples()
def test_control_files_of_any_content(place: Path, examples: int) -> None:
    run = made(place, "run")
    log = EventLog(run.events_path)
    box = ControlBox(run, log)

    def check(content: bytes) -> None:
        (run.control / "1.json").write_bytes(content)
        for command in box.take():
            assert isinstance(command.name, str)
            box.acknowledge(command, "done")
        assert list(run.control.iterdir()) == []

    search(json_texts("command", "value", "key"), check, examples)
    log.close()


@examples(quick=10, long=200)
def test_hints_for_any_state(place: Path, examples: int) -> None:
    from tui.watching.run import RunWatch

    run = made(place, "run")

    def check(content: bytes) -> None:
        run.state_path.write_bytes(content)
        look = RunWatch(run).look()
        assert look is not None
        history = RunHistory()
        history.feed(look.events)
        hints.notice(run, history, look), hints.hint(history, look)

    search(json_texts(*STATE_KEYS), check, examples)
