"""The made-up machine and runs of the screenshots: the same at every time and on every computer."""

from __future__ import annotations

import fcntl
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.config import load_config  # noqa: E402
from engine.hardware.system import System  # noqa: E402
from engine.paths import ASSETS  # noqa: E402
from engine.queue import Queue, Reason, queue_directory  # noqa: E402
from engine.queue.store import NewEntry  # noqa: E402
from engine.runs import EventLog, RunDir, RunLock, prepare_run, write_exit  # noqa: E402
from engine.runs.events import (  # noqa: E402
    ErrorEvent,
    OomEvent,
    PhaseEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
    ValidationEvent,
)
from engine.runs.layout import write_record  # noqa: E402
from engine.worker import Cancelled  # noqa: E402
from tests.nvml.fake import CUDA_TORCH, playing  # noqa: E402

PLACE = Path("/tmp/smithy")
"""Paths stand in the images, so everything is made here, and removed afterwards."""
NOW = 1_795_428_000.0
"""2026-11-23, 10:00 UTC."""
HOST, PID = "anvil", 4711
MACHINE = System("Linux 6.12.57", "AMD Ryzen 7 7700 8-Core Processor", 8, 16, 32 * 2**30, 21 * 2**30, False)
STEPS, EPOCH = 1200, 80
PROMPTS = (
    "smithy on a green background",
    "smithy next to a yellow star, on a blue background",
    "a red house on a yellow background",
)


@contextmanager
def world() -> Iterator[dict[str, RunDir]]:
    """The machine, the home and the runs, by name; one process at a time.

    Raises:
        FileExistsError: somebody else's files are at PLACE.
    """
    with ExitStack() as stack:
        lock = stack.enter_context(Path(f"{PLACE}.lock").open("a+"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if lock.read():  # what is there was left by a process that was killed, or by a thread that wrote once more
            shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir()
        lock.write("made\n")
        lock.flush()
        stack.callback(_remove, lock)
        for manager in _frozen():
            stack.enter_context(manager)
        stack.callback(os.chdir, Path.cwd())
        (PLACE / "loras").mkdir()
        os.chdir(PLACE / "loras")
        (PLACE / "models").mkdir()
        (PLACE / "models" / "demo_base").symlink_to(ASSETS / "demo_base")
        shutil.copytree(ASSETS / "demo_pictures", PLACE / "images")
        shutil.copytree(ASSETS / "demo_heldout", PLACE / "heldout")
        runs = _runs(stack)
        _queue(stack, runs)
        yield runs


def _remove(lock: IO[str]) -> None:
    """Remove everything; the lock keeps the record of what was made until it is gone."""
    shutil.rmtree(PLACE, ignore_errors=True)
    if not PLACE.exists():
        lock.truncate(0)


def _frozen() -> Iterator[Any]:
    """Everything that differs between two computers or two days."""
    home = str(PLACE)
    variables = {"HOME": home, "XDG_STATE_HOME": f"{home}/.state", "XDG_CONFIG_HOME": f"{home}/.config",
                 "XDG_CACHE_HOME": f"{home}/.cache", "LORASMITH_QUEUE": f"{home}/.state/queue",
                 "TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}  # fmt: skip
    yield mock.patch.dict(os.environ, variables)
    for name in ("NO_COLOR", "CUDA_VISIBLE_DEVICES", "TZ"):
        os.environ.pop(name, None)
    yield mock.patch("time.localtime", lambda seconds=NOW: time.gmtime(seconds))
    yield mock.patch("time.time", lambda: NOW)
    memory = SimpleNamespace(total=MACHINE.memory_total, available=MACHINE.memory_free)
    yield mock.patch("psutil.virtual_memory", lambda: memory)
    yield mock.patch("engine.hardware.system._container_memory", lambda: (None, None))
    yield mock.patch("engine.hardware.system.read_system", lambda: MACHINE)
    yield mock.patch("shutil.disk_usage", lambda path: SimpleNamespace(total=2**40, used=2**39, free=412 * 2**30))
    yield mock.patch("engine.runs.launch.logout_warning", lambda: None)
    identity = {"pid": PID, "process_start": 1.0, "boot_id": "boot", "host": HOST}
    for module in ("lock", "state", "prepare"):
        yield mock.patch(f"engine.runs.{module}.own_identity", lambda: identity)
    for module in ("state", "prepare", "identity"):
        yield mock.patch(f"engine.runs.{module}.host", lambda: HOST)
    yield mock.patch("tui.screens.review.plan_vram", _still_planning)  # its figures come after a time of their own
    yield playing("rtx4060ti", torch=CUDA_TORCH)


def _still_planning(_: object, cancelled: Callable[[], bool]) -> list[str]:
    while not cancelled():
        time.sleep(0.05)
    raise Cancelled


def _runs(stack: ExitStack) -> dict[str, RunDir]:
    """One of each state; the oldest first."""
    runs = {}
    for days, name in enumerate(("harbour", "marble", "lighthouse", "ember", "smithy-v1")):
        with mock.patch("time.time", lambda days=days: NOW - (4 - days) * 86_400 - 5_000):
            runs[name] = _prepared(name)
    _state(runs["harbour"], NOW - 4 * 86_400, "running", 900, host="gpu-server-7")
    _state(runs["marble"], NOW - 3 * 86_400, "running", 640)
    _play(runs["lighthouse"], STEPS, NOW - 2 * 86_400)
    _state(runs["lighthouse"], NOW - 2 * 86_400, "finished", STEPS)
    write_exit(runs["lighthouse"], "finished", 0, STEPS)
    _state(runs["ember"], NOW - 86_400, "failed", 0)
    _run_out(runs["ember"])
    _play(runs["smithy-v1"], 760, NOW)
    _state(runs["smithy-v1"], NOW, "running", 760)
    stack.enter_context(RunLock(runs["smithy-v1"].lock_path))
    return runs


def _queue(stack: ExitStack, runs: Mapping[str, RunDir]) -> None:
    """Two of the runs, and some that wait; its process works."""
    queue = Queue(queue_directory())
    names = ("ember", "smithy-v1", *(f"smithy-unet_lr-{rate}" for rate in ("1e-4", "2e-4", "4e-4")))
    entries = queue.add([_new_entry(name) for name in names])
    reason = Reason("out-of-memory", "Out of memory", "Out of memory while training step 1.", "Try a smaller batch.")
    began = {"started": NOW - 5_000, "tries": 1, "node": HOST}
    queue.write(replace(entries[0], state="failed", ended=NOW - 4_000, reason=reason, **began))
    queue.write(replace(entries[1], state="running", cards=("0",), **began))
    queue.hold([entries[3]])
    stack.enter_context(RunLock(queue.private / "lock"))
    write_record(queue.private / "runner.json", {"place": "this machine", "pid": PID})


def _new_entry(name: str) -> NewEntry:
    place = str(PLACE / "loras" / name / "results_current")
    config = load_config("sd15-realistic").changed(saving={"output_name": name, "output_dir": place})
    return NewEntry(
        config, ("lorasmith", "--preset", "sd15-realistic", "--images", str(PLACE / "images"), "--name", name)
    )


def _prepared(name: str) -> RunDir:
    config = load_config("sd15-realistic")
    return prepare_run(config.changed(
        model={"pretrained_model_name_or_path": str(PLACE / "models" / "demo_base")},
        dataset={"train_data_dir": str(PLACE / "images"), "class_tokens": name},
        training={"max_train_steps": STEPS},
        memory={"device": "cuda:0"},
        saving={"output_name": name, "output_dir": str(PLACE / "loras" / name / "results_current")},
    ))  # fmt: skip


def _state(run_dir: RunDir, when: float, state: str, step: int, **other: Any) -> None:
    write_record(run_dir.state_path, {
        "state": state, "step": step, "epoch": step // EPOCH + 1, "max_train_steps": STEPS, "phase": "train",
        "updated": when, "pid": PID + 1, "process_start": 1.0, "boot_id": "another", "host": HOST, **other,
    })  # fmt: skip


def _play(run_dir: RunDir, steps: int, end: float) -> None:
    """The events of a training that went well: a loss that falls and scatters, samples that become clear."""
    draw, moment, average = random.Random(7), [end - steps * 1.1], 0.19
    with mock.patch("time.time", lambda: moment[0]):
        log = EventLog(run_dir.events_path)
        log.emit(RunStartedEvent(name=run_dir.name, step=0, pid=PID))
        log.emit(PhaseEvent(name="train", state="start", step=0, max_train_steps=STEPS, epochs=STEPS // EPOCH,
                 updates_per_epoch=EPOCH))  # fmt: skip
        log.emit(ValidationEvent(step=0, loss=0.2013))
        _sample(run_dir, log, 0)
        for step in range(1, steps + 1):
            moment[0] += 1.1
            loss = 0.112 + 0.075 * math.exp(-step / 350) + draw.gauss(0, 0.021)
            average += (loss - average) * 0.02
            rate = 1e-4 * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
            log.emit(
                StepEvent(
                    step=step,
                    epoch=(step - 1) // EPOCH + 1,
                    loss=loss,
                    loss_average=average,
                    lr={"unet": rate, "text_encoder": rate / 2},
                    grad_norm=0.31,
                    images_per_second=1.83,
                    seconds_per_step=1.09,
                    eta_seconds=(STEPS - step) * 1.13,
                    memory={"allocated_gib": 4.37, "reserved_gib": 5.12, "peak_gib": 4.86, "alloc_retries": 0},
                )
            )
            if step % EPOCH == 0:
                _end_epoch(run_dir, log, step)
        log.close()


def _end_epoch(run_dir: RunDir, log: EventLog, step: int) -> None:
    path = run_dir.lora_path() if step == STEPS else run_dir.lora_path(epoch=step // EPOCH)
    with path.open("wb") as file:
        file.truncate(18_884_608)
    log.emit(SavedEvent(path=str(path), bytes=18_884_608, step=step, epoch=step // EPOCH, difference=0.0))
    validation_loss = 0.118 + 0.083 * math.exp(-step / 300) + 0.000012 * max(0, step - 800)
    log.emit(ValidationEvent(step=step, loss=validation_loss))
    log.emit(StateSavedEvent(path=str(run_dir.checkpoints), step=step))
    if step % (3 * EPOCH) == 0:
        _sample(run_dir, log, step)


def _sample(run_dir: RunDir, log: EventLog, step: int) -> None:
    """The demo's own images, the clearer the later."""
    run_dir.samples.mkdir(exist_ok=True)
    shown = [ASSETS / "demo_pictures" / f"smithy_{number:02d}.png" for number in (10, 11, 15)]
    for index, (prompt, source) in enumerate(zip(PROMPTS, shown, strict=True)):
        path = run_dir.samples / f"{run_dir.name}_{step:06d}_{index:02d}_20261123100000_{index + 1}.png"
        with Image.open(source) as opened:
            image = opened.convert("RGB").resize((256, 256), Image.Resampling.NEAREST)
        image.filter(ImageFilter.GaussianBlur(28 * math.exp(-step / 260))).save(path)
        log.emit(SampleEvent(path=str(path), prompt=prompt, index=index, step=step))


def _run_out(run_dir: RunDir) -> None:
    """Too large a batch for the card."""
    message = "Tried to allocate 1.50 GiB."
    with mock.patch("time.time", lambda: NOW - 86_400):
        log = EventLog(run_dir.events_path)
        log.emit(RunStartedEvent(name=run_dir.name, step=0, pid=PID))
        log.emit(PhaseEvent(name="train", state="start", step=0, max_train_steps=STEPS, epochs=STEPS // EPOCH,
                 updates_per_epoch=EPOCH))  # fmt: skip
        log.emit(
            OomEvent(
                phase="train",
                step=1,
                message=message,
                device="cuda:0",
                requested=1610612736,
                free=1_073_741_824,
                total=17_175_674_880,
                allocated=14_495_514_624,
                reserved=15_032_385_536,
            )
        )
        ending = {"title": "Out of memory", "message": "Out of memory while training step 1.",
                  "hint": "The run's screen shows what helps."}  # fmt: skip
        log.emit(ErrorEvent(**ending))
        write_exit(run_dir, "failed", 4, 0, **ending)
        log.emit(RunFinishedEvent(state="failed", exit_code=4, step=0))
        log.close()
