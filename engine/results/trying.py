"""The client of the drawing process: started at the first request, stopped at any moment. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from engine.results.try_request import TryRequest
from engine.worker import Worker


@dataclass(frozen=True)
class Note:
    """A decision and its reason."""

    text: str


@dataclass(frozen=True)
class Progress:
    """The current activity and its progress."""

    doing: str
    """"load" or "draw"."""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class GeneratedImage:
    """An image that has been written."""

    prompt: int
    """Index in the request's prompts."""
    column: int
    path: Path


TryEvent = Note | Progress | GeneratedImage


class TryProcess:
    """`python -m engine.drawing`. Runs until the `with` block ends or `close` is called, and keeps its model: another
    request for the same model and files does not load them again.

    Args:
        command: replaces that process's command; for tests.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self._worker = Worker("engine.drawing", "Drawing", command=command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self, request: TryRequest, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[TryEvent, None, None]:
        """Yield events until all images are generated. Close the iterator, or the process, to stop early.

        Args:
            cancelled: called now and then; True ends the process.

        Raises:
            LoraSmithError: an error that the user can fix.
            Cancelled: `cancelled` returned True.
        """
        yield Progress("load")
        messages = self._worker.messages(request.as_json(), cancelled)
        try:
            for message in messages:
                yield _event(message)
        finally:
            messages.close()

    def close(self) -> None:
        """End the process at once; images that are written stay."""
        self._worker.close()


def _event(message: Mapping[str, Any]) -> TryEvent:
    """Parse a message of the process."""
    if "progress" in message:
        return Progress(*message["progress"])
    event = message["event"]
    if "note" in event:
        return Note(event["note"])
    return GeneratedImage(event["prompt"], event["column"], Path(event["path"]))
