"""Lines on stderr that are drawn over."""

from __future__ import annotations

import pytest

from tui.shell import output


def test_a_progress_line_is_wiped_at_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the last steps come quickly one after the other."""
    now = [0.0]
    monkeypatch.setattr(output, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    report = output.counter("looking")
    for moment, done in ((0.1, 1), (0.7, 2), (0.8, 3)):
        now[0] = moment
        report(done, 3)
    assert capsys.readouterr().err == "\r\x1b[Klooking: 2 of 3\r\x1b[K"
    quick = output.counter("looking")
    quick(3, 3)
    assert capsys.readouterr().err == "", "what was quick leaves no trace"
