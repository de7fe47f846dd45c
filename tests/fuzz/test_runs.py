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
from engine.estimate.pace import measured_runs
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
from engine.runs.events import EVENT_TYPES, MODELS, event_of
from engine.runs.follow import explain
from engine.runs.history import RunHistory
from engine.runs.state import STATES, RunState, StateWriter, moment
from tests.fuzz.search import VALUES, examples, json_texts, search, tables
from tui.commands import runs as runs_command
from tui.shell.event_printer import BarPrinter, EventPrinter, last_saved
from tui.text import hints, rows
from tui.text import run as words
from tui.widgets.chart import chart_rows

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
EVENT_KEYS = sorted({
    field.key.replace("<timestep>", "200") for model in MODELS.values() for field in model.fields.values()
})  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs; the user's own list is elsewhere."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def new_run(place: Path, name: str) -> RunDir:
    return prepare_run(RunConfig().changed(saving={"output_name": name, "output_dir": str(place / name)}))


def show(run: RunDir, history: RunHistory, state: RunState) -> None:
    """Everything that a screen or a line says of a run."""
    words.heading(run.name, state.state, history)
    words.progress_lines(history, state, 80)
    words.facts(history, None, "cpu", 1)
    if history.oom is not None:
        words.oom_lines(history.oom)
    chart_rows(history.raw, history.smoothed, history.validation_losses, history.max_train_steps, 80, 20)
    history.files(run), history.samples(run), explain(run, state)
    moment(state.updated)


def test_a_list_of_runs_has_them_all(place: Path) -> None:
    """The frame of what follows: a good run is in the list."""
    good = new_run(place, "good")
    assert [run.run_dir for run in find_runs([place])] == [good]


@examples()
def test_records_of_any_content(place: Path, examples: int) -> None:
    good, bad = new_run(place, "good"), new_run(place, "bad")
    keys = {bad.state_path: STATE_KEYS, bad.meta_path: META_KEYS, bad.exit_path: EXIT_KEYS, bad.lock_path: STATE_KEYS}

    def check(contents: tuple[bytes, ...]) -> None:
        for path, content in zip(keys, contents, strict=True):
            path.write_bytes(content)
        runs = {run.run_dir: run for run in find_runs([place])}
        assert good in runs and bad in runs and runs[bad].state.state in STATES
        json.dumps([runs_command._record(run) for run in runs.values()], allow_nan=False)
        for run in runs.values():
            rows.row(run, 80), rows.about(run)
        measured_runs(runs.values())
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            assert runs_command.command.callback is not None and runs_command.command.callback(as_json=False) == 0
        assert len(out.getvalue().splitlines()) == 2
        show(bad, RunHistory(), true_state(bad))
        StateWriter(bad, interval=0).update(force=True, step=1)

    search(st.tuples(*(json_texts(*limits) for limits in keys.values())), check, examples)


def _events(value: tuple[str, dict[str, Any], Any]) -> Event:
    kind, data, when = value
    return event_of(kind, data, 0, when)


TIMES = st.sampled_from([0.0, 1e300, -1e300, float("nan"), 1.7e9])
EVENTS = st.tuples(st.sampled_from(sorted(EVENT_TYPES)), tables(*EVENT_KEYS), TIMES)


@pytest.mark.parametrize("teller", [EventPrinter, BarPrinter])
@examples()
def test_events_of_any_values(place: Path, examples: int, teller: Callable[[RunDir], EventPrinter]) -> None:
    run = new_run(place, "run")

    def check(values: list[tuple[str, dict[str, Any], Any]]) -> None:
        events = [_events(value) for value in values]
        history = RunHistory()
        history.feed(events)
        show(run, history, true_state(run))
        for event in events:
            words.event_text(event)
        with redirect_stderr(io.StringIO()):
            printer = teller(run)
            for event in events:
                printer(event)
            printer.show_history(events)
            printer.close()
            assert last_saved(printer) is None

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
    run = new_run(place, "run")

    def check(value: tuple[bytes, list[int]]) -> None:
        log, cuts = value
        run.events_path.write_bytes(b"")
        follower, history, polled = EventFollower(run.events_path), RunHistory(), []
        places = sorted({cut % (len(log) + 1) for cut in cuts})
        for start, end in zip([0, *places], [*places, len(log)], strict=True):
            with run.events_path.open("ab") as file:
                file.write(log[start:end])
            while events := follower.poll():
                polled += events
                history.feed(events)
        assert polled == read_events(run.events_path)
        show(run, history, true_state(run))
        EventLog(run.events_path).close()

    search(st.tuples(LINES, st.lists(st.integers(0, 5000), max_size=5)), check, examples)


@examples()
def test_control_files_of_any_content(place: Path, examples: int) -> None:
    run = new_run(place, "run")
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

    run = new_run(place, "run")

    def check(content: bytes) -> None:
        run.state_path.write_bytes(content)
        look = RunWatch(run).look()
        assert look is not None
        history = RunHistory()
        history.feed(look.events)
        hints.notice(run, history, look), hints.hint(history, look)

    search(json_texts(*STATE_KEYS), check, examples)
