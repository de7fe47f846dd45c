"""The types of events: what each line means, and that its bytes stay what they are."""

from __future__ import annotations

import importlib.util
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from engine.runs.events import (
    EVENT_TYPES,
    MODELS,
    Event,
    EventFollower,
    EventLog,
    OomEvent,
    StepEvent,
    ValidationEvent,
    WarningEvent,
    event_of,
    parse_event,
    read_events,
)
from engine.runs.phase import Phase
from engine.runs.shortage import Shortage

RECORDED = Path(__file__).with_name("recorded_events.jsonl")
"""Written by the version before the types had classes; lines of later types are added by hand."""
LINES = RECORDED.read_text(encoding="ascii").splitlines()
KEYS = {
    "run_started": "name pid step",
    "phase": "name state step max_train_steps epochs updates_per_epoch",
    "progress": "phase done total unit written proposed",
    "step": "step epoch loss loss_average lr d grad_norm norms images_per_second seconds_per_step eta_seconds memory",
    "validation": "step epoch loss loss_t<timestep> train_loss train_loss_t<timestep> base_loss base_train_loss "
    "passes seconds",
    "measures": "step epoch shift response leakage drift bleed passes seconds",
    "sample": "path prompt index step",
    "sample_measures": "step burn copying copied latent_copying latent_base latent_copied training_images "
    "repeated seconds",
    "saved": "path bytes step epoch difference",
    "state_saved": "path step bytes",
    "note": "text",
    "warning": "code text phase step message device requested free total allocated reserved",
    "control_ack": "id command result",
    "changed": "step key value text max_train_steps epochs",
    "oom": "phase step message device requested free total allocated reserved",
    "retry": "step remedy text changes",
    "memory_plan": "step planned measured difference",
    "error": "code title message hint",
    "run_finished": "state exit_code step",
}


def test_types_and_keys_are_frozen() -> None:
    """Programs outside rely on them: a key may come, none may go or mean something else."""
    assert {name: " ".join(field.key for field in model.fields.values()) for name, model in MODELS.items()} == KEYS
    assert set(KEYS) == EVENT_TYPES == {event.type for event in read_events(RECORDED)}


def fields_of(event: Event) -> dict[str, Any]:
    """The fields that are in the line of an event."""
    there = [name for name, field in event.fields.items() if any(map(field.takes, event.data))]
    return {name: event.data.get(name, getattr(event, name)) for name in there}


@pytest.mark.parametrize("line", LINES)
def test_a_recorded_line_is_written_as_it_was(line: str) -> None:
    event = parse_event(line.encode())
    assert event is not None and type(event) is MODELS[event.type] and event.as_json() == line
    copy = type(event)(**fields_of(event))  # type: ignore[call-arg]
    assert event_of(copy.type, copy.data, event.seq, event.time) == event


def test_a_recorded_log_is_written_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = read_events(RECORDED)
    log = EventLog(tmp_path / "events.jsonl")
    times = iter([event.time for event in events])
    monkeypatch.setattr(time, "time", lambda: next(times))
    for event in events:
        log.emit(type(event)(**fields_of(event)))  # type: ignore[call-arg]
    assert (tmp_path / "events.jsonl").read_bytes() == RECORDED.read_bytes()


JUNK: list[Any] = [None, True, -1, 1.5, 2**80, 1e300, "x", [], [1], {}, {"a": "b"}, {"a": None}]


@pytest.mark.parametrize("kind", sorted(EVENT_TYPES))
def test_a_wrong_value_counts_as_missing_and_the_event_counts(kind: str) -> None:
    missing = event_of(kind, {})
    for (name, field), value in itertools.product(MODELS[kind].fields.items(), JUNK):
        key = field.key.replace("<timestep>", "200")
        event = event_of(kind, {key: value, "of_the_future": 1})
        read = getattr(event, name)
        if value is not None and field.kind.read(value) is not None:
            assert read != getattr(missing, name) or not read
        else:
            assert read == getattr(missing, name)
        assert event.data == {key: value, "of_the_future": 1}


@pytest.mark.parametrize(
    ("value", "read"),
    [(3, 3), (3.0, 3), (3.5, None), (-1, None), (True, None), ("3", None), (2**60, None), ([3], None), (None, None)],
)
def test_a_step_is_a_whole_number(value: object, read: int | None) -> None:
    event = event_of("step", {"step": value})
    assert (
        isinstance(event, StepEvent) and event.step == read and event.get("step", "no") == ("no" if read is None else 3)
    )


def test_losses_by_timestep_have_keys_of_their_own() -> None:
    event = ValidationEvent(
        step=3, epoch=1, train_losses_by_timestep={400: 0.5}, losses_by_timestep={200: 0.1}, seconds=1
    )
    assert list(event.data.items()) == [
        ("step", 3), ("epoch", 1), ("loss_t200", 0.1), ("train_loss_t400", 0.5), ("seconds", 1),
    ]  # fmt: skip
    odd = {
        "loss_t": 1,
        "loss_t-1": 1,
        "loss_t²": 1,
        "loss_t٣": 1,
        f"loss_t{'9' * 5000}": 1,
        "loss_t7": "x",
        "loss_t8": 2,
    }
    read = event_of("validation", odd)
    assert isinstance(read, ValidationEvent) and read.losses_by_timestep == {8: 2.0} and read.loss is None


def test_a_type_of_the_future_passes(tmp_path: Path) -> None:
    line = '{"v": 1, "seq": 3, "time": 1.0, "type": "of_the_future", "x": [1]}'
    (tmp_path / "log").write_text(f"{line}\n")
    (event,) = EventFollower(tmp_path / "log").poll()
    assert type(event) is Event and event.get("x") == [1] and event.get("y") is None and event.as_json() == line


def test_a_shortage_is_an_event_and_back() -> None:
    shortage = Shortage("sample", 3, "CUDA out of memory", "cuda:0", 2**29, None, 2**34, 0, 7)
    assert OomEvent.of(shortage).shortage == shortage
    warning = WarningEvent(code="sample_out_of_memory", text="No samples.", **shortage.as_event())
    assert list(warning.data) == KEYS["warning"].split()
    assert OomEvent.of(shortage) == OomEvent.of(shortage) != OomEvent.of(Shortage("train", 3, "", "cpu"))


def test_phases_have_words_for_a_person() -> None:
    assert [Phase.label_of(name) for name in ("load", "validate", "frugal", "of_the_future", "")] == [
        "loading", "measuring the weights", "generating samples in less memory", "of_the_future", "",
    ]  # fmt: skip
    assert f"{Phase.TRAIN}" == Phase.TRAIN == "train" and len({phase.label for phase in Phase}) == len(Phase)


def test_every_field_has_a_meaning() -> None:
    for model in MODELS.values():
        assert model.__doc__
        for field in model.fields.values():
            assert field.meaning.endswith(".") and not field.when.endswith("."), (model, field.name)


def test_the_page_of_all_events_is_up_to_date() -> None:
    root = Path(__file__).resolve().parents[3]
    spec = importlib.util.spec_from_file_location("event_table", root / "tools" / "event_table.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert (root / "docs" / "events.md").read_text(encoding="utf-8") == tool.page(), "python tools/event_table.py"
