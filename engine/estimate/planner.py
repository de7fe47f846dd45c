"""Memory plans of runs: from the cache, else from the planner's process. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from engine.config.resolve import ResolvedConfig
from engine.estimate import plan_cache as cache
from engine.estimate.plan import PHASES, Need, Plan
from engine.estimate.process import PlannerProcess
from engine.estimate.request import Request
from engine.estimate.workload import workload
from engine.hardware import Gpu, choose_precision, gpu_number

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan
    from engine.families.resolved import ResolvedRun

MODERN = Gpu(-1, "a card with compute capability 8.0 or more", compute_capability=(8, 0))
"""The card of plans on a machine without one."""


class Planner:
    """Makes plans; those that are not cached come from one process, some seconds each. For a `with` block.

    Args:
        gpu: the runs' GPU; None: a card with bf16.
        phases: to plan; fewer are quicker. Loading, caching and the step are always included.
        waiting: called before the process is started, which takes time.
        cancelled: polled; True ends it.
        progress: called with what is planned, (done, total) of it.
    """

    def __init__(
        self,
        gpu: Gpu | None = None,
        phases: Sequence[str] = PHASES,
        waiting: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[str, int, int], object] = lambda *_: None,
    ) -> None:
        self._gpu, self._phases = gpu, tuple(phases)
        self._process = PlannerProcess(waiting, cancelled, progress)

    def __enter__(self) -> Self:
        self._process.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def plan(self, run: ResolvedRun, steps: StepPlan | None = None) -> Plan:
        """The memory plan of a run.

        Args:
            steps: the run's step plan, with the images' sizes; None: images of the training resolution.

        Raises:
            LoraSmithError: an error that would stop the run too.
            TrainingError: the planner failed.
            Cancelled: by `cancelled`.
        """
        request = request_for(run, steps, self._gpu, self._phases)
        if request is None:
            return ON_CPU
        plan = cache.find(request)
        if plan is None:
            plan = plan_from(request, self._process.ask(request))
            cache.keep(request, plan)
        return plan


def plan(
    run: ResolvedRun,
    steps: StepPlan | None = None,
    gpu: Gpu | None = None,
    waiting: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """One plan; arguments and errors as of `Planner`."""
    with Planner(gpu, waiting=waiting, cancelled=cancelled) as planner:
        return planner.plan(run, steps)


ON_CPU = Plan("cpu", "no", notes=("The run computes on the CPU (memory.device = cpu): it needs no card.",))


def request_for(
    run: ResolvedRun, steps: StepPlan | None = None, gpu: Gpu | None = None, phases: tuple[str, ...] = PHASES
) -> Request | None:
    """The request for a run's plan; None: it computes on the CPU.

    Arguments and errors as of `Planner`.
    """
    config = run.config
    if gpu_number(config.memory.device) is None:
        return None
    precision = choose_precision(config.memory.mixed_precision, gpu or MODERN).value
    return Request(config, run.recognition, workload(run, steps), precision, phases)


def plan_from(request: Request, needs: tuple[Need, ...]) -> Plan:
    """The plan from the planner's result."""
    return Plan("cuda", request.precision, needs, _notes(request.config))


def _notes(config: ResolvedConfig) -> tuple[str, ...]:
    notes = []
    if config.memory.torch_compile != "off":
        notes.append("Compiled blocks (memory.torch_compile) are planned as if they were not.")
    if config.memory.cuda_graphs != "off":
        notes.append(
            "The memory of CUDA graphs (memory.cuda_graphs) is planned by a formula that was not compared with a card."
        )
    if config.training.optimizer_type.lower().startswith("paged"):
        notes.append(
            f"The states of {config.training.optimizer_type} come to the card in pages, which are not counted."
        )
    return tuple(notes)
