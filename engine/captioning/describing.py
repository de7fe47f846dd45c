"""From image files to captions: decoded ahead, in batches, with smaller batches when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.config.dataset import DatasetTable
from engine.dataset.caption_files import CaptionFile
from engine.dataset.decoding import UnusableImage, decode, read_header
from engine.dataset.pool import ordered_map
from engine.errors import MemoryLimitError
from engine.out_of_memory import allocation_message, is_out_of_memory
from engine.text import plural

_READERS = 2
"""Threads that decode ahead; large images are decoded one at a time anyway."""

Decoded = tuple[CaptionFile, Subject | str]
"""A decoded image, or the reason why it cannot be decoded."""


def batches_of(files: Sequence[CaptionFile], size: int, *, pixels: bool) -> Iterator[list[Decoded]]:
    """Yield the images in batches of `size`, decoded one batch ahead.

    Args:
        pixels: decode them; otherwise only headers are read.
    """
    decoded = iter(ordered_map(lambda file: _decode(file, pixels), files, _READERS, ahead=size + _READERS))
    while batch := list(islice(decoded, size)):
        yield batch


def _decode(file: CaptionFile, pixels: bool) -> Decoded:
    """Runs in a thread and returns errors instead of raising. Transparent parts become white."""
    from engine.dataset.pixels import flatten

    table = DatasetTable()
    try:
        header = read_header(file.image, table.max_image_megapixels)
        if not pixels:
            return file, Subject(file.image)
        image = decode(file.image, (header.width, header.height))
    except UnusableImage as error:
        return file, str(error)
    return file, Subject(file.image, flatten(image, table.alpha_background)[0])


class Describer:
    """Runs a captioner, halving the batch each time memory runs out.

    Args:
        log: called when that happens.
    """

    def __init__(self, captioner: Captioner, log: Callable[[str], None]) -> None:
        self._captioner, self._log = captioner, log
        self._batch_limit: int | None = None
        """Images at once; None as long as everything fits."""

    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        """One answer per image.

        Raises:
            MemoryLimitError: a single image does not fit.
        """
        answers: list[Answer] = []
        while rest := subjects[len(answers) :]:
            part = rest[: self._batch_limit]
            shortage = self._try(part, answers)
            if shortage is None:
                continue
            if len(part) == 1:
                raise MemoryLimitError(
                    f"Out of memory while describing a single image: {shortage}",
                    "Use fewer beams, a smaller model or cpu as device; the same command continues with the rest.",
                    code="memory-for-captioning",
                )
            self._captioner.free()
            self._batch_limit = len(part) // 2
            self._log(
                f"Out of memory with {len(part)} images at once; reduced to {plural(self._batch_limit, 'image')}."
            )
        return answers

    def _try(self, part: Sequence[Subject], answers: list[Answer]) -> str | None:
        """Add the answers; if memory runs out, return the message only, as the traceback holds tensors."""
        try:
            answers += self._captioner.describe(part)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return allocation_message(error)
        return None
