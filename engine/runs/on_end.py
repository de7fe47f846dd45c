"""A command that runs when a training has ended.

Only the person who starts the training can set it: it reaches the trainer through its environment and is stored
nowhere, so that no configuration and no run directory of another person can contain one. A resume needs it again.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence

from engine.runs.events import EventLog, WarningEvent, read_events
from engine.runs.history import RunHistory
from engine.runs.layout import RunDir
from engine.runs.lock import is_locked
from engine.runs.state import read_exit

VARIABLE = "LORASMITH_ON_END"
"""Environment variable of the trainer: the words of the command, as JSON."""


def variables_of(words: Sequence[str]) -> dict[str, str]:
    """The environment variables that pass a command to a trainer."""
    return {VARIABLE: json.dumps(list(words))} if words else {}


def command_from(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The command for this trainer; empty without one."""
    try:
        words = json.loads(environment.get(VARIABLE, ""))
    except ValueError:
        return ()
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else ()


def run_on_end(run_dir: RunDir, words: Sequence[str], exit_code: int) -> None:
    """Run the command, without a shell, and wait for it; its output goes to that of this process.

    Its environment has LORASMITH_RUN, LORASMITH_STATE, LORASMITH_EXIT_CODE and LORASMITH_FILE. A failure is a
    warning of the run, unless it was resumed meanwhile.
    """
    try:
        done = subprocess.run(
            list(words), stdin=subprocess.DEVNULL, env={**os.environ, **_variables(run_dir, exit_code)}, check=False
        )
        failure = f"ended with exit code {done.returncode}" if done.returncode else ""
    except (OSError, ValueError) as error:
        failure = f"could not be started: {error}"
    if failure:
        text = f"The command of --on-end {failure}: {words[0]}"
        print(f"warning: {text}", flush=True)
        if is_locked(run_dir.lock_path) is None:
            log = EventLog(run_dir.events_path)
            log.emit(WarningEvent(code="on_end", text=text))
            log.close()


def _variables(run_dir: RunDir, exit_code: int) -> Mapping[str, str]:
    history = RunHistory()
    history.feed(read_events(run_dir.events_path))
    files = history.files(run_dir)
    ending = read_exit(run_dir) or {}
    return {
        VARIABLE: "",
        "LORASMITH_RUN": str(run_dir.path),
        "LORASMITH_STATE": str(ending.get("state", "failed")),
        "LORASMITH_EXIT_CODE": str(int(exit_code)),
        "LORASMITH_FILE": str(files[-1].path) if files else "",
    }
