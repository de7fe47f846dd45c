"""What remedies save on a card, by plan, and the cheapest of them that make a run fit. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.config import RunConfig
from engine.hardware import Gpu
from engine.memory.plan import GIB, USABLE, Need, Plan
from engine.memory.remedies import remedies
from engine.memory.remedy import Remedy
from engine.runs.resume import changed

WORTH = 0.01
"""Share of a phase's need that a remedy must save by plan to be taken without being asked for."""

PlanOf = Callable[[RunConfig], Plan]


class Numbers(Protocol):
    """Of an out-of-memory, as in `engine.memory.shortage.Shortage` and in what a reader of the event log knows."""

    @property
    def phase(self) -> str: ...
    @property
    def requested(self) -> int | None: ...
    @property
    def free(self) -> int | None: ...
    @property
    def total(self) -> int | None: ...
    @property
    def reserved(self) -> int | None: ...


@dataclass(frozen=True)
class Goal:
    """What must fit."""

    room: int
    """Bytes that the run may take, CUDA's context apart."""
    phase: str = ""
    """The one phase that must fit; empty: all of them."""

    def need(self, plan: Plan) -> Need:
        """The phase in question, where the plan has it; else the largest."""
        return plan.need_or_peak(self.phase)

    def met(self, plan: Plan) -> bool:
        """Whether `plan` fits; a run on the CPU needs no card."""
        return not plan.needs or self.need(plan).reserved <= self.room

    @classmethod
    def of_card(cls, card: float, context: int) -> Goal:
        """A run that is to fit a card of so many GiB with nothing else on it."""
        return cls(int(card * GIB * USABLE) - context)

    @classmethod
    def after(cls, shortage: Numbers, now: Plan) -> Goal:
        """What would have fitted where memory ran out, in the run that `now` is the plan of.

        It had `reserved` and could have had `free`, and needed more. Where its plan says less, the plan is too low, and
        another one is believed only if it is lower by what was asked for in vain.
        """
        if shortage.reserved is not None and shortage.free is not None:
            had = shortage.reserved + shortage.free
        else:
            had = int(shortage.total * USABLE) - now.context if shortage.total is not None else now.peak.reserved
        needed = now.need_or_peak(shortage.phase).reserved
        short = max(shortage.requested or 0, int(needed * WORTH))
        return cls(max(0, min(had, needed - short)), shortage.phase)


@dataclass(frozen=True)
class Weighed:
    """What one remedy does to the plan."""

    remedy: Remedy
    saves: int
    """Bytes of the phase in question; below 0: it needs more."""
    fits: bool
    """Whether the goal is met then."""


@dataclass(frozen=True)
class Way:
    """Remedies that are taken together, the cheapest first."""

    taken: tuple[Weighed, ...]
    """What each of them saves after those before it."""
    goal: Goal
    plan: Plan
    """With all of them."""

    @property
    def fits(self) -> bool:
        """Whether they are enough."""
        return self.goal.met(self.plan)

    @property
    def changes(self) -> dict[str, object]:
        """Dotted keys and their new values."""
        return {key: value for one in self.taken for key, value in one.remedy.changes.items()}


def weigh(config: RunConfig, found: Sequence[Remedy], goal: Goal, plan_of: PlanOf) -> Iterator[Weighed]:
    """Each of the remedies that change settings, by itself; one plan each.

    Raises:
        LoraSmithError: a plan cannot be made.
    """
    before = goal.need(plan_of(config)).reserved
    for remedy in found:
        if remedy.changes:
            plan = plan_of(changed(config, remedy.changes))
            yield Weighed(remedy, before - goal.need(plan).reserved, goal.met(plan))


def way(config: RunConfig, gpu: Gpu, goal: Goal, plan_of: PlanOf) -> Way:
    """The cheapest remedies, one more at a time until the plan fits; those that save little are left out.

    Raises:
        LoraSmithError: a plan cannot be made.
    """
    plan, taken, aside = plan_of(config), list[Weighed](), set[str]()
    while not goal.met(plan):
        need = goal.need(plan)
        found = remedies(config, gpu, goal.phase or need.phase)
        remedy = next((one for one in found if one.changes and one.name not in aside), None)
        if remedy is None:
            break
        next_config = changed(config, remedy.changes)
        next_plan = plan_of(next_config)
        saves = need.reserved - next_plan.need_or_peak(need.phase).reserved
        if saves < WORTH * need.reserved:
            aside.add(remedy.name)
            continue
        config, plan = next_config, next_plan
        taken.append(Weighed(remedy, saves, goal.met(plan)))
    return Way(tuple(taken), goal, plan)
