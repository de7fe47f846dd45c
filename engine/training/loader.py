"""Loads the batches of the steps: while one computes, a thread prepares the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from engine.training.batch_source import Batch, BatchSource, Inputs
from engine.training.objective import Objective
from engine.training.seeds import generator


class _Place(NamedTuple):
    """Everything that the content of a batch depends on while a run trains."""

    step: int
    micro: int
    version: int
    """Of the settings: `BatchSource.version`."""


class BatchLoader:
    """The batch of each micro-step, on the device. A context manager: at its end the thread has ended.

    A batch is prepared ahead for the micro-step that follows by the settings of the moment, and is used only if it is
    for the one that is loaded next, with the same settings. Otherwise, after a change, a roll back or a repeated step,
    it is thrown away, with its error if it has one. So a batch is always that of a loader which looks no further.

    On a GPU the tensors are pinned and copied on a stream of their own, which the step's stream waits for. Where images
    are encoded in each step, the thread reads their pixels only.
    """

    def __init__(self, batches: BatchSource, objective: Objective, device: torch.device) -> None:
        self._batches, self._objective = batches, objective
        # Each thread has a current GPU of its own.
        no_index = device.type == "cuda" and device.index is None
        self._device = torch.device("cuda", torch.cuda.current_device()) if no_index else device
        self._next: tuple[_Place, Future[Callable[[], Batch] | None]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()
        self._thread.shutdown()

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, "batches")

    @cached_property
    def _stream(self) -> Any:
        return torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    def load(self, step: int, micro: int) -> Batch:
        """The batch of a micro-step of update `step`, both from 0; the next one is begun.

        Raises:
            DataError: an image or a cached file cannot be read.
        """
        place = _Place(step, micro, self._batches.version)
        finish = self._prepared(place) or self._prepare(place)
        following = self._following(place)
        if following is not None:
            self._next = following, self._thread.submit(self._prepare_ahead, following)
        return finish()

    def wait(self) -> None:
        """Wait until the thread is done with the batch that it prepares."""
        if self._next is not None:
            wait([self._next[1]])

    def discard(self) -> None:
        """Throw away what is prepared ahead."""
        ahead, self._next = self._next, None
        if ahead is not None and not ahead[1].cancel():
            wait([ahead[1]])

    def _prepared(self, place: _Place) -> Callable[[], Batch] | None:
        """What was prepared ahead, if it is for this place.

        Raises:
            Exception: that of the thread.
        """
        if self._next is None or self._next[0] != place:
            self.discard()
            return None
        (_, ahead), self._next = self._next, None
        return ahead.result()

    def _following(self, place: _Place) -> _Place | None:
        """The next micro-step; None after the last one of the run."""
        if place.micro + 1 < len(self._batches.micro_batches(place.step)):
            return place._replace(micro=place.micro + 1)
        following = place._replace(step=place.step + 1, micro=0)
        return following if following.step < self._batches.plan.max_train_steps else None

    def _prepare_ahead(self, place: _Place) -> Callable[[], Batch] | None:
        """None if its latents are still to be encoded, before the update that needs them."""
        indices = self._batches.micro_batches(place.step)[place.micro]
        return self._prepare(place) if self._batches.is_cached(indices, place.step) else None

    def _prepare(self, place: _Place) -> Callable[[], Batch]:
        """Read and copy everything that does not need the model; returns what is left to do in the step."""
        batches, (step, micro, _) = self._batches, place
        numbers = generator(batches.config.training.seed, "step", step, micro, batches.rank)
        made: Batch | Inputs
        with self._own_stream():
            made = batches.inputs(batches.micro_batches(step)[micro], step)
            if made.moments is not None:
                made = batches.batch(made, numbers, self._objective).each(self._to_device)
            copied = self._stream.record_event() if self._device.type == "cuda" else None
        return partial(self._finish, made, numbers, copied)

    def _finish(self, made: Batch | Inputs, numbers: torch.Generator, copied: Any) -> Batch:
        """Encode pixels, if there are any.

        Args:
            copied: a CUDA event, for which the step's stream has to wait.
        """
        stream = None if copied is None else torch.cuda.current_stream(self._device)
        if stream is not None:
            stream.wait_event(copied)
        if isinstance(made, Inputs):
            made = self._batches.batch(made, numbers, self._objective).each(self._to_device)
        if stream is not None:
            for tensor in made.tensors():
                tensor.record_stream(stream)  # its memory is freed to the loader's stream only after the step
        return made

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Within it a GPU copies on the loader's stream."""
        if self._device.type != "cuda":
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            yield

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self._device.type != "cuda" or tensor.device.type == "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)
