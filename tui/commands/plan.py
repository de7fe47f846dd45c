"""`lorasmith plan`: how much memory runs need on a card, before any of them starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.text import printable
from tui import configuration, output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.hardware import Gpu
    from engine.memory.plan import Plan
    from engine.memory.run_plans import RunPlans
    from engine.memory.weighing import Way


@click.command("plan", short_help="Show how much memory a run needs, and what makes it fit.")
@click.argument("preset", required=False)
@click.option("--preset", "option", metavar="NAME|FILE", help="The same as the argument.")
@click.option("--images", metavar="DIR", help="The folder of pictures: with the model, steps and disk are known too.")
@click.option(
    "--model", metavar="PATH", help="The checkpoint. Without it: one of the real size of the preset's family."
)
@click.option(
    "--name", metavar="NAME", help="Names the output; also the trigger word where preset and --set have none."
)
@click.option("--dataset_config", metavar="FILE", help="Kohya's dataset configuration (TOML or JSON) in place of DIR.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option(
    "--vram",
    metavar="GIB",
    type=click.FloatRange(min=1),
    help="For a card of so many GiB with nothing else on it.",
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
    from engine.memory.run_plans import RunPlans
    from tui import planned

    if preset is not None and option is not None:
        raise UsageError("The preset is named twice.", "lorasmith plan PRESET, or --preset PRESET.")
    chosen = preset or option
    if chosen is None and not overrides and not any(typed.values()):
        if vram is not None:
            raise UsageError("--vram plans one run.", "Name a preset: lorasmith plan PRESET --vram GIB.")
        return _every_preset(as_json)
    config = configuration.read_partly(chosen, overrides, **typed)
    gpu = planned.card(config)
    progress = output.counter("reading pictures")
    with RunPlans(config, gpu, progress=progress, waiting=_tell_first_time) as plan_of:
        plan = plan_of(config).with_run(*_length(config, plan_of))
        found = _way(config, gpu, plan, vram, plan_of)
    if as_json:
        told = {} if found is None else {"remedies": planned.way_json(found)}
        output.json_result(plan.as_json(gpu.free if gpu else None) | told)
        return ExitCode.DONE
    lines = planned.table([(chosen or "settings", plan)])
    lines += (line for text in planned.lines(plan, gpu) for line in output.wrapped(text, output.width_of_result()))
    if found is not None:
        card = f"{vram:g} GiB" if vram is not None else "what is free now"
        lines += planned.way_lines(found, card, _typed(chosen, overrides, typed))
    for line in lines:
        output.result(printable(line))
    return ExitCode.DONE


def _way(config: RunConfig, gpu: Gpu | None, plan: Plan, vram: float | None, plan_of: RunPlans) -> Way | None:
    """The remedies that are enough; None where none is needed, or no card is meant."""
    from engine.memory.planner import MODERN
    from engine.memory.weighing import Goal, way

    if vram is not None:
        goal = Goal.of_card(vram, plan.context)
    elif gpu is not None and gpu.free is not None:
        goal = Goal(gpu.free - plan.context)
    else:
        return None
    return None if goal.met(plan) else way(config, gpu or MODERN, goal, plan_of)


def _typed(chosen: str | None, overrides: Sequence[str], typed: Mapping[str, str | None]) -> list[str]:
    """The command line of the run itself."""
    words = ["--preset", chosen] if chosen else []
    for key, value in typed.items():
        words += [configuration.OPTIONS[key][0], value] if value is not None else []
    return [*words, *(word for override in overrides for word in ("--set", override))]


def _length(config: RunConfig, plan_of: RunPlans) -> tuple[int | None, int | None]:
    """Steps, and bytes that are written, as far as they are known."""
    from engine.runs.disk import estimate

    training, steps = config.training, plan_of.steps(config)
    if steps is None:
        return None if training.max_train_epochs else training.max_train_steps, None
    known = plan_of.recognition
    return steps.max_train_steps, None if known.layout == "configurations" else estimate(config, known, steps, 4).total


def _tell_first_time() -> None:
    output.narrate("Planning: the run is rehearsed without memory, which takes up to some minutes the first time.")


def _every_preset(as_json: bool) -> int:
    from engine.config import list_presets
    from engine.memory.planner import Planner
    from tui import planned

    names = [preset.name for preset in list_presets() if preset.shipped]
    configs = [configuration.read_partly(name, ()) for name in names]
    with Planner(waiting=_tell_first_time) as planner:
        found = [(name, planner.plan(config)) for name, config in zip(names, configs, strict=True)]
    if as_json:
        output.json_result({name: plan.with_run(config.training.max_train_steps, None).as_json()
                            for (name, plan), config in zip(found, configs, strict=True)})  # fmt: skip
        return ExitCode.DONE
    for line in planned.table(found):
        output.result(line)
    output.result("GiB on the card by phase, CUDA's context apart; the peak is with it. fits: the")
    output.result("smallest of the usual cards that has it. Planned for a card with bf16.")
    output.result("frugal: samples in less memory, which a run turns to by itself where the others")
    output.result("do not fit; of the two the peak counts these.")
    return ExitCode.DONE
