"""The captioning process: goes through the pictures batch by batch, writes each caption, tells how far it is."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from engine.captioning.captioner import Captioner
from engine.captioning.job import CaptionJob, written_before
from engine.captioning.options import CaptionOptions
from engine.config.dataset import DatasetTable
from engine.dataset.caption_files import CaptionFile, list_captions, write_caption
from engine.dataset.decoding import UnusablePicture, decode, read_header
from engine.dataset.pool import ordered_map
from engine.errors import LoraSmithError, MemoryLimitError, StorageError
from engine.exit_codes import ExitCode
from engine.memory.classify import is_out_of_memory
from engine.runs.control import ControlBox
from engine.runs.events import EventLog
from engine.runs.state import StateWriter, write_exit
from engine.text import plural, printable

if TYPE_CHECKING:
    from PIL.Image import Image

_READERS = 2
"""Threads that decode ahead; large pictures are decoded one at a time anyway."""

Read = tuple[CaptionFile, "Image | str"]
"""A picture decoded, or the reason why it cannot be."""


class Work:
    """One life of the process. What the person's machine says no to is raised as LoraSmithError."""

    def __init__(self, job: CaptionJob) -> None:
        self.job = job
        self.events = EventLog(job.events_path)
        self.state = StateWriter(job)
        self.control = ControlBox(job, self.events)
        self.done = 0
        self._signal = ""
        self._stopped = False

    def install_signals(self) -> None:
        """First SIGINT or SIGTERM: finish the batch and end. Second: end now. SIGHUP is ignored."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def should_stop(self) -> bool:
        """Whether to end at this point."""
        for command in self.control.take():
            wished = command.name == "stop"
            self.control.acknowledge(command, "done" if wished else "refused: captioning can only be stopped")
            self._stopped = self._stopped or wished
        return self._stopped or bool(self._signal)

    def run(self) -> ExitCode:
        """Caption what is to be captioned.

        Raises:
            LoraSmithError: what the person must mend.
        """
        self.events.emit("run_started", name=str(self.job.folder), pid=os.getpid())
        self.state.update(force=True, state="running")
        kind, options = self.job.settings()
        files, before = self._todo(options)
        if not files:
            self.say("Nothing to do: every picture has a caption.")
            return self.finish("finished", ExitCode.DONE)
        # Said before the library that reads it is imported.
        os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = str(int(not options.allow_download))
        captioner = kind.make()
        self._phase("load")
        captioner.load(options, self.say)
        self._phase("caption")
        self.done = before
        total = before + len(files)
        self._progress(total, [])
        for batch in batches(read_ahead(files, options.batch_size), options.batch_size):
            if self.should_stop():
                return self.finish("stopped", ExitCode.STOPPED)
            written = self._caption(captioner, options, batch)
            self.done += len(batch)
            self._progress(total, written)
        return self.finish("finished", ExitCode.DONE)

    def _todo(self, options: CaptionOptions) -> tuple[list[CaptionFile], int]:
        """The pictures that are still to be captioned, and how many this job has captioned before."""
        files = list_captions(self.job.folder, options.caption_extension, "Pictures")
        if options.existing == "keep":
            todo = [file for file in files if not file.captioned]
            self.say(f"{plural(len(todo), 'picture')} without a caption, {len(files) - len(todo)} with one are kept.")
            return todo, 0
        known = written_before(self.job)
        todo = [file for file in files if file.picture not in known or not file.captioned]
        self.say(f"{plural(len(todo), 'picture')} to caption, existing captions are replaced.")
        return todo, len(files) - len(todo)

    def _caption(self, captioner: Captioner, options: CaptionOptions, batch: list[Read]) -> list[Path]:
        """Caption and write one batch; the pictures whose caption was written."""
        for file, picture in batch:
            if isinstance(picture, str):
                self.warn(f"{printable(file.picture)}: {picture}. It gets no caption.")
        good = [(file, picture) for file, picture in batch if not isinstance(picture, str)]
        if not good:
            return []
        # The same caption whichever pictures were done before, so that a resumed job ends like an uncut one.
        seed = zlib.crc32(os.fsencode(good[0][0].picture.name), options.seed)
        try:
            texts = captioner.caption([picture for _, picture in good], seed)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                f"Out of memory while captioning {plural(len(good), 'picture')} at once.",
                "Start again with a smaller batch, fewer beams, or cpu as device: it goes on with the rest.",
            ) from error
        written = []
        for (file, _), text in zip(good, texts, strict=True):
            if options.existing == "keep" and file.reread().captioned:
                continue  # somebody wrote one meanwhile
            caption = options.composed(text)
            if not caption:
                self.warn(f"{printable(file.picture)}: the model said nothing. It gets no caption.")
                continue
            write_caption(file, caption)
            written.append(file.picture)
        return written

    def _phase(self, name: str) -> None:
        self.state.update(phase=name)
        self.events.emit("phase", name=name, state="start")

    def _progress(self, total: int, written: list[Path]) -> None:
        names = [str(path.relative_to(self.job.folder)) for path in written]
        self.events.emit("progress", phase="caption", done=self.done, total=total, unit="picture", written=names)
        self.state.update(step=self.done, max_train_steps=total)

    def say(self, text: str) -> None:
        """Tell a decision and its reason."""
        self.events.emit("note", text=text)
        _print(text)

    def warn(self, text: str) -> None:
        """Tell what the person may want to mend."""
        self.events.emit("warning", code="caption", text=text)
        _print(f"warning: {text}")

    def fail(self, error: LoraSmithError) -> ExitCode:
        """Tell what the person must mend, and end."""
        return self.finish("failed", error.exit_code, title=error.title, message=error.message, hint=error.hint)

    def finish(self, state: str, code: ExitCode, **details: str) -> ExitCode:
        """Tell how it ended: first in exit.json, then in the events."""
        with suppress(StorageError):  # the events tell it too
            write_exit(self.job, state, code, self.done, **details)
        if details:
            self.events.emit("error", **details)
            _print(f"{details['title']}: {details['message']} {details['hint']}".strip())
        self.state.update(force=True, state=state, phase="")
        self.events.emit("run_finished", state=state, exit_code=int(code), step=self.done)
        self.events.sync()
        return code


def read_ahead(files: list[CaptionFile], batch_size: int) -> Iterator[Read]:
    """The pictures decoded in order, a batch ahead of the model."""
    return ordered_map(_read, files, _READERS, ahead=batch_size + _READERS)


def _read(file: CaptionFile) -> Read:
    """In a thread, so that it returns what it cannot do. Transparent parts become white."""
    from engine.dataset.pixels import flatten

    table = DatasetTable()
    try:
        header = read_header(file.picture, table.max_image_megapixels)
        picture = decode(file.picture, (header.width, header.height))
    except UnusablePicture as error:
        return file, str(error)
    return file, flatten(picture, table.alpha_background)[0]


def batches(items: Iterable[Read], size: int) -> Iterator[list[Read]]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _print(text: str) -> None:
    """A line in the log; a full disk must not end the job."""
    with suppress(OSError):
        print(text, flush=True)
