"""`lorasmith plan`: how much memory runs need on a card, before any of them starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import printable
from tui.setup import configuration
from tui.shell import output

if TYPE_CHECKING:
    from engine.estimate.plan import Plan
    from engine.estimate.run_plans import RunPlans
    from engine.families.resolved import ResolvedRun
    from engine.hardware import Gpu
    from engine.oom.choose import RemedySet


@click.command("plan", short_help="Show how much memory a run needs, and what makes it fit.")
@click.argument("preset", required=False)
@click.option("--preset", "option", metavar="NAME|FILE", help="The same as the argument.")
@click.option("--images", metavar="DIR", help="The folder of images: with --model, steps and disk are computed too.")
@click.option(
    "--model", metavar="PATH", help="The checkpoint. Without it: one of the real size of the preset's family."
)
@click.option(
    "--name", metavar="NAME", help="The name of the output; also the trigger word where preset and --set have none."
)
@click.option("--dataset_config", metavar="FILE", help="Kohya's dataset configuration (TOML or JSON) instead of DIR.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option(
    "--vram",
    metavar="GIB",
    type=click.FloatRange(min=1),
    help="Plan for an empty card of this many GiB.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    preset: str | None,
    option: str | None,
    overrides: tuple[str, ...],
    vram: float | None,
    as_json: bool,
    **typed: str | None,
) -> int:
    """Show what a run with PRESET needs on a card in each phase, and which cards it fits.

    Where it does not fit the card at hand, or one of --vram GIB: the remedies that are enough. Without anything else:
    every preset that ships, as a table.
    """
    from engine.estimate.run_plans import RunPlans
    from engine.families.resolved import resolve_run
    from tui.text import vram_text

    if preset is not None and option is not None:
        raise UsageError(
            "The preset is named twice.", "lorasmith plan PRESET, or --preset PRESET.", code="preset-twice"
        )
    chosen = preset or option
    if chosen is None and not overrides and not any(typed.values()):
        if vram is not None:
            raise UsageError(
                "--vram plans one run.", "Name a preset: lorasmith plan PRESET --vram GIB.", code="preset-not-set"
            )
        return _every_preset(as_json)
    config = configuration.read_partly(chosen, overrides, **typed)
    run = resolve_run(config)
    gpu = vram_text.card(config)
    progress = output.counter("reading images")
    with RunPlans(gpu, progress=progress, waiting=_report_first_time, planning=output.counters()) as plan_of:
        plan = plan_of(run).with_run(*_length(run, plan_of))
        remedies = _remedies(run, gpu, plan, vram, plan_of)
    if as_json:
        more = {} if remedies is None else {"remedies": vram_text.remedies_json(remedies)}
        output.json_result(plan.as_json(gpu.free if gpu else None) | more)
        return ExitCode.DONE
    lines = vram_text.table([(chosen or "settings", plan)])
    lines += (line for text in vram_text.lines(plan, gpu) for line in output.wrapped(text, output.width_of_result()))
    if vram is not None and plan.needs:
        lines.append(vram_text.fit_line(plan, vram))
    if remedies is not None:
        card = f"{vram:g} GiB" if vram is not None else "what is free now"
        lines += vram_text.remedy_lines(remedies, card, _typed(chosen, overrides, typed))
    for line in lines:
        output.result(printable(line))
    return ExitCode.DONE


def _remedies(run: ResolvedRun, gpu: Gpu | None, plan: Plan, vram: float | None, plan_of: RunPlans) -> RemedySet | None:
    """The remedies that are enough; None where none is needed, or there is no card to plan for."""
    from engine.estimate.planner import MODERN
    from engine.oom.choose import Budget, choose_remedies

    if vram is not None:
        budget = Budget.of_card(vram, plan.context)
    elif gpu is not None and gpu.free is not None:
        budget = Budget(gpu.free - plan.context)
    else:
        return None
    return None if budget.met(plan) else choose_remedies(run, gpu or MODERN, budget, plan_of)


def _typed(chosen: str | None, overrides: Sequence[str], typed: Mapping[str, str | None]) -> list[str]:
    """The command line of the run itself."""
    words = ["--preset", chosen] if chosen else []
    for key, value in typed.items():
        words += [configuration.OPTIONS[key][0], value] if value is not None else []
    return [*words, *(word for override in overrides for word in ("--set", override))]


def _length(run: ResolvedRun, plan_of: RunPlans) -> tuple[int | None, int | None]:
    """Steps, and bytes that are written; None where they cannot be computed."""
    from engine.estimate.disk import estimate

    training, steps = run.config.training, plan_of.steps(run)
    if steps is None:
        return None if training.max_train_epochs else training.max_train_steps, None
    without_model = run.recognition.layout == "configurations"
    return steps.max_train_steps, None if without_model else estimate(run, steps, 4).total


def _report_first_time() -> None:
    output.message("Planning: the run is simulated without memory, which takes up to a few minutes the first time.")


def _every_preset(as_json: bool) -> int:
    from engine.config import list_presets
    from engine.estimate.planner import Planner
    from engine.families.resolved import resolve_run
    from tui.text import vram_text

    names = [preset.name for preset in list_presets() if preset.shipped]
    configs = [configuration.read_partly(name, ()) for name in names]
    with Planner(waiting=_report_first_time, progress=output.counters()) as planner:
        plans = [(name, planner.plan(resolve_run(config))) for name, config in zip(names, configs, strict=True)]
    if as_json:
        output.json_result({name: plan.with_run(config.training.max_train_steps, None).as_json()
                            for (name, plan), config in zip(plans, configs, strict=True)})  # fmt: skip
        return ExitCode.DONE
    for line in vram_text.table(plans):
        output.result(line)
    output.result("GiB on the card by phase, without CUDA's context; the peak has it. fits: the")
    output.result("smallest usual card that has enough memory. Planned for a card with bf16.")
    output.result("sample: at full speed, which is not in the peak, as a run uses it only where")
    output.result("the card has room for it. Otherwise samples need what low memory shows.")
    return ExitCode.DONE
