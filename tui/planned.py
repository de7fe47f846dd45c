"""The memory plan, asked for and put into words; for `lorasmith plan`, `--dry-run` and the review."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.text import printable, shell_line, size_text
from tui.output import wrapped
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.hardware import Gpu
    from engine.memory.plan import Plan
    from engine.memory.remedy import Remedy
    from engine.memory.weighing import Way
    from engine.runs.history import OutOfMemory

PHASE_NAMES = {
    "load": _("loading"), "cache": _("caching"), "train": _("the training step"), "sample": _("samples"),
    "frugal": _("samples in less memory"),
    "validate": _("the held-out loss"), "save": _("saving"),
}  # fmt: skip


def card(config: RunConfig) -> Gpu | None:
    """The GPU that a run of `config` computes on; None on the CPU, or where there is none."""
    from engine.hardware import list_gpus

    device = config.memory.device
    gpus, place = list_gpus().visible(), int(device.partition(":")[2] or 0)
    return gpus[place] if device != "cpu" and place < len(gpus) else None


def used_card(config: RunConfig) -> Gpu | None:
    """The same, and None where the installed PyTorch cannot use it: the training computes on the CPU then."""
    from engine.hardware import list_gpus
    from engine.hardware.torch_build import torch_build

    gpu = card(config)
    return gpu if gpu is not None and torch_build().trouble(list_gpus(), gpu) is None else None


def sentence(plan: Plan, gpu: Gpu | None) -> str:
    """What the run needs, and whether the card at hand has it."""
    if not plan.needs:
        return _("VRAM: none is used, the training computes on the CPU.")
    need = _("VRAM: about {0} at {1}").format(size_text(plan.peak_bytes), PHASE_NAMES[plan.peak.phase])
    if gpu is None:
        return _("{0}; no NVIDIA card is seen here.").format(need)
    if gpu.total is None or gpu.free is None or gpu.mig:
        return _("{0}; {1} does not tell how much it has.").format(need, printable(gpu.name))
    if plan.peak_bytes <= gpu.free:
        return _("{0}, fits {1}: {2} of {3} are free.").format(
            need, printable(gpu.name), size_text(gpu.free), size_text(gpu.total)
        )
    if plan.fits(gpu.total / 2**30):
        return _("{0}: more than is free on {1} now ({2} of {3}). Close other programs.").format(
            need, printable(gpu.name), size_text(gpu.free), size_text(gpu.total)
        )
    return _("{0}: more than {1} has ({2}). If it runs out, the run goes on with the next remedy.").format(
        need, printable(gpu.name), size_text(gpu.total)
    )


def breakdown(plan: Plan) -> str:
    """What the largest phase consists of."""
    shown = [f"{what} {size_text(size)}" for what, size in plan.breakdown.items() if size >= 2**20]
    return _("At {0}: {1}").format(PHASE_NAMES[plan.peak.phase], ", ".join(shown))


def lines(plan: Plan, gpu: Gpu | None) -> list[str]:
    """The sentence, and what is behind it."""
    if not plan.needs:
        return [sentence(plan, gpu)]
    samples = plan.need("sample")
    told = []
    if samples is not None and samples.reserved > plan.peak.reserved:
        told.append(
            _("Samples at full speed take {0}; where that is not free, the run draws them in less memory.").format(
                size_text(samples.reserved + plan.context)
            )
        )
    return [sentence(plan, gpu), breakdown(plan), *told, *plan.notes]


def table(plans: Sequence[tuple[str, Plan]]) -> list[str]:
    """One line a plan, within 80 columns: GiB by phase without CUDA's context, the peak with it, and the smallest usual
    card that it fits."""
    from engine.memory.plan import CARDS, PHASES

    phases = [phase for phase in PHASES if any(plan.need(phase) for _name, plan in plans)]
    width = max([len(name) for name, _plan in plans] + [6])
    rows = ["".join([f"{'preset':{width}}", *(f"{phase:>7}" for phase in phases), f"{'peak':>7}", "  fits"])]
    for name, plan in plans:
        if not plan.needs:
            rows.append(f"{name:{width}}  " + _("on the CPU: needs no card"))
            continue
        needs = [plan.need(phase) for phase in phases]
        cells = [f"{need.allocated / 2**30:7.2f}" if need else f"{'-':>7}" for need in needs]
        smallest = next((f"{card:>4} GiB" for card in CARDS if plan.fits(card)), "  none")
        rows.append("".join([f"{name:{width}}", *cells, f"{plan.peak_bytes / 2**30:7.2f}", smallest]))
    return rows


def way_lines(way: Way, card: str, command: Sequence[str]) -> list[str]:
    """The remedies that make the run fit `card`, or come nearest, and the command with them.

    Args:
        command: what was typed after `lorasmith`, without the options that only planning has.
    """
    from engine.config.load import written

    need = way.goal.need(way.plan)
    if not way.taken:
        return [
            _("No setting is left that would save memory: a lower dataset.resolution needs less, or a larger card.")
        ]
    rows = []
    for one in way.taken:
        rows.append("  " + _("{0} saves {1}. Its cost:").format(one.remedy.title, size_text(one.saves)))
        rows += wrapped(f"{one.remedy.costs}.", 80, "    ")
    if not way.fits:
        told = _("With all of them {0} still needs {1}, more than {2} allows.").format(
            PHASE_NAMES[need.phase], size_text(need.reserved + way.plan.context), card
        )
        return [_("What saves memory, the cheapest first:"), *rows, told]
    settings = [part for key, value in way.changes.items() for part in ("--set", f"{key}={written(value)}")]
    return [
        _("These remedies make it fit {0}, the cheapest first:").format(card),
        *rows,
        _("Then {0} is the largest phase, with {1}.").format(
            PHASE_NAMES[way.plan.peak.phase], size_text(way.plan.peak_bytes)
        ),
        f"  {shell_line(('lorasmith', *command, *settings))}",
    ]


def way_json(way: Way) -> dict[str, Any]:
    """For `lorasmith plan --json`."""
    taken = [
        {"name": one.remedy.name, "saves_gib": round(one.saves / 2**30, 3), "costs": one.remedy.costs,
         "changes": dict(one.remedy.changes)}
        for one in way.taken
    ]  # fmt: skip
    return {"taken": taken, "peak_gib": round(way.plan.peak_bytes / 2**30, 3), "fits": way.fits}


def weighed(
    config: RunConfig, gpu: Gpu, oom: OutOfMemory, found: Sequence[Remedy], cancelled: Callable[[], bool]
) -> Iterator[tuple[str, str]]:
    """What the plan says of each remedy against an out-of-memory: its name, what it saves and whether that is enough.

    Raises:
        LoraSmithError: the plan cannot be made.
        PlanCancelled: `cancelled` said so.
    """
    from engine.memory.run_plans import RunPlans
    from engine.memory.weighing import Goal, weigh

    with RunPlans(config, gpu, (oom.phase,), cancelled=cancelled) as plan_of:
        goal = Goal.after(oom, plan_of(config))
        for one in weigh(config, found, goal, plan_of):
            if one.saves <= 0:
                yield one.remedy.name, _("saves nothing here.")
            elif one.fits:
                yield one.remedy.name, _("{0}, which is enough.").format(size_text(one.saves))
            else:
                yield one.remedy.name, _("{0}, which alone is not enough.").format(size_text(one.saves))
