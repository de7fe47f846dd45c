"""From picture files to a captioner's answers: decoded ahead, in batches, fewer at once when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.config.dataset import DatasetTable
from engine.dataset.caption_files import CaptionFile
from engine.dataset.decoding import UnusablePicture, decode, read_header
from engine.dataset.pool import ordered_map
from engine.errors import MemoryLimitError
from engine.memory.classify import is_out_of_memory, said
from engine.text import plural

_READERS = 2
"""Threads that decode ahead; large pictures are decoded one at a time anyway."""

Read = tuple[CaptionFile, Subject | str]
"""A picture decoded, or the reason why it cannot be."""


def batches_of(files: Sequence[CaptionFile], size: int, *, pixels: bool) -> Iterator[list[Read]]:
    """The pictures in order, `size` together, decoded a batch ahead of the captioner.

    Args:
        pixels: decode them; else only their headers are read.
    """
    reads = iter(ordered_map(lambda file: _read(file, pixels), files, _READERS, ahead=size + _READERS))
    while batch := list(islice(reads, size)):
        yield batch


def _read(file: CaptionFile, pixels: bool) -> Read:
    """In a thread, so that it returns what it cannot do. Transparent parts become white."""
    from engine.dataset.pixels import flatten

    table = DatasetTable()
    try:
        header = read_header(file.picture, table.max_image_megapixels)
        if not pixels:
            return file, Subject(file.picture)
        picture = decode(file.picture, (header.width, header.height))
    except UnusablePicture as error:
        return file, str(error)
    return file, Subject(file.picture, flatten(picture, table.alpha_background)[0])


class Describer:
    """Asks a captioner, with half as many pictures at once each time that memory runs out.

    Args:
        say: told about it.
    """

    def __init__(self, captioner: Captioner, say: Callable[[str], None]) -> None:
        self._captioner, self._say = captioner, say
        self._most: int | None = None
        """Pictures at once; None while everything has fitted."""

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One answer for each picture.

        Raises:
            MemoryLimitError: a single one does not fit.
        """
        answers: list[Answer] = []
        while rest := pictures[len(answers) :]:
            part = rest[: self._most]
            shortage = self._try(part, answers)
            if shortage is None:
                continue
            if len(part) == 1:
                raise MemoryLimitError(
                    f"Out of memory while describing a single picture: {shortage}",
                    "Take fewer beams, a smaller model or cpu as device; the same command goes on with the rest.",
                )
            self._captioner.free()
            self._most = len(part) // 2
            self._say(
                f"Out of memory with {len(part)} pictures at once: from now on {plural(self._most, 'picture')} at once."
            )
        return answers

    def _try(self, part: Sequence[Subject], answers: list[Answer]) -> str | None:
        """Add the answers; what the failed allocation said where memory ran out. Its traceback holds tensors."""
        try:
            answers += self._captioner.describe(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return said(error)
        return None
