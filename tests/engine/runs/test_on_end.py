"""The command at the end of a training: its words, its environment, and that it changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from engine.runs import EventLog, RunDir, RunLock, read_events
from engine.runs.events import SavedEvent
from engine.runs.on_end import VARIABLE, command_from, run_on_end, variables_of
from tests.engine.runs.test_prepare import end

WRITE = (
    "import json, os, sys; own = {k: v for k, v in os.environ.items() if k.startswith('LORASMITH')};"
    "json.dump([sys.argv[1:], own], open(sys.argv[1], 'w')); sys.exit(int(sys.argv[2]))"
)


def warnings(run_dir: RunDir) -> list[str]:
    return [event.get("text") for event in read_events(run_dir.events_path) if event.type == "warning"]


def test_words_go_through_the_environment_and_nothing_else(prepared: RunDir) -> None:
    words = ["notify", "a b", "$HOME; rm"]
    assert command_from(variables_of(words)) == tuple(words)
    assert (
        variables_of([]) == {}
        and command_from({}) == command_from({VARIABLE: "x"}) == command_from({VARIABLE: "[1]"}) == ()
    )
    assert all(VARIABLE not in path.read_text(errors="replace") for path in prepared.path.rglob("*") if path.is_file())


def test_the_command_gets_the_ending_in_its_environment(prepared: RunDir, tmp_path: Path) -> None:
    end(prepared, "stopped", 6)
    prepared.lora_path(step=7).write_bytes(b"x")
    log = EventLog(prepared.events_path)
    log.emit(SavedEvent(path=str(prepared.lora_path(step=7)), bytes=1, step=7, epoch=1))
    output = tmp_path / "it's told"
    run_on_end(prepared, [sys.executable, "-c", WRITE, str(output), "0"], 6)
    arguments, variables = json.loads(output.read_text())
    assert arguments[0] == str(output), "no shell splits it"
    assert variables == {
        VARIABLE: "", "LORASMITH_RUN": str(prepared.path), "LORASMITH_STATE": "stopped", "LORASMITH_EXIT_CODE": "6",
        "LORASMITH_FILE": str(prepared.lora_path(step=7)),
    }  # fmt: skip
    assert warnings(prepared) == []


@pytest.mark.parametrize(
    ("words", "what"),
    [([sys.executable, "-c", "raise SystemExit(3)"], "ended with exit code 3"), (["/gone"], "could not be started")],
)
def test_its_failure_is_a_warning(prepared: RunDir, words: list[str], what: str) -> None:
    end(prepared)
    before = prepared.exit_path.read_bytes()
    run_on_end(prepared, words, 0)
    (warning,) = warnings(prepared)
    assert what in warning and words[0] in warning
    assert prepared.exit_path.read_bytes() == before


def test_a_run_that_was_resumed_meanwhile_is_left_alone(prepared: RunDir) -> None:
    end(prepared)
    with RunLock(prepared.lock_path):
        run_on_end(prepared, ["/gone"], 0)
    assert warnings(prepared) == []
