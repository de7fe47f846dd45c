"""Follows a run's events and passes them to one logger, from what it wrote before to the end of the run."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from PIL import Image

from engine.config import RunConfig, load_config
from engine.config.loggers import tracker_options
from engine.loggers.online import Trackio, WeightsAndBiases
from engine.loggers.scalars import Entry, SampleImage, Scalars
from engine.loggers.setup import Logger, Setup, shown_settings
from engine.loggers.tensorboard import TensorBoard
from engine.runs.events import Event, EventFollower, RunFinishedEvent, RunStartedEvent
from engine.runs.layout import RunDir, own_file, read_record, write_record
from engine.runs.lock import RunLock, is_locked
from engine.runs.loggers import lock_path, log_folder, record_path
from engine.runs.values import count, text

KINDS: dict[str, Callable[[Setup], Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
POLL_SECONDS = 0.5
RECORD_SECONDS = 5.0
"""After a power cut the entries of this time may be written twice."""
LINGER_SECONDS = 30.0
"""How long this process outlives the trainer."""
PREDECESSOR_SECONDS = 60.0
"""How long it waits for the logger of an earlier start of the same run."""


class NotReadyError(Exception):
    """The logger of an earlier start does not end."""


@dataclass
class Written:
    """What a logger has written: the last axis value of each series. A resumed run repeats steps, which are skipped."""

    id: str = ""
    last: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, run_dir: RunDir, name: str) -> Written:
        """From the run's directory; empty for a new run."""
        record = read_record(record_path(run_dir, name))
        last = record.get("last")
        axes = {key: count(value) for key, value in last.items()} if isinstance(last, dict) else {}
        return cls(text(record.get("id")) or "", {key: axis for key, axis in axes.items() if axis is not None})

    def is_new(self, series: str, axis: int) -> bool:
        """Whether nothing was written at or after `axis`; from now on it is written."""
        if axis <= self.last.get(series, -1):
            return False
        self.last[series] = axis
        return True


class Trainer:
    """The process that trains, seen from this one."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def is_gone(self) -> bool:
        """Whether it has ended; a process that replaced itself has not."""
        return os.getppid() != self._pid

    def end_with_it(self) -> None:
        """End this process soon after the trainer, whatever a library is doing."""
        threading.Thread(target=self._watch, name="trainer", daemon=True).start()

    def _watch(self) -> None:
        while not self.is_gone:
            time.sleep(POLL_SECONDS)
        time.sleep(LINGER_SECONDS)
        os._exit(1)


class Following:
    """One logger of one run.

    Args:
        name: of the logger.
        started: number of the `run_started` event with which this start of the run began.

    Raises:
        LoraSmithError: the configuration or the log folder cannot be used.
    """

    def __init__(self, run_dir: RunDir, name: str, started: int) -> None:
        self.run_dir, self.name, self._started = run_dir, name, started
        self._directory = _identity(run_dir)
        config = load_config(run_dir.config_path)
        self._scalars = Scalars(config.training.optimizer_type)
        self._written = Written.read(run_dir, name)
        setup = self._setup(config)
        self._record()
        self._logger = KINDS[name](setup)
        self._recorded = time.monotonic()

    def _setup(self, config: RunConfig) -> Setup:
        logging, written = config.logging, self._written
        continues = bool(written.last)
        written.id = written.id or secrets.token_hex(4)
        options = tracker_options(logging).get(self.name, {})
        name = logging.wandb_run_name or config.saving.output_name
        values = shown_settings(config) if logging.log_config else None
        folder = log_folder(self.run_dir, logging)
        return Setup(folder, logging.project, name, options, values, written.id, continues)

    def run(self, trainer: Trainer) -> None:
        """Follow to the end of this start of the run. Any error is the logger's."""
        follower, ended_well = EventFollower(self.run_dir.events_path), False
        while True:
            last_look = trainer.is_gone
            ended = False
            while not ended and (events := follower.poll()):
                for event in events:
                    self._pass_on(event)
                    if ended := self._ends(event):
                        ended_well = event.get("state") != "failed"
                        break
            if not self._is_same_run():
                return
            self._logger.flush()
            if ended or last_look:
                break
            if time.monotonic() - self._recorded >= RECORD_SECONDS:
                self._record()
            time.sleep(POLL_SECONDS)
        self._logger.finish(ended_well)
        if self._is_same_run():
            self._record()

    def _ends(self, event: Event) -> bool:
        """Whether this start of the run ends with an event: it has finished, or its process replaced itself."""
        replaced = isinstance(event, RunStartedEvent) and event.seq > self._started
        return replaced or (isinstance(event, RunFinishedEvent) and event.seq > self._started)

    def _pass_on(self, event: Event) -> None:
        for shown in self._scalars.feed(event):
            if isinstance(shown, Entry):
                if self._written.is_new(shown.series, shown.axis):
                    self._logger.log(shown)
            elif self._written.is_new(f"sample_{shown.index}", shown.step):
                self._show(shown)

    def _show(self, image: SampleImage) -> None:
        path = own_file(self.run_dir.samples, image.path)
        if path is None:
            return
        try:
            with Image.open(path, formats=["PNG"]) as opened:
                opened.verify()
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombError,
        ):  # deleted or replaced: the other samples are shown all the same
            return
        with suppress(FileNotFoundError):
            self._logger.show(image, path)

    def _is_same_run(self) -> bool:
        """Whether the directory still holds this run: an ended one may be moved away for the next."""
        return _identity(self.run_dir) == self._directory

    def _record(self) -> None:
        write_record(record_path(self.run_dir, self.name), {"id": self._written.id, "last": self._written.last})
        self._recorded = time.monotonic()


def _identity(run_dir: RunDir) -> tuple[int, int] | None:
    try:
        info = run_dir.meta_path.lstat()
    except OSError:
        return None
    return info.st_dev, info.st_ino


def lock_of(run_dir: RunDir, name: str) -> RunLock:
    """The lock of a logger, as soon as the process of an earlier start has ended.

    Raises:
        NotReadyError: it does not end.
        LoraSmithError: the lock cannot be written.
    """
    path, end = lock_path(run_dir, name), time.monotonic() + PREDECESSOR_SECONDS
    while is_locked(path) is not None:
        if time.monotonic() > end:
            raise NotReadyError("its process from the earlier start does not end")
        time.sleep(POLL_SECONDS)
    return RunLock(path)
