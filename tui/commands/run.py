"""`lorasmith --preset NAME|FILE`: train, in the foreground or detached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from engine.runs import RunDir
from tui import configuration, foreground, narrators, output

if TYPE_CHECKING:
    from engine.config import RunConfig
    from tui.narrators import Narrator


def run_preset(
    preset: str,
    *,
    images: str | None,
    dataset_config: str | None,
    model: str | None,
    name: str | None,
    output_dir: str | None,
    overrides: tuple[str, ...],
    detach: bool,
    as_json: bool,
    dry_run: bool,
    restart: bool,
    on_oom: str | None,
    kohya_exact: bool,
) -> int:
    """Read, check, prepare, launch and follow; the exit code of the run."""
    from engine.config.load import kohya_notes

    if on_oom:
        overrides = (*overrides, f"memory.on_oom={on_oom}")
    if kohya_exact:
        overrides = (*overrides, "training.kohya_exact=true")
    config = configuration.read(
        preset, overrides, images=images, dataset_config=dataset_config, model=model, name=name, output_dir=output_dir
    )
    for note in kohya_notes(preset, exact=config.training.kohya_exact):
        output.narrate(note)
    other = configuration.another_trigger(config, name)
    if other is not None:
        output.narrate(f"note: {other}")
    unfit = configuration.of_another_family(preset, config)
    if unfit is not None:
        output.narrate(f"warning: {unfit}")
    if dry_run:
        from tui.dry_run import dry_run as show

        return show(config, sys.argv[1:], restart=restart)
    run_dir = prepare(config, restart=restart)
    teller = narrators.narrator(run_dir, json=as_json)
    code = foreground.train(run_dir, teller, detach=detach)
    if detach and code == ExitCode.DONE:
        if not as_json:
            output.result(run_dir.path)
        return code
    if not as_json:
        show_results(run_dir, teller)
    return code


def prepare(config: RunConfig, *, restart: bool = False) -> RunDir:
    """Check what can be checked without loading anything, then make the run directory.

    Raises:
        LoraSmithError: what the person must mend; no directory was made.
    """
    from tui.begin import prepare as prepare_checked

    return prepare_checked(
        config,
        command_line=["lorasmith", *sys.argv[1:]],
        restart=restart,
        say=output.narrate,
        progress=output.counter("reading pictures"),
    )


def show_results(run_dir: RunDir, teller: Narrator) -> None:
    """The newest LoRA and the contact sheet, each a line on stdout."""
    newest = narrators.last_saved(teller)
    if newest is not None:
        output.result(newest)
    if teller.samples:
        from engine.runs.contact import collect, sheet_path, write_sheet

        sheet = write_sheet(collect(teller.samples, run_dir), sheet_path(run_dir))
        if sheet is not None:
            output.result(sheet)
