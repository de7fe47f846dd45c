"""Plans of runs: from the shelf where they were made before, else from the planner's process. Loads no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine import errors
from engine.config import RunConfig, resolve
from engine.errors import LoraSmithError, TrainingError, UsageError
from engine.hardware import Gpu, choose_precision
from engine.memory import shelf
from engine.memory.plan import PHASES, Need, Plan, PlanCancelled
from engine.memory.workload import Workload, workload
from engine.models.base import Recognition
from engine.models.registry import families, family_named
from engine.runs.launch import trainer_environment

if TYPE_CHECKING:
    from engine.dataset.arithmetic import StepPlan

MODERN = Gpu(-1, "a card with compute capability 8.0 or more", compute_capability=(8, 0))
"""What a plan is for where there is no card."""


LOOK_SECONDS = 0.5
"""How often it is asked whether a plan is still wanted."""


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


def plan(
    config: RunConfig,
    recognition: Recognition | None = None,
    steps: StepPlan | None = None,
    gpu: Gpu | None = None,
    waiting: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """See `plans`."""
    return plans([config], recognition, steps, gpu, waiting=waiting, cancelled=cancelled)[0]


def plans(
    configs: Sequence[RunConfig],
    recognition: Recognition | None = None,
    steps: StepPlan | None = None,
    gpu: Gpu | None = None,
    phases: Sequence[str] = PHASES,
    waiting: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Plan]:
    """What runs with these configurations need; those that are not known yet share one process, some seconds each.

    Args:
        recognition: of their checkpoint; None: a model of the family's real size is meant (`model.family`).
        steps: the run's plan, which knows the pictures; None: pictures of the training resolution.
        gpu: where they compute; None: a card with bf16.
        phases: those that matter; fewer are quicker. Loading, caching and the step are always there.
        waiting: called before the planner's process is started: that takes time.
        cancelled: asked now and then; True ends it.

    Raises:
        UsageError: a configuration contradicts itself, or names neither a model nor a family.
        LoraSmithError: what would stop the run too.
        TrainingError: the planner failed.
        PlanCancelled: `cancelled` said so.
    """
    return _all([request_for(config, recognition, steps, gpu, tuple(phases)) for config in configs], waiting, cancelled)


def plans_of(configs: Sequence[RunConfig], waiting: Callable[[], None] = lambda: None) -> list[Plan]:
    """The same for runs of different checkpoints, or of none: each is planned for the real size of its family."""
    return _all([request_for(config) for config in configs], waiting)


def _all(
    requests: Sequence[Request | None], waiting: Callable[[], None], cancelled: Callable[[], bool] = lambda: False
) -> list[Plan]:
    found: list[Plan | None] = [shelf.find(request) if request else ON_CPU for request in requests]
    asked = [request for request, known in zip(requests, found, strict=True) if request and known is None]
    if asked:
        waiting()
    fresh = iter(ask(asked, cancelled))
    for index, (request, known) in enumerate(zip(requests, found, strict=True)):
        if request is not None and known is None:
            made = plan_from(request, next(fresh))
            shelf.keep(request, made)
            found[index] = made
    return [known for known in found if known is not None]


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
    """What the plan of a run depends on; None: it computes on the CPU. Arguments and errors as of `plans`."""
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


def ask(requests: Sequence[Request], cancelled: Callable[[], bool] = lambda: False) -> list[tuple[Need, ...]]:
    """The needs from the planner's process. It sees no card: a CUDA context would take what is planned for."""
    if not requests:
        return []
    environment = {**trainer_environment(), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    lines = "".join(json.dumps(request.as_json()) + "\n" for request in requests)
    command = [sys.executable, "-P", "-m", "engine.planning"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            out, told = _waited_for(process, lines, cancelled)
        finally:
            process.kill()
    answers = [json.loads(line) for line in out.splitlines()]
    if len(answers) < len(requests):
        last = told.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise TrainingError(f"The memory plan failed: {last[0]}", "The run itself may work; please report this.")
    return [_read(answer) for answer in answers]


def _waited_for(process: subprocess.Popen[str], lines: str, cancelled: Callable[[], bool]) -> tuple[str, str]:
    given: str | None = lines
    while True:
        try:
            return process.communicate(given, timeout=LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            given = None  # it is on its way; a second call must not give it again
            if cancelled():
                raise PlanCancelled from None


def _read(answer: Mapping[str, Any]) -> tuple[Need, ...]:
    if "needs" in answer:
        return tuple(Need(**need) for need in answer["needs"])
    kind = getattr(errors, answer["error"], None) if answer["error"] else None
    if isinstance(kind, type) and issubclass(kind, LoraSmithError):
        raise kind(answer["message"], answer["hint"])
    raise TrainingError(f"The memory plan failed: {answer['message']}", "The run itself may work; please report this.")
