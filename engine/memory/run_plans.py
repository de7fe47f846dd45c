"""Plans of one run with changed settings, for its own pictures. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from engine.config import RunConfig
from engine.dataset.buckets import BucketGrid
from engine.memory.plan import PHASES, Plan
from engine.memory.planner import Planner, recognition_for

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan
    from engine.dataset.pictures import Scan
    from engine.dataset.pool import Progress
    from engine.hardware import Gpu


class RunPlans:
    """Called with a configuration: the plan of the run with it. For a `with` block.

    Args:
        config: names the checkpoint; the others are changes of it. Without folders, pictures of the training resolution
            are meant.
        gpu: where it computes; None: a card with bf16.
        phases: see `Planner`.
        progress: of reading the pictures.
        waiting: called before the planner's process is started.
        cancelled: asked now and then; True ends it.

    Raises:
        LoraSmithError: the checkpoint cannot be used.
    """

    def __init__(
        self,
        config: RunConfig,
        gpu: Gpu | None,
        phases: tuple[str, ...] = PHASES,
        progress: Progress | None = None,
        waiting: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recognition = recognition_for(config)
        self._planner = Planner(self.recognition, gpu, phases, waiting, cancelled)
        self._progress = progress
        self._scan: tuple[tuple[int, int | None], Scan] | None = None

    def __enter__(self) -> Self:
        self._planner.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._planner.__exit__(*exception)

    def __call__(self, config: RunConfig) -> Plan:
        """Raises as `Planner.plan`, and DataError where the pictures cannot be used."""
        return self._planner.plan(config, self.steps(config))

    def steps(self, config: RunConfig) -> StepPlan | None:
        """The run's length and buckets; None: it names no pictures.

        Raises:
            DataError: they cannot be used.
        """
        from engine.dataset.arithmetic import plan_steps
        from engine.dataset.scan import scan

        if not config.dataset.train_data_dir and not config.dataset.dataset_config:
            return None
        # Of a dataset configuration: what holds where it names no batch, and what its batches are cut to.
        batch = (config.training.train_batch_size, config.memory.max_batch_size)
        if self._scan is None or self._scan[0] != batch:
            self._scan = (batch, scan(config, self._progress))
        known = self.recognition
        grid = BucketGrid.from_config(config, multiple=known.multiple, downscale=known.downscale)
        return plan_steps(self._scan[1], grid, config)
