"""The report in a process of its own: whoever asks stays quick, loads nothing heavy, and can end it at any moment."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine import errors
from engine.dataset.report.findings import Report
from engine.errors import LoraSmithError
from engine.processes import child_variables
from engine.runs.launch import trainer_environment

if TYPE_CHECKING:
    from engine.config import RunConfig

LOOK_SECONDS = 0.2
"""How often it is asked whether the report is still wanted."""
_END_SECONDS = 10.0


class ReportCancelled(Exception):
    """It is no longer wanted."""


@dataclass(frozen=True)
class Wish:
    """What the report is to be about, and what else is to be made."""

    config: RunConfig
    html: Path | None = None
    """Where the page goes."""
    repair: Path | None = None
    """Where the repaired copy goes: a new folder."""

    def as_json(self) -> dict[str, Any]:
        """For the process."""
        paths = {
            name: str(path.absolute()) if path else None
            for name, path in (("html", self.html), ("repair", self.repair))
        }
        return {"config": self.config.model_dump(mode="json"), **paths}


def ask(
    wish: Wish, told: Callable[[str, int, int], object] = lambda *_: None, cancelled: Callable[[], bool] = lambda: False
) -> tuple[Report, str]:
    """The report, and what came of the repair in one sentence.

    Args:
        told: (what is done, so many, of so many), from this thread.
        cancelled: asked now and then; True ends the process. What was measured is kept for the next time.

    Raises:
        UsageError: no folder is named, or one folder has two roles; the place of the copy cannot be.
        DataError: a folder is missing, unreadable, or without any picture file.
        StorageError: the page or the copy cannot be written.
        LoraSmithError: the process failed.
        ReportCancelled: `cancelled` said so.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.dataset.report"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            env={**trainer_environment(), **child_variables()},
            start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps(wish.as_json()).encode())
            process.stdin.close()
            answer = _answer(process.stdout, told, cancelled)
        finally:
            _end(process)
        if answer is None:
            raise LoraSmithError(f"The dataset report failed: {_last_words(process, log)}", "Please report this.")
    if "error" in answer:
        kind = getattr(errors, answer["error"], LoraSmithError)
        raise kind(answer["message"], answer["hint"])
    return Report.restored(answer["report"]), answer["repaired"]


def _last_words(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Why it ended without an answer."""
    if process.returncode < 0 and -process.returncode != signal.SIGTERM:
        return f"its process was ended by {signal.Signals(-process.returncode).name}."
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}."


def _answer(
    stream: IO[bytes], told: Callable[[str, int, int], object], cancelled: Callable[[], bool]
) -> dict[str, Any] | None:
    """What the process says at its end; None when it ends without a word."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if cancelled():
            raise ReportCancelled
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return None
        message = json.loads(line)
        if "told" not in message:
            return dict(message)
        told(*message["told"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it save what it has; then it is killed."""
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
