"""Run directories for the tests of viewers: written by hand, or by a trainer that the test itself plays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from engine.config import RunConfig
from engine.runs import ControlBox, EventLog, RunDir, RunLock, StateWriter, prepare_run, write_exit
from engine.runs.events import (
    ErrorEvent,
    PhaseEvent,
    RunFinishedEvent,
    RunStartedEvent,
    SampleEvent,
    SavedEvent,
    StateSavedEvent,
    StepEvent,
    ValidationEvent,
)
from tests.state_files import write_state

PROMPTS = ("a smithy robot, hammer in hand", "a [robot] on a beach")


def prepared_run(place: Path, name: str = "robot", **settings: Any) -> RunDir:
    """A prepared run in place/<name>/results_current."""
    output = place / name / "results_current"
    return prepare_run(RunConfig().changed(saving={"output_name": name, "output_dir": str(output)}, **settings))


def trained_on_copies(place: Path, name: str = "robot") -> RunDir:
    """A stopped run with a state, trained on copies of the demo's images in place/images, with the record of that."""
    from engine.config import load_config
    from engine.dataset.scan import scan
    from engine.paths import ASSETS
    from engine.runs.compare_inputs import collect_inputs
    from engine.runs.inputs import write_inputs

    images = shutil.copytree(ASSETS / "demo_pictures", place / "images")
    run_dir = prepared_run(
        place, name, dataset={"train_data_dir": str(images)},
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
    )  # fmt: skip
    config = load_config(run_dir.config_path)
    write_inputs(run_dir, collect_inputs(config, scan(config), ASSETS / "demo_base"))
    run_dir.checkpoints.mkdir()
    write_state(run_dir.checkpoints, 2)
    return run_dir


class PlayedTrainer:
    """The trainer's side of a run, in this process: holds the lock, writes events, answers commands on request."""

    def __init__(self, run_dir: RunDir, *, total: int = 100) -> None:
        self.run_dir, self.total, self.step = run_dir, total, 0
        self.events = EventLog(run_dir.events_path, run_dir.reserve_path)
        self.lock = RunLock(run_dir.lock_path)
        self.state = StateWriter(run_dir, interval=0)
        self.box = ControlBox(run_dir, self.events)
        self.events.emit(RunStartedEvent(name=run_dir.name, step=0, pid=os.getpid()))

    def train(self, steps: int = 1, *, updates_per_epoch: int = 10) -> None:
        """Make steps; the first call begins the training."""
        if not self.step:
            epochs = self.total // updates_per_epoch
            self.events.emit(PhaseEvent(name="train", state="start", step=0, max_train_steps=self.total,
                                        epochs=epochs, updates_per_epoch=updates_per_epoch))  # fmt: skip
            self.save_state()
        for _ in range(steps):
            self.step += 1
            epoch = (self.step - 1) // updates_per_epoch + 1
            self.events.emit(
                StepEvent(step=self.step, epoch=epoch, loss=0.2 + 0.1 / self.step, loss_average=0.2 + 0.2 / self.step,
                lr={"unet": 1e-4, "text_encoder": 5e-5}, grad_norm=0.3, images_per_second=2.31, seconds_per_step=0.866,
                eta_seconds=(self.total - self.step) * 0.866,
                memory={"allocated_gib": 3.12, "reserved_gib": 4.0, "peak_gib": 4.25, "alloc_retries": 0},
            ))  # fmt: skip
            self.state.update(state="running", step=self.step, epoch=epoch, max_train_steps=self.total, phase="train")

    def save_state(self) -> None:
        """Report that a full state was saved."""
        path = self.run_dir.checkpoints / f"state-{self.step:08d}.safetensors"
        self.events.emit(StateSavedEvent(path=str(path), step=self.step))

    def save(self, *, validation_loss: float | None = None) -> Path:
        """Save a LoRA of this step, with its validation loss."""
        path = self.run_dir.lora_path(step=self.step)
        path.write_bytes(b"x" * 2**20)
        self.events.emit(SavedEvent(path=str(path), bytes=2**20, step=self.step, epoch=1, difference=0.0))
        if validation_loss is not None:
            self.events.emit(ValidationEvent(step=self.step, loss=validation_loss))
        return path

    def sample(self) -> None:
        """Write a sample of every prompt."""
        self.run_dir.samples.mkdir(exist_ok=True)
        for index, prompt in enumerate(PROMPTS):
            path = self.run_dir.samples / f"{self.run_dir.name}_{self.step:06d}_{index:02d}.png"
            Image.new("RGB", (16, 16), (self.step % 256, 100 * index, 50)).save(path)
            self.events.emit(SampleEvent(path=str(path), prompt=prompt, index=index, step=self.step))

    def answer(self, result: str = "done") -> list[str]:
        """Take the commands, answer them and return their names."""
        commands = self.box.take()
        for command in commands:
            self.box.acknowledge(command, result)
        return [command.name for command in commands]

    def end(self, state: str = "finished", code: int = 0, **error: str) -> None:
        """End by one's own decision."""
        if error:
            self.events.emit(ErrorEvent(**error))
        write_exit(self.run_dir, state, code, self.step, **error)
        self.state.update(force=True, state=state, phase="")
        self.events.emit(RunFinishedEvent(state=state, exit_code=code, step=self.step))
        self.vanish()

    def vanish(self) -> None:
        """End without an event."""
        self.lock.release()
        self.events.close()
        # The record of this living test process would keep the run alive.
        record = self.run_dir.state_path.read_text().replace('"process_start": ', '"process_start": 9')
        self.run_dir.state_path.write_text(record)
