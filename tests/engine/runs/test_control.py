"""Commands to the trainer: by rename, in order, each answered, none executed twice."""

from __future__ import annotations

import json

import pytest

from engine.config.change import LIVE_KEYS
from engine.runs import ControlBox, EventLog, RunDir, read_events, request
from engine.runs.control import Command, clear
from tests.refusals import refused


@pytest.fixture
def box(prepared: RunDir) -> ControlBox:
    return ControlBox(prepared, EventLog(prepared.events_path))


def test_commands_come_once_and_in_order(prepared: RunDir, box: ControlBox) -> None:
    assert box.take() == []
    ids = [request(prepared, name) for name in ("pause", "continue", "save_now")]
    change = {"key": "training.unet_lr", "value": 2e-4}
    ids.append(request(prepared, "set", change))
    commands = box.take()
    assert [command.name for command in commands] == ["pause", "continue", "save_now", "set"]
    assert [command.id for command in commands] == ids
    assert commands[-1].value == change
    assert box.take() == [] and list(prepared.control.iterdir()) == []


def test_a_poll_looks_at_most_five_times_a_second(
    prepared: RunDir, box: ControlBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks, take = 1000.0, [], box.take

    def counted() -> list[Command]:
        looks.append(now)
        return take()

    monkeypatch.setattr(box, "take", counted)
    monkeypatch.setattr("engine.runs.control.time.monotonic", lambda: now)
    assert box.poll() == [] and looks == [1000.0], "the first one looks"
    request(prepared, "stop")
    for milliseconds in range(5, 1000, 5):
        now = 1000 + milliseconds / 1000
        if box.poll():
            break
    assert now == pytest.approx(1000.2), "a command waits for a fifth of a second at most"
    for milliseconds in range(205, 2000, 5):
        now = 1000 + milliseconds / 1000
        box.poll()
    assert len(looks) == 10
    for second in (1010, 1015):
        request(prepared, "save_now")
        now = second
        assert [command.name for command in box.poll()] == ["save_now"], "a slow step looks each time"


def test_an_answer_carries_the_id(prepared: RunDir, box: ControlBox) -> None:
    identifier = request(prepared, "stop")
    box.acknowledge(box.take()[0], "done")
    (event,) = read_events(prepared.events_path)
    assert (event.type, event.get("id"), event.get("command"), event.get("result")) == (
        "control_ack", identifier, "stop", "done",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not json", "not a command file"),
        (b'["stop"]', "not a command file"),
        (b'{"command": "explode"}', "unknown command 'explode'"),
        (b'{"command": ["stop"]}', "unknown command"),
        (b'{"command": "set", "value": {"key": "network.network_dim", "value": 8}}', "cannot change"),
        (b'{"command": "set", "value": "training.unet_lr=1"}', "needs a key and a value"),
    ],
)
def test_invalid_commands_are_refused_once(prepared: RunDir, box: ControlBox, content: bytes, why: str) -> None:
    (prepared.control / "from-a-script.json").write_bytes(content)
    assert box.take() == [] and box.take() == []
    (event,) = read_events(prepared.events_path)
    assert event.get("id") == "from-a-script"
    assert event.get("result").startswith("refused: ") and why in event.get("result")


def test_a_half_written_command_is_not_seen(prepared: RunDir, box: ControlBox) -> None:
    (prepared.control / ".x.json.1.tmp").write_text('{"comm')
    assert box.take() == []


def test_a_key_that_cannot_change_is_refused_before_it_is_sent(prepared: RunDir) -> None:
    with refused("key-not-changeable") as caught:
        request(prepared, "set", {"key": "network.network_dim", "value": 8})
    assert all(key in caught.value.hint for key in LIVE_KEYS)
    assert list(prepared.control.iterdir()) == []


def test_old_commands_are_cleared(prepared: RunDir, box: ControlBox) -> None:
    request(prepared, "stop")
    (prepared.control / ".half.tmp").write_text("")
    assert clear(prepared) == 1
    assert box.take() == [] and list(prepared.control.iterdir()) == []


def test_the_file_is_plain_json(prepared: RunDir) -> None:
    identifier = request(prepared, "stop")
    assert json.loads((prepared.control / f"{identifier}.json").read_text()) == {"command": "stop", "value": None}
