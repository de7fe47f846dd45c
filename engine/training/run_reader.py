"""Reads a run's settings and images in a thread that begins while torch is imported. Loads no torch itself.

The import takes seconds and one core; decoding images takes another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Generic, NamedTuple, Self, TypeVar

from engine.config import load_config, require_paths
from engine.dataset.checked import CheckedImages
from engine.dataset.digests import FileDigests
from engine.dataset.fitted import FittedImages
from engine.dataset.images import Scan
from engine.dataset.scan import scan, verify_pixels
from engine.errors import LoraSmithError
from engine.families.resolved import ResolvedRun, resolve_run
from engine.models.read_ahead import read_ahead
from engine.runs.compare_inputs import collect_inputs, completed, model_files, model_places
from engine.runs.inputs import Inputs, read_inputs
from engine.runs.layout import RunDir
from engine.runs.resume import last_saved_state
from engine.training.needed import items_to_encode
from engine.training.session import Session, Stopped
from engine.types import Progress
from engine.world import own_world

T = TypeVar("T")
LOOK_SECONDS = 0.2
"""Between two looks whether a stop was requested."""
_LATER = 2**24
"""Model files of more bytes get no digest yet at the first start."""


class CollectedInputs(NamedTuple):
    """What a run is trained on, and its record of that."""

    recorded: Inputs | None
    step: int | None
    """Of the newest state; None without one."""
    current: Inputs


class UsableImages(NamedTuple):
    """The images that can be decoded."""

    scan: Scan
    fitted: FittedImages
    """Those that the run encodes, at their training size."""


class Stage(Generic[T]):
    """A result of the thread."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._progress = (0, 0)

    def set_progress(self, done: int, total: int) -> None:
        """Record how far the thread is."""
        self._progress = done, total

    def compute(self, work: Callable[[], T]) -> T:
        """Keep the result of `work`, or its error, which is raised here too."""
        try:
            result = work()
        except BaseException as error:
            self._future.set_exception(error)
            raise
        self._future.set_result(result)
        return result

    def wait(self, session: Session, report: Progress = lambda _done, _total: None) -> T:
        """The result, or the error of the thread.

        Args:
            report: called with (done, total) meanwhile.

        Raises:
            Stopped: a stop was requested meanwhile.
        """
        while not wait([self._future], LOOK_SECONDS).done:
            session.raise_if_stopped()
            self._pass_on(report)
        result = self._future.result()
        self._pass_on(report)
        return result

    def _pass_on(self, report: Progress) -> None:
        done, total = self._progress
        if total:  # it has begun
            report(done, total)


class RunReader:
    """Resolves the settings of a run, finds its images, compares nothing yet, and decodes each image, in this order.

    Nothing is reported from the thread: whoever waits for a result gets its error. A context manager: at its end the
    thread ends at the next image.

    Args:
        is_main: whether this is rank 0, which records the inputs.
    """

    def __init__(self, directory: RunDir, *, is_main: bool = True) -> None:
        self.digests = FileDigests()
        """Of every file that was read."""
        self.resolved: Stage[ResolvedRun] = Stage()
        self.scanned: Stage[Scan] = Stage()
        """Headers and captions only."""
        self.inputs: Stage[CollectedInputs | None] = Stage()
        """None on ranks above 0."""
        self.complete_inputs: Stage[Inputs] = Stage()
        """With the digests of large files, where `inputs` lacks them; computed in another thread."""
        self.usable: Stage[UsableImages] = Stage()
        self._directory, self._is_main = directory, is_main
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        with suppress(Exception):  # a stage raises its error where it is waited for
            run = self.resolved.compute(self._resolve)
            scanned = self.scanned.compute(lambda: scan(run.config, self._scan_progress))
            self.inputs.compute(lambda: self._collect(run, scanned))
            self.usable.compute(lambda: self._decode(run, scanned))

    def _scan_progress(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self.scanned.set_progress(done, total)

    def _resolve(self) -> ResolvedRun:
        written = self._directory.with_own_datasets(load_config(self._directory.config_path))
        world = own_world()
        if world.size > 1:  # as many as there are, whoever started them
            written = written.changed(training={"num_processes": world.size})
        require_paths(written)
        run = resolve_run(written)
        if self._is_main:
            places = model_places(run.config, run.recognition.path).values()
            read_ahead([file for place in places for file in model_files(place)], self._stop.is_set)
        return run

    def _collect(self, run: ResolvedRun, scanned: Scan) -> CollectedInputs | None:
        if not self._is_main:
            return None
        recorded, step = read_inputs(self._directory), last_saved_state(self._directory)
        later = _LATER if step is None else None
        place, stopped = run.recognition.path, self._stop.is_set
        current = collect_inputs(run.config, scanned, place, recorded, self.digests, stopped, later)
        if not current.is_complete and not stopped():
            threading.Thread(target=self._complete, args=(current,), name="digests", daemon=True).start()
        return CollectedInputs(recorded, step, current)

    def _complete(self, current: Inputs) -> None:
        with suppress(Exception):
            self.complete_inputs.compute(lambda: completed(current, self.digests))

    def _decode(self, run: ResolvedRun, scanned: Scan) -> UsableImages:
        config, fitted = run.config, FittedImages(run.config.dataset)
        with suppress(LoraSmithError):  # the plan is made again once all images are known, and raises it then
            fitted.want(items_to_encode(run, scanned))
        checked = CheckedImages(config.memory.cache_root, self.digests)
        usable = verify_pixels(scanned, self.usable.set_progress, checked, fitted, self._stop.is_set)
        return UsableImages(usable, fitted)
