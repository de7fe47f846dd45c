"""Memory plans of one run with changed settings, for its own images. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from engine.dataset.buckets import BucketGrid
from engine.estimate.plan import PHASES, Plan
from engine.estimate.planner import Planner

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.images import Scan
    from engine.families.resolved import ResolvedRun
    from engine.hardware import Gpu
    from engine.types import Progress


class RunPlans:
    """A function from a run to its memory plan. For a `with` block.

    The runs must have the same images; without folders, images of the training resolution are assumed.

    Args:
        gpu: the run's GPU; None: a card with bf16.
        phases: see `Planner`.
        progress: of reading the images.
        waiting: called before the planner's process is started.
        cancelled: polled; True ends it.
        planning: called with what is planned, (done, total) of it.
    """

    def __init__(
        self,
        gpu: Gpu | None,
        phases: tuple[str, ...] = PHASES,
        progress: Progress | None = None,
        waiting: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
        planning: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        self._planner = Planner(gpu, phases, waiting, cancelled, planning)
        self._progress = progress
        self._scan: tuple[tuple[int, int | None], Scan] | None = None

    def __enter__(self) -> Self:
        self._planner.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._planner.__exit__(*exception)

    def __call__(self, run: ResolvedRun) -> Plan:
        """Raises as `Planner.plan`, and DataError where the images cannot be used."""
        return self._planner.plan(run, self.steps(run))

    def steps(self, run: ResolvedRun) -> StepPlan | None:
        """The run's length and buckets; None: it has no images.

        Raises:
            DataError: they cannot be used.
        """
        from engine.dataset.arithmetic import plan_steps
        from engine.dataset.scan import scan

        config = run.config
        if not config.dataset.train_data_dir and not config.dataset.dataset_config:
            return None
        # For a dataset configuration: the default batch size, and the limit of all batch sizes.
        batch = (config.training.train_batch_size, config.memory.max_batch_size)
        if self._scan is None or self._scan[0] != batch:
            self._scan = (batch, scan(config, self._progress))
        return plan_steps(self._scan[1], BucketGrid.of_run(run), config)
