"""The event log: one writer that never stops the training, readers that tolerate everything."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from engine.runs.events import (
    ErrorEvent,
    EventFollower,
    EventLog,
    NoteEvent,
    ProgressEvent,
    SavedEvent,
    StepEvent,
    read_events,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_a_line_is_versioned_and_finite(path: Path) -> None:
    log = EventLog(path)
    log.emit(StepEvent(step=1, loss=float("nan"), lr={"unet": 1e-4, "text": float("inf")}))
    log.emit(SavedEvent(path=Path("/a/\udcff[b]")))
    line, saved = map(json.loads, path.read_text(encoding="ascii").splitlines())
    assert {key: line[key] for key in ("v", "seq", "type", "step", "loss", "lr")} == {
        "v": 1, "seq": 0, "type": "step", "step": 1, "loss": None, "lr": {"unet": 1e-4, "text": None},
    }  # fmt: skip
    assert os.fsencode(saved["path"]) == b"/a/\xff[b]"
    assert isinstance(line["time"], float)


def test_a_resumed_log_continues_and_ends_a_half_line(path: Path) -> None:
    log = EventLog(path)
    log.emit(NoteEvent(text="a"))
    log.emit(NoteEvent(text="b"))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"v": 1, "seq": 2, "ty')
    follower = EventFollower(path)
    assert [event.get("text") for event in follower.poll()] == ["a", "b"]
    assert follower.poll() == [] and follower.partial
    EventLog(path).emit(NoteEvent(text="c"))
    assert [(event.seq, event.get("text")) for event in follower.poll()] == [(2, "c")]
    assert follower.bad_lines == 1
    assert [event.seq for event in read_events(path)] == [0, 1, 2]


def test_a_line_written_in_two_parts_is_read_once(path: Path) -> None:
    line = b'{"v": 1, "seq": 0, "time": 1.0, "type": "note", "text": "whole"}\n'
    path.write_bytes(line[:20])
    follower = EventFollower(path)
    assert follower.poll() == []
    with path.open("ab") as file:
        file.write(line[20:])
    assert [event.get("text") for event in follower.poll()] == ["whole"]
    assert follower.poll() == [] and follower.bad_lines == 0


def test_unknown_types_pass_and_bad_lines_are_counted(path: Path) -> None:
    path.write_bytes(
        b'{"v": 9, "seq": 4, "time": 1, "type": "of_the_future", "x": 1}\n[1]\n"text"\n{"seq": 5}\n\xff\xfe\n\n'
        b'{"v": 1, "seq": 6, "time": 2, "type": "note", "text": "end"}\n'
    )
    follower = EventFollower(path)
    assert [event.type for event in follower.poll()] == ["of_the_future", "note"]
    assert follower.bad_lines == 4


def test_a_replaced_file_is_read_from_its_start(path: Path) -> None:
    EventLog(path).emit(NoteEvent(text="old run"))
    follower = EventFollower(path)
    follower.poll()
    path.unlink()
    assert follower.poll() == []
    EventLog(path).emit(NoteEvent(text="new run, and a much longer line than the one that was there before"))
    assert [event.get("text", "")[:3] for event in follower.poll()] == ["new"]


def test_a_copied_or_shortened_file_repeats_nothing(path: Path) -> None:
    log = EventLog(path)
    for number in range(5):
        log.emit(NoteEvent(text=str(number)))
    follower = EventFollower(path)
    assert len(follower.poll()) == 5
    content = path.read_bytes()
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:3]))
    assert follower.poll() == []
    copy = path.with_name("copy")
    copy.write_bytes(content + b'{"v": 1, "seq": 5, "time": 1, "type": "note", "text": "5"}\n')
    copy.replace(path)
    assert [event.get("text") for event in follower.poll()] == ["5"]


def test_a_long_log_is_read_in_pieces(path: Path) -> None:
    log = EventLog(path)
    for number in range(3000):
        log.emit(ProgressEvent(unit="x" * 800, done=number))
    follower = EventFollower(path)
    assert len(follower.poll()) < 3000
    assert [event.data["done"] for event in read_events(path)] == list(range(3000))


def test_a_full_disk_is_counted_and_half_a_line_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(path)
    log.emit(NoteEvent(text="before"))
    real = os.write

    def short(file: int, data: bytes) -> int:
        return real(file, data[:10])

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    for refusing in (short, full):
        monkeypatch.setattr(os, "write", refusing)
        log.emit(NoteEvent(text="lost"))
    monkeypatch.setattr(os, "write", real)
    log.emit(NoteEvent(text="after"))
    assert log.dropped == 2
    assert [(event.seq, event.get("text")) for event in read_events(path)] == [(0, "before"), (3, "after")]


def test_a_file_size_limit_does_not_end_the_writer(tmp_path: Path) -> None:
    """A real refusal by the kernel, in a process of its own: the limit cannot be taken back."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from engine.runs.events import EventLog, NoteEvent;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}));"
        "log = EventLog(Path(sys.argv[1]));"
        "[log.emit(NoteEvent(text='x' * 100)) for _ in range(20)]; print(log.dropped)"
    )
    path = tmp_path / "events.jsonl"
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, check=True)
    kept = read_events(path)
    assert 0 < len(kept) < 20 and int(done.stdout) == 20 - len(kept)


def test_the_end_is_reported_on_a_full_disk(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = tmp_path / "reserve"
    reserve.write_bytes(b"x")
    log = EventLog(path, reserve)
    real = os.write

    def full_while_reserved(file: int, data: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "full")
        return real(file, data)

    monkeypatch.setattr(os, "write", full_while_reserved)
    log.emit(NoteEvent(text="lost"))
    assert reserve.exists()
    log.emit(ErrorEvent(title="Storage", message="full", hint=""))
    assert [event.type for event in read_events(path)] == ["error"]


def test_an_unknown_field_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="StepEvent: stepp"):
        StepEvent(stepp=1)  # type: ignore[call-arg]
    with pytest.raises(AssertionError, match="NoteEvent: code"):
        NoteEvent(text="a", code="b")  # type: ignore[call-arg]


def test_an_event_cannot_change() -> None:
    event = NoteEvent(text="a")
    with pytest.raises(AttributeError):
        event.text = "b"  # type: ignore[misc]
    assert event.text == "a" and not isinstance(event, StepEvent)
