"""Plans of runs: from the shelf where they were made before, else from the planner's process. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from engine.config import RunConfig, resolve
from engine.errors import UsageError
from engine.hardware import Gpu, choose_precision
from engine.memory import shelf
from engine.memory.plan import PHASES, Need, Plan
from engine.memory.planner_process import PlannerProcess
from engine.memory.workload import Workload, workload
from engine.models.base import Recognition
from engine.models.registry import families, family_named

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan

MODERN = Gpu(-1, "a card with compute capability 8.0 or more", compute_capability=(8, 0))
"""What a plan is for where there is no card."""


@dataclass(frozen=True)
class Request:
    """What a plan depends on."""

    config: RunConfig
    """Settled and resolved."""
    recognition: Recognition
    work: Workload
    precision: str
    phases: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For the planner's process."""
        known = asdict(self.recognition)
        known["path"] = str(self.recognition.path)
        return {
            "config": self.config.model_dump(mode="json"),
            "recognition": known,
            "work": asdict(self.work),
            "precision": self.precision,
            "phases": list(self.phases),
        }


class Planner:
    """Gives plans; those that are not known yet come from one process, some seconds each. For a `with` block.

    Args:
        recognition: of the runs' checkpoint; None: each has its own, or a model of its family's real size is meant.
        gpu: where they compute; None: a card with bf16.
        phases: those that matter; fewer are quicker. Loading, caching and the step are always there.
        waiting: called before the process is started: that takes time.
        cancelled: asked now and then; True ends it.
    """

    def __init__(
        self,
        recognition: Recognition | None = None,
        gpu: Gpu | None = None,
        phases: Sequence[str] = PHASES,
        waiting: Callable[[], None] = lambda: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._recognition, self._gpu, self._phases = recognition, gpu, tuple(phases)
        self._process = PlannerProcess(waiting, cancelled)

    def __enter__(self) -> Self:
        self._process.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.__exit__(*exception)

    def plan(self, config: RunConfig, steps: StepPlan | None = None) -> Plan:
        """What a run with this configuration needs.

        Args:
            steps: the run's plan, which knows the pictures; None: pictures of the training resolution.

        Raises:
            UsageError: the configuration contradicts itself, or names neither a model nor a family.
            LoraSmithError: what would stop the run too.
            TrainingError: the planner failed.
            PlanCancelled: `cancelled` said so.
        """
        request = request_for(config, self._recognition, steps, self._gpu, self._phases)
        if request is None:
            return ON_CPU
        known = shelf.find(request)
        if known is None:
            known = plan_from(request, self._process.ask(request))
            shelf.keep(request, known)
        return known


def plan(
    config: RunConfig,
    recognition: Recognition | None = None,
    steps: StepPlan | None = None,
    gpu: Gpu | None = None,
    waiting: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """One plan; arguments and errors as of `Planner`."""
    with Planner(recognition, gpu, waiting=waiting, cancelled=cancelled) as planner:
        return planner.plan(config, steps)


ON_CPU = Plan("cpu", "no", notes=("The run computes on the CPU (memory.device = cpu): it needs no card.",))


def recognition_for(config: RunConfig) -> Recognition:
    """The checkpoint of a run, or the configurations that ship with the program where it has none.

    Raises:
        UsageError: it has none and names no family.
        ModelError: the checkpoint cannot be used.
    """
    from engine.models.registry import recognise

    if config.model.pretrained_model_name_or_path:
        return recognise(config.model.pretrained_model_name_or_path)
    names = [family.name for family in families()]
    if config.model.family not in names:
        raise UsageError(
            "The plan needs a model, or the family of one.",
            f"Add --model PATH, or --set model.family=NAME with one of {', '.join(names)}.",
        )
    return family_named(config.model.family).of_real_size()


def request_for(
    config: RunConfig,
    recognition: Recognition | None = None,
    steps: StepPlan | None = None,
    gpu: Gpu | None = None,
    phases: tuple[str, ...] = PHASES,
) -> Request | None:
    """What the plan of a run depends on; None: it computes on the CPU.

    Arguments and errors as of `Planner`.
    """
    known = recognition or recognition_for(config)
    family = family_named(known.family)
    config, _ = family.settle(config, known)
    config, _ = resolve(config, partial_text_cache=family.partial_text_cache)
    if config.memory.device == "cpu":
        return None
    precision = choose_precision(config.memory.mixed_precision, gpu or MODERN).value
    return Request(config, known, workload(config, known, steps), precision, phases)


def plan_from(request: Request, needs: tuple[Need, ...]) -> Plan:
    """The plan that the planner's answer makes."""
    return Plan("cuda", request.precision, needs, _notes(request.config))


def _notes(config: RunConfig) -> tuple[str, ...]:
    notes = []
    if config.memory.torch_compile:
        notes.append("Compiled blocks (memory.torch_compile) are planned as if they were not.")
    if config.training.optimizer_type.lower().startswith("paged"):
        notes.append(
            f"The states of {config.training.optimizer_type} come to the card in pages, which are not counted."
        )
    return tuple(notes)
