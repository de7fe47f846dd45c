"""The image generator's process: `python -m engine.drawing` (`engine.worker`, `engine.results.try_request.TryRequest`).
Its events are `note`, and `prompt`, `column` and `path` of a written image."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from engine.errors import LoraSmithError, MemoryLimitError
from engine.processes import large_imports
from engine.results.try_request import TryRequest
from engine.worker import Reporter, serve

if TYPE_CHECKING:
    from engine.drawing.drawer import ImageGenerator


class GenerationWorker:
    """Keeps the model from one request to the next."""

    def __init__(self) -> None:
        self._generator: ImageGenerator | None = None

    def __call__(self, request: dict[str, Any], report: Reporter) -> dict[str, Any]:
        """Generate the requested images.

        Raises:
            LoraSmithError: an error that the user can fix.
        """
        from engine.out_of_memory import is_out_of_memory

        try:
            if self._generator is None:
                with large_imports():
                    from engine.drawing.drawer import ImageGenerator  # the import takes seconds

                self._generator = ImageGenerator(report)
            self._generator.generate(TryRequest.restored(request))
        except LoraSmithError:
            raise
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryLimitError(
                "There is not enough memory to generate images with this model.",
                "End other programs on the card, generate smaller images, or use --device cpu.",
                code="generating-out-of-memory",
            ) from error
        return {}


if __name__ == "__main__":
    sys.exit(serve(GenerationWorker()))
