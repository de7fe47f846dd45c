"""The memory plan in words; for `lorasmith plan`, `--dry-run` and the review."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.runs.phase import Phase
from engine.text import printable, shell_line, size_text
from tui.shell.output import wrapped
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.estimate.plan import Plan
    from engine.families.resolved import ResolvedRun
    from engine.hardware import Gpu
    from engine.oom.choose import RemedySet
    from engine.oom.remedy import Remedy
    from engine.runs.shortage import Shortage


def card(config: RunConfig) -> Gpu | None:
    """The GPU that a run of `config` computes on; None on the CPU, or where there is none."""
    from engine.hardware import gpu_of, list_gpus

    return gpu_of(config.memory.device, list_gpus().visible())


def used_card(config: RunConfig) -> Gpu | None:
    """The same, but None where the installed PyTorch cannot use it: then the training computes on the CPU."""
    from engine.hardware import list_gpus
    from engine.hardware.torch_build import torch_build

    gpu = card(config)
    return gpu if gpu is not None and torch_build().trouble(list_gpus(), gpu) is None else None


def sentence(plan: Plan, gpu: Gpu | None) -> str:
    """What the run needs, and whether the card has it."""
    if not plan.needs:
        return _("VRAM: none is used, the training computes on the CPU.")
    need = _("VRAM: about {0} while {1}").format(size_text(plan.peak_bytes), _(Phase.label_of(plan.peak.phase)))
    if gpu is None:
        return _("{0}; no NVIDIA card was found here.").format(need)
    if gpu.total is None or gpu.free is None or gpu.mig:
        return _("{0}; {1} does not report how much it has.").format(need, printable(gpu.name))
    if plan.peak_bytes <= gpu.free:
        return _("{0}, fits {1}: {2} of {3} are free.").format(
            need, printable(gpu.name), size_text(gpu.free), size_text(gpu.total)
        )
    if plan.fits(gpu.total / 2**30):
        return _("{0}: more than is free on {1} now ({2} of {3}). Close other programs.").format(
            need, printable(gpu.name), size_text(gpu.free), size_text(gpu.total)
        )
    return _("{0}: more than {1} has ({2}). If it runs out, the run continues with the next remedy.").format(
        need, printable(gpu.name), size_text(gpu.total)
    )


def breakdown(plan: Plan) -> str:
    """What the memory of the largest phase consists of."""
    parts = [f"{what} {size_text(size)}" for what, size in plan.breakdown.items() if size >= 2**20]
    return _("While {0}: {1}").format(_(Phase.label_of(plan.peak.phase)), ", ".join(parts))


def lines(plan: Plan, gpu: Gpu | None) -> list[str]:
    """The sentence, and the figures behind it."""
    if not plan.needs:
        return [sentence(plan, gpu)]
    samples = plan.need(Phase.SAMPLE)
    notes = []
    if samples is not None and samples.reserved > plan.peak.reserved:
        notes.append(
            _("Samples at full speed take {0}; where that is not free, the run generates them in less memory.").format(
                size_text(samples.reserved + plan.context)
            )
        )
    return [sentence(plan, gpu), breakdown(plan), *notes, *plan.notes]


def table(plans: Sequence[tuple[str, Plan]]) -> list[str]:
    """One line per plan, the shipped ones within 80 columns: GiB by phase without CUDA's context, the peak with it, and
    the smallest usual card that it fits."""
    from engine.estimate.plan import CARDS, PHASES

    phases = [phase for phase in PHASES if any(plan.need(phase) for _name, plan in plans)]
    width = max([len(name) for name, _plan in plans] + [6])
    titles = {phase: _("low memory") if phase == Phase.SAMPLE_LOW_MEMORY else phase for phase in phases}
    room = {phase: max(7, len(title) + 2) for phase, title in titles.items()}
    heads = [f"{title:>{room[phase]}}" for phase, title in titles.items()]
    rows = ["".join([f"{'preset':{width}}", *heads, f"{'peak':>7}", "  fits"])]
    for name, plan in plans:
        if not plan.needs:
            rows.append(f"{name:{width}}  " + _("on the CPU: needs no card"))
            continue
        needs = [(plan.need(phase), room[phase]) for phase in phases]
        cells = [f"{need.allocated / 2**30:{cells}.2f}" if need else f"{'-':>{cells}}" for need, cells in needs]
        smallest = next((f"{card:>4} GiB" for card in CARDS if plan.fits(card)), "  none")
        rows.append("".join([f"{name:{width}}", *cells, f"{plan.peak_bytes / 2**30:7.2f}", smallest]))
    return rows


def fit_line(plan: Plan, card: float) -> str:
    """Whether an empty card of so many GiB is enough, and by how much."""
    from engine.estimate.plan import GIB, USABLE

    spare = int(card * GIB * USABLE) - plan.peak_bytes
    if plan.fits(card):
        return _("{0:g} GiB: fits, with {1} to spare.").format(card, size_text(spare))
    return _("{0:g} GiB: does not fit, {1} are missing.").format(card, size_text(-spare))


def remedy_lines(chosen: RemedySet, card: str, command: Sequence[str]) -> list[str]:
    """The remedies that make the run fit `card`, or come nearest, and the command with them.

    Args:
        command: what was typed after `lorasmith`, without the options of planning.
    """
    from engine.config.literals import written

    need = chosen.budget.need(chosen.plan)
    if not chosen.effects:
        return [_("No other setting would save memory: lower dataset.resolution, or use a larger card.")]
    rows = []
    for effect in chosen.effects:
        rows.append("  " + _("{0} saves {1}. Its cost:").format(effect.remedy.title, size_text(effect.saves)))
        rows += wrapped(f"{effect.remedy.costs}.", 80, "    ")
    if not chosen.fits:
        result = _("With all of them {0} still needs {1}, more than {2} allows.").format(
            _(Phase.label_of(need.phase)), size_text(need.reserved + chosen.plan.context), card
        )
        return [_("What saves memory, the cheapest first:"), *rows, result]
    settings = [part for key, value in chosen.changes.items() for part in ("--set", f"{key}={written(value)}")]
    return [
        _("These remedies make it fit {0}, the cheapest first:").format(card),
        *rows,
        _("Then {0} is the largest phase, with {1}.").format(
            _(Phase.label_of(chosen.plan.peak.phase)), size_text(chosen.plan.peak_bytes)
        ),
        f"  {shell_line(('lorasmith', *command, *settings))}",
    ]


def remedies_json(chosen: RemedySet) -> dict[str, Any]:
    """For `lorasmith plan --json`."""
    remedies = [
        {"name": effect.remedy.name, "saves_gib": round(effect.saves / 2**30, 3), "costs": effect.remedy.costs,
         "changes": dict(effect.remedy.changes)}
        for effect in chosen.effects
    ]  # fmt: skip
    return {"taken": remedies, "peak_gib": round(chosen.plan.peak_bytes / 2**30, 3), "fits": chosen.fits}


def estimate_savings(
    run: ResolvedRun, gpu: Gpu, oom: Shortage, remedies: Sequence[Remedy], cancelled: Callable[[], bool]
) -> Iterator[tuple[str, str]]:
    """Estimate each remedy for an out-of-memory by plan: its name, what it saves and whether that is enough.

    Raises:
        LoraSmithError: the plan cannot be made.
        Cancelled: `cancelled` returned True.
    """
    from engine.estimate.run_plans import RunPlans
    from engine.oom.choose import Budget, remedy_effects

    with RunPlans(gpu, (oom.phase,), cancelled=cancelled) as plan_of:
        budget = Budget.after(oom, plan_of(run))
        for effect in remedy_effects(run, remedies, budget, plan_of):
            if effect.saves <= 0:
                yield effect.remedy.name, _("saves nothing here.")
            elif effect.fits:
                yield effect.remedy.name, _("{0}, which is enough.").format(size_text(effect.saves))
            else:
                yield effect.remedy.name, _("{0}, which alone is not enough.").format(size_text(effect.saves))
