"""The session of a rank above 0, which computes and reports nothing."""

from __future__ import annotations

import os
from typing import Any

from engine.runs.layout import RunDir
from engine.training.session import Session, Signals


class _NullLog:
    """Event log, state and control box of a rank above 0: nothing is written, no command arrives."""

    def emit(self, *_: Any) -> None: ...

    def update(self, *_: Any, **__: Any) -> None: ...

    def acknowledge(self, *_: Any) -> None: ...

    def take(self) -> list[Any]:
        return []

    poll = take


class OtherRank(Session):
    """The session of a rank above 0, which reports nothing."""

    is_main = False

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.events = self.state = self.control = _NullLog()  # type: ignore[assignment]
        self.signals = Signals()
        self.pid = os.getpid()
        self.step = 0
        self._stop_reason = ""
        self._warned = set()

    def log(self, text: str) -> None:
        """Rank 0 reports it."""

    def warn(self, code: str, text: str, *, once: bool = False, **facts: Any) -> None:
        """Rank 0 reports it."""
