"""`lorasmith fetch`: what it asks and tells, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.families.fetch import Progress
from tests.fake_hub import FakeHub, running
from tui.commands.fetch import progress_line
from tui.main import run

WEIGHTS = bytes(range(256)) * 8_000


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one checkpoint, in a working directory of one's own."""
    with running(monkeypatch, place / "hf" / "hub") as hub:
        hub.add("owner/tiny", {"tiny.safetensors": WEIGHTS}, tags=["license:openrail"])
        yield hub


def test_it_shows_the_size_first_and_the_place_last(hub: FakeHub, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "owner/tiny", "--yes"]) == 0
    out, err = capfd.readouterr()
    path = Path(out.strip())
    assert path.name == "tiny.safetensors" and path.read_bytes() == WEIGHTS
    assert "owner/tiny: tiny.safetensors, 2.0 MiB\nTo download: 2.0 MiB\n" in err and "openrail" in err
    assert "2.0 MiB of 2.0 MiB (100 %)" in err and "\r" not in err
    assert run(["fetch", "owner/tiny"]) == 0
    out, err = capfd.readouterr()
    assert out.strip() == str(path) and "owner/tiny is here already: 2.0 MiB." in err


def test_nothing_is_downloaded_unasked(
    hub: FakeHub, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["fetch", "owner/tiny"]) == 2
    assert "Add --yes" in capfd.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: False)
    assert run(["fetch", "owner/tiny"]) == 6
    assert "Nothing was downloaded." in capfd.readouterr().err and hub.downloads() == []


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("nonsense", 2, "nonsense cannot be fetched"),
        ("owner/nothing", 3, "There is no model owner/nothing on the hub"),
        ("owner/tiny/other.safetensors", 3, "owner/tiny has no file other.safetensors"),
        ("owner/closed", 3, "owner/closed is gated"),
    ],
)
def test_what_cannot_be_had(
    hub: FakeHub, what: str, code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add("owner/closed", {"closed.safetensors": WEIGHTS})
    hub.gated.add("owner/closed")
    assert run(["fetch", what, "--yes"]) == code
    out, err = capfd.readouterr()
    assert message in err and "Traceback" not in err and out == ""


def test_ctrl_c_keeps_what_has_come(hub: FakeHub, place: Path) -> None:
    hub.hold = threading.Event()
    command = [sys.executable, "-m", "tui.main", "fetch", "owner/tiny", "--yes"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    blobs = place / "hf" / "hub" / "models--owner--tiny" / "blobs"
    held = threading.Event()
    while not any(file.stat().st_size for file in blobs.glob("*.incomplete")):
        assert process.poll() is None
        held.wait(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "What was downloaded is kept" in err and "Traceback" not in err
    hub.hold.set()
    assert run(["fetch", "owner/tiny", "--yes"]) == 0
    begin = hub.downloads()[-1].removeprefix("tiny.safetensors bytes=").rstrip("-")
    assert 0 < int(begin) < len(WEIGHTS)


def test_a_line_of_progress() -> None:
    line = progress_line(Progress("unet/x.safetensors", 3 * 2**29, 3 * 2**30, 2**28))
    assert line == "1.5 GiB of 3.0 GiB (50 %), 256.0 MiB/s, 6 s left, unet/x.safetensors"
