"""TensorBoard's event files, by the `tensorboard` package alone.

A file is a sequence of `Event` messages (`tensorboard.summary.writer`). Nothing here needs TensorFlow or torch.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from engine.loggers.scalars import Entry, SampleImage
from engine.loggers.setup import Setup
from engine.reading import read_bytes

_MOST_BYTES = 64 * 2**20
"""Of a sample."""


class TensorBoard:
    """Writes a new file into the run's folder: a viewer reads all files of a folder as one run.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, setup: Setup) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder = setup.folder / setup.project
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{os.uname().nodename}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._write(time.time(), file_version="brain.Event:2")
        if setup.values is not None and not setup.continues:
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb

            self._write(time.time(), summary=hparams_pb(dict(setup.values)))
        self.flush()

    def log(self, entry: Entry) -> None:
        """One event with all numbers of the entry."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in entry.values.items()]
        self._write(entry.time, step=entry.axis, summary=self._summary(value=values))

    def show(self, image: SampleImage, path: Path) -> None:
        """The sample's file as it is, under the scripts' name."""
        from PIL import Image

        content = read_bytes(path, _MOST_BYTES)
        with Image.open(path, formats=["PNG"]) as opened:
            width, height = opened.size
        encoded = self._summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
        value = self._summary.Value(tag=f"sample_{image.index}", image=encoded)
        self._write(image.time, step=image.step, summary=self._summary(value=[value]))

    def _write(self, moment: float, **content: Any) -> None:
        self._records.write(self._event(wall_time=moment, **content).SerializeToString())

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def finish(self, ended_well: bool) -> None:
        """Close the file."""
        self._file.close()
