"""Client of the planner's process, which starts with the first request. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from engine.errors import TrainingError
from engine.estimate.plan import Need
from engine.worker import Worker

if TYPE_CHECKING:
    from engine.estimate.request import Request


class PlannerProcess:
    """`python -m engine.estimate.worker`, which ends with the `with` block. Cards are hidden from it: a CUDA context
    would take memory that is planned for.

    Args:
        waiting: called before the process is started, which takes time.
        cancelled: polled; True ends it.
        progress: called with what is planned, (done, total) of it.
    """

    def __init__(
        self,
        waiting: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        self._cancelled, self._progress = cancelled, progress
        self._worker = Worker(
            "engine.estimate.worker", "The memory plan", failure=TrainingError,
            hint="The run itself may work; please report this.",
            variables={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}, waiting=waiting,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()

    def ask(self, request: Request) -> tuple[Need, ...]:
        """The need of each phase of a run; takes some seconds, more for the first request.

        Raises:
            LoraSmithError: an error that would stop the run too.
            TrainingError: the planner failed.
            Cancelled: by `cancelled`.
        """
        reply = self._worker.ask(request.as_json(), self._progress, self._cancelled)
        return tuple(Need(**need) for need in reply["needs"])
