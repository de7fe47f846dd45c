"""`lorasmith resume RUN`: continue a run; a finished one to another length; or a new run from one of its files."""

from __future__ import annotations

from collections.abc import Mapping

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs import RunDir, resolve
from engine.runs.begin import prepare_to_resume
from engine.text import printable
from tui.commands.run import print_what_now, show_results
from tui.shell import event_printer as printers
from tui.shell import foreground, output
from tui.shell.on_end import parse_command


@click.command("resume")
@click.argument("run")
@click.option(
    "--set",
    "settings",
    metavar="TABLE.KEY=VALUE",
    multiple=True,
    help="Change a setting; repeatable. training.max_train_epochs=N continues a finished run to N epochs.",
)
@click.option(
    "--from",
    "file",
    metavar="FILE",
    help="Start a new run from this LoRA: one of RUN's files by its name, or any other by its path. Without a length "
    "in --set it trains 3 epochs.",
)
@click.option("--dry-run", is_flag=True, help="Show how the run would continue; start and write nothing.")
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Continue although images, captions or model files changed since; the run names them.",
)
@click.option("--detach", is_flag=True, help="Return as soon as the training has started.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's events, one JSON object per line.")
@click.option("--on-end", metavar="COMMAND", help="Run this command when the training has ended, however it ended.")
def command(
    run: str,
    settings: tuple[str, ...],
    file: str | None,
    dry_run: bool,
    accept_changes: bool,
    detach: bool,
    as_json: bool,
    on_end: str | None,
) -> int:
    """Continue RUN from its last saved state, exactly; a finished one with a longer length in --set."""
    run_dir = resolve(run)
    words = parse_command(on_end)
    if file is not None:
        if accept_changes:
            raise UsageError(
                "--accept-changes cannot be combined with --from: a new run has no images yet.",
                "Leave it out.",
                code="options-not-together",
            )
        new = _from_file(run_dir, file, settings, dry_run=dry_run)
        return ExitCode.DONE if new is None else _follow(new, words, detach=detach, as_json=as_json)
    changes = _changes(settings)
    if dry_run:
        return _show(run_dir, changes)
    state = prepare_to_resume(run_dir, changes, accept_changes=accept_changes, log=output.message)
    output.message(f"{run_dir.path} was {state.state} at step {state.step}; the training continues.")
    return _follow(run_dir, words, detach=detach, as_json=as_json)


def _follow(run_dir: RunDir, on_end: tuple[str, ...], *, detach: bool, as_json: bool) -> int:
    printer = printers.printer(run_dir, json=as_json)
    code = foreground.train(run_dir, printer, detach=detach, on_end=on_end)
    if as_json:
        return code
    if detach and code == ExitCode.DONE:
        output.result(run_dir.path)
    else:
        show_results(run_dir, printer)
        print_what_now(run_dir, code)
    return code


def _show(run_dir: RunDir, changes: Mapping[str, object]) -> int:
    from engine.runs.resume import plan_resume

    plan = plan_resume(run_dir, changes)
    output.result(printable(f"{run_dir.path} is {plan.state.state} at step {plan.state.step}."))
    for line in plan.notes:
        output.result(printable(line))
    output.result("Nothing was started or written.")
    return ExitCode.DONE


def _from_file(run_dir: RunDir, file: str, settings: tuple[str, ...], *, dry_run: bool) -> RunDir | None:
    """Prepare a new run that starts from a LoRA; with `dry_run` only show it, and return None."""
    from engine.config import load_config
    from engine.results.train_on import described, find_file, new_run
    from tui.commands.run import prepare

    start_file = find_file(run_dir, file)
    typed = {setting.partition("=")[0].strip() for setting in settings}
    values = {key: value for key, value in new_run(run_dir, start_file).items() if key not in typed}
    if typed & {"training.max_train_steps", "training.max_train_epochs"}:
        values.pop("training.max_train_epochs", None)
        if "training.max_train_steps" in typed and "training.max_train_epochs" not in typed:
            values["training.max_train_epochs"] = None
    config = load_config(str(run_dir.config_path), settings, {key: ("--from", value) for key, value in values.items()})
    if not dry_run:
        for line in described(run_dir, start_file, config):
            output.message(line)
        return prepare(config)
    from tui.shell.dry_run import dry_run as show

    for line in described(run_dir, start_file, config):
        output.result(line)
    options = [word for setting in settings for word in ("--set", setting)]
    show(config, ("resume", str(run_dir.path), "--from", file, *options), restart=False)
    return None


def _changes(settings: tuple[str, ...]) -> dict[str, object]:
    from engine.config.literals import parse_value

    changes: dict[str, object] = {}
    for setting in settings:
        key, equals, written = setting.partition("=")
        if not equals:
            raise UsageError(
                f"--set {setting} has no value.", "Write --set table.key=value.", code="assignment-without-value"
            )
        changes[key.strip()] = parse_value(written)
    return changes
