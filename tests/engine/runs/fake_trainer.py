"""A trainer for tests: the real one's manners (lock, events, control, signals, exit.json) without a model.

usage: fake_trainer.py RUN_DIR STEPS SECONDS_PER_STEP [early|nospace|stubborn|oom]
"""

import os
import signal
import sys
import time
from pathlib import Path

from engine.atomic import read_json
from engine.runs import ControlBox, EventLog, RunDir, RunLock, StateWriter, write_exit
from engine.runs.events import (
    ErrorEvent,
    OomEvent,
    PhaseEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
)

signals: list[int] = []


def on_signal(number: int, _: object) -> None:
    signals.append(number)
    if len(signals) > 1:
        code = 130 if number == signal.SIGINT else 143
        write_exit(run_dir, "failed", code, 0, message="Ended at once by a second signal.")
        os._exit(code)


run_dir, steps, pause, mode = RunDir(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3]), "".join(sys.argv[4:])
if mode == "early":
    sys.exit("ImportError: no such library")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, on_signal)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
lock = RunLock(run_dir.lock_path)
events = EventLog(run_dir.events_path, run_dir.reserve_path)
box, state = ControlBox(run_dir, events), StateWriter(run_dir, interval=0)
first = int((read_json(run_dir.state_path) or {}).get("step") or 0)
events.emit(RunStartedEvent(name=run_dir.name, step=first, pid=0))
print("fake trainer", flush=True)


def finish(how: str, code: int, step: int, **details: str) -> None:
    if details:
        events.emit(ErrorEvent(**details))
    write_exit(run_dir, how, code, step, **details)
    state.update(force=True, state=how)
    events.emit(RunFinishedEvent(state=how, exit_code=code, step=step))
    sys.exit(code)


if mode == "nospace":
    finish("failed", 5, 0, title="Storage", message="No space left.", hint="Free some.")
if mode == "oom" and first == 0:
    state.update(state="running", step=1)
    events.emit(OomEvent(phase="train", step=1, message="no memory", device="cpu"))
    finish("failed", 4, 1, title="Out of memory", message="No memory.", hint="Less.")
stop = False
events.emit(PhaseEvent(name="train", state="start", step=first))
for step in range(first + 1, steps + 1):
    time.sleep(pause)
    state.update(state="running", step=step, epoch=1, max_train_steps=steps, phase="train")
    events.emit(StepEvent(step=step, epoch=1, loss=1 / step, loss_average=1 / step, lr={"unet": 1e-4}))
    for command in box.take():
        box.acknowledge(command, "done")
        stop = stop or command.name == "stop"
    if mode == "stubborn":
        continue
    if signals or stop:
        events.emit(StateSavedEvent(path=str(run_dir.checkpoints), step=step))
        finish("stopped", 6, step)
run_dir.lora_path().write_bytes(b"lora")
events.emit(SavedEvent(path=str(run_dir.lora_path()), bytes=4, step=steps, epoch=1, difference=0.0))
finish("finished", 0, steps)
