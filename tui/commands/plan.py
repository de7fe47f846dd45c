"""`lorasmith plan`: how much memory runs need on a card, before any of them starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.exit_codes import ExitCode
from engine.text import printable
from tui import configuration, output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.memory.plan import Plan


@click.command("plan")
@click.argument("preset", required=False)
@click.option("--preset", "option", metavar="NAME|FILE", help="The same as the argument.")
@click.option("--images", metavar="DIR", help="The folder of pictures: with the model, steps and disk are known too.")
@click.option(
    "--model", metavar="PATH", help="The checkpoint. Without it: one of the real size of the preset's family."
)
@click.option("--name", metavar="NAME", help="Names the trigger and the output.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    preset: str | None, option: str | None, overrides: tuple[str, ...], as_json: bool, **typed: str | None
) -> int:
    """Show what a run with PRESET needs on a card in each phase, and which cards it fits.

    Without anything else: every preset that ships, as a table.
    """
    from tui import planned

    chosen = preset or option
    if chosen is None and not overrides and not any(typed.values()):
        return _every_preset(as_json)
    config = configuration.read_partly(chosen, overrides, **typed)
    plan, gpu = _plan(config), planned.card(config)
    if as_json:
        output.json_result(plan.as_json(gpu.free if gpu else None))
        return ExitCode.DONE
    for line in [*planned.table([(chosen or "settings", plan)]), *planned.lines(plan, gpu)]:
        output.result(printable(line))
    return ExitCode.DONE


def _plan(config: RunConfig) -> Plan:
    """The plan, with steps and disk as far as they are known."""
    from engine.dataset.arithmetic import plan_steps
    from engine.dataset.buckets import BucketGrid
    from engine.dataset.scan import scan
    from engine.memory.planner import plan, recognition_for
    from engine.runs.disk import estimate
    from tui import planned

    recognition = recognition_for(config)
    training, steps, disk = config.training, None, None
    if config.dataset.train_data_dir or config.dataset.dataset_config:
        grid = BucketGrid.from_config(config, multiple=recognition.multiple, downscale=recognition.downscale)
        steps = plan_steps(scan(config, output.counter("reading pictures")), grid, config)
    if steps is not None and recognition.layout != "configurations":
        disk = estimate(config, recognition, steps, 4).total
    length = steps.max_train_steps if steps else None if training.max_train_epochs else training.max_train_steps
    found = plan(config, recognition, steps, planned.card(config), waiting=_tell_first_time)
    return found.with_run(length, disk)


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
    output.result("GiB on the card by phase, CUDA's context apart; the peak is with it. Planned for a card with bf16.")
    return ExitCode.DONE
