"""The memory that remedies save by plan, and the choice of the cheapest ones that make a run fit. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engine.estimate.plan import GIB, USABLE, Need, Plan
from engine.families.resolved import ResolvedRun
from engine.hardware import Gpu
from engine.oom.remedies import remedies
from engine.oom.remedy import Remedy
from engine.runs.resume import changed
from engine.runs.shortage import Shortage

WORTH = 0.01
"""Share of a phase's need that a remedy must save by plan to be chosen automatically."""

PlanOf = Callable[[ResolvedRun], Plan]


@dataclass(frozen=True)
class Budget:
    """The memory that a run may take."""

    room: int
    """Bytes that the run may take, without CUDA's context."""
    phase: str = ""
    """The phase that must fit; empty: all of them."""

    def need(self, plan: Plan) -> Need:
        """The need of `phase`, if the plan has it; else the largest."""
        return plan.need_or_peak(self.phase)

    def met(self, plan: Plan) -> bool:
        """Whether `plan` fits; a run on the CPU needs no card."""
        return not plan.needs or self.need(plan).reserved <= self.room

    @classmethod
    def of_card(cls, card: float, context: int) -> Budget:
        """For a card of so many GiB with nothing else on it."""
        return cls(int(card * GIB * USABLE) - context)

    @classmethod
    def after(cls, shortage: Shortage, now: Plan) -> Budget:
        """For a run after an out-of-memory.

        It had `reserved` and `free`, and needed more. If its plan is below that, the plan is too low; another plan then
        must be lower by at least the failed request.

        Args:
            now: the run's plan.
        """
        if shortage.reserved is not None and shortage.free is not None:
            available = shortage.reserved + shortage.free
        else:
            available = int(shortage.total * USABLE) - now.context if shortage.total is not None else now.peak.reserved
        needed = now.need_or_peak(shortage.phase).reserved
        missing = max(shortage.requested or 0, int(needed * WORTH))
        return cls(max(0, min(available, needed - missing)), shortage.phase)


@dataclass(frozen=True)
class RemedyEffect:
    """The effect of one remedy on the plan."""

    remedy: Remedy
    saves: int
    """Bytes in the budget's phase; below 0: it needs more."""
    fits: bool
    """Whether the budget is met with it."""


@dataclass(frozen=True)
class RemedySet:
    """Remedies to apply together, the cheapest first."""

    effects: tuple[RemedyEffect, ...]
    """Each of them on top of those before it."""
    budget: Budget
    plan: Plan
    """With all of them."""

    @property
    def fits(self) -> bool:
        """Whether they are enough."""
        return self.budget.met(self.plan)

    @property
    def changes(self) -> dict[str, object]:
        """Dotted keys and their new values."""
        return {key: value for effect in self.effects for key, value in effect.remedy.changes.items()}


def remedy_effects(
    run: ResolvedRun, applicable: Sequence[Remedy], budget: Budget, plan_of: PlanOf
) -> Iterator[RemedyEffect]:
    """Each of the remedies that change settings, by itself; one plan each.

    Raises:
        LoraSmithError: a plan cannot be made.
    """
    before = budget.need(plan_of(run)).reserved
    for remedy in applicable:
        if remedy.changes:
            plan = plan_of(changed(run, remedy.changes))
            yield RemedyEffect(remedy, before - budget.need(plan).reserved, budget.met(plan))


def choose_remedies(run: ResolvedRun, gpu: Gpu, budget: Budget, plan_of: PlanOf) -> RemedySet:
    """The cheapest remedies, added one at a time until the plan fits; those that save little are left out.

    Raises:
        LoraSmithError: a plan cannot be made.
    """
    plan, effects, skipped = plan_of(run), list[RemedyEffect](), set[str]()
    while not budget.met(plan):
        need = budget.need(plan)
        applicable = remedies(run, gpu, budget.phase or need.phase)
        remedy = next((effect for effect in applicable if effect.changes and effect.name not in skipped), None)
        if remedy is None:
            break
        next_run = changed(run, remedy.changes)
        next_plan = plan_of(next_run)
        saves = need.reserved - next_plan.need_or_peak(need.phase).reserved
        if saves < WORTH * need.reserved:
            skipped.add(remedy.name)
            continue
        run, plan = next_run, next_plan
        effects.append(RemedyEffect(remedy, saves, budget.met(plan)))
    return RemedySet(tuple(effects), budget, plan)
