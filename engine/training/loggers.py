"""Starts the processes of a run's loggers, and reports their failures. The training never waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from engine.config import RunConfig
from engine.config.loggers import LOGGERS, used_loggers
from engine.errors import LoraSmithError
from engine.runs.loggers import MODULE, WAIT_SECONDS, log_folder
from engine.training.session import Session

_relays: list[threading.Thread] = []
"""A thread for each logger of this process; it ends with the logger."""


def start_loggers(session: Session, config: RunConfig, started: int) -> None:
    """Start the loggers of a run; what cannot be started is a warning.

    Args:
        started: number of the event with which this start began.
    """
    try:
        used = used_loggers(config.logging)
        if used.names:
            log_folder(session.run, config.logging)  # its name, once for all of them
    except LoraSmithError as error:
        session.warn("logger", f"{error.message} {error.hint} The training continues without it.")
        return
    for note in used.notes:
        session.log(note)
    for name in used.names:
        _start(session, name, started, on_hub=used.on_hub)


def _start(session: Session, name: str, started: int, *, on_hub: bool) -> None:
    command = [sys.executable, "-P", "-m", MODULE, str(session.run.path), name, str(started)]
    environment = dict(os.environ)
    if on_hub:
        environment.pop("HF_HUB_OFFLINE", None)  # set for the trainer (`trainer_environment`)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)
    except OSError as error:
        _warn(session, name, f"it cannot be started: {error}")
        return
    relay = threading.Thread(target=_relay, args=(session, name, process), name=f"logger {name}", daemon=True)
    relay.start()
    _relays.append(relay)


def end_loggers() -> None:
    """Let the loggers of an ended run write what is left and report a failure, for at most `WAIT_SECONDS` in all."""
    end = time.monotonic() + WAIT_SECONDS
    while _relays:
        _relays.pop().join(max(0.0, end - time.monotonic()))


def _relay(session: Session, name: str, process: subprocess.Popen[bytes]) -> None:
    """Report the line in which a logger says why it failed, or that it was ended."""
    assert process.stdout is not None
    reason = process.stdout.readline().decode("utf-8", "replace").strip()
    code = process.wait()
    if reason or code:
        _warn(session, name, reason or f"its process ended with code {code}")


def _warn(session: Session, name: str, reason: str) -> None:
    text = f"{LOGGERS[name].title} failed: {reason.rstrip('.')}. The training continues without it."
    if session.has_ended:
        print(f"warning: {text}", flush=True)  # the run's events may belong to another process by now
    else:
        session.warn("logger", text)
