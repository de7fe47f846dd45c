"""`lorasmith --preset NAME|FILE`: train, in the foreground or detached."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.exit_codes import ExitCode
from engine.runs import RunDir, record_run
from engine.runs.state import mark_unstarted
from engine.text import printable, shell_line
from tui.setup import configuration
from tui.shell import event_printer as printers
from tui.shell import foreground, output
from tui.shell.on_end import parse_command

if TYPE_CHECKING:
    from engine.config import RunConfig
    from tui.shell.event_printer import EventPrinter


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
    prepare_only: bool,
    restart: bool,
    on_oom: str | None,
    early_stop: bool,
    kohya_exact: bool,
    on_end: str | None,
) -> int:
    """Read, check, prepare, launch and follow; the exit code of the run."""
    words = parse_command(on_end)
    config = configuration.from_options(
        preset,
        overrides,
        on_oom=on_oom,
        early_stop=early_stop,
        kohya_exact=kohya_exact,
        images=images,
        dataset_config=dataset_config,
        model=model,
        name=name,
        output_dir=output_dir,
    )
    for remark in configuration.remarks(preset, config, name):
        output.message(remark)
    if dry_run:
        from tui.shell.dry_run import dry_run as show

        return show(config, sys.argv[1:], restart=restart)
    run_dir = prepare(config, restart=restart)
    if prepare_only:
        mark_unstarted(run_dir)
        record_run(run_dir)
        output.message("The run is prepared. Start it on every machine with a launcher (docs/scale.md), or here with:")
        output.message(f"  {shell_line(['lorasmith', 'resume', str(run_dir.path)])}")
        output.result(run_dir.path)
        return ExitCode.DONE
    printer = printers.printer(run_dir, json=as_json)
    code = foreground.train(run_dir, printer, detach=detach, on_end=words)
    if detach and code == ExitCode.DONE:
        if not as_json:
            output.result(run_dir.path)
        return code
    if not as_json:
        show_results(run_dir, printer)
        print_what_now(run_dir, code)
    return code


def print_what_now(run_dir: RunDir, code: int) -> None:
    """After a finished run: print which file to take and why, and how it is used, in short."""
    from engine.errors import LoraSmithError
    from engine.results.of_run import lora_of_run
    from engine.results.record import read_run
    from engine.results.what_now import in_short
    from engine.text import attach_line
    from tui.text.verdict_words import verdict_word

    if code != ExitCode.DONE or not run_dir.lora_path().is_file():
        return
    assessment = read_run(run_dir).assessment
    path = assessment.best.file.path if assessment.best else run_dir.lora_path()
    if assessment.best is not None and len(assessment.files) > 1:
        word = verdict_word(assessment.best.verdict.kind)
        output.message(f"Best of {len(assessment.files)} files: {printable(path.name)} ({word}).")
        for sentence in (*assessment.why, *assessment.advice):
            output.message(f"  {printable(sentence)}")
    try:
        lora = lora_of_run(run_dir, path)
    except LoraSmithError:  # its configuration was removed meanwhile; the run is done anyway
        return
    for line in in_short(lora):
        output.message(line)
    output.message(f"All files, and use with diffusers: {attach_line(run_dir.path)}, then v and w.")


def prepare(config: RunConfig, *, restart: bool = False) -> RunDir:
    """Check what can be checked without loading anything, then make the run directory.

    Raises:
        LoraSmithError: what the person must fix; no directory was made.
    """
    from tui.shell.begin import prepare as prepare_checked

    return prepare_checked(
        config,
        command_line=["lorasmith", *sys.argv[1:]],
        restart=restart,
        log=output.message,
        progress=output.counter("reading images"),
    )


def show_results(run_dir: RunDir, printer: EventPrinter) -> None:
    """Print the paths of the newest LoRA and the contact sheet on stdout."""
    newest = printers.last_saved(printer)
    if newest is not None:
        output.result(newest)
    if printer.samples:
        from engine.runs.contact import collect, sheet_path, write_sheet

        sheet = write_sheet(collect(printer.samples, run_dir), sheet_path(run_dir))
        if sheet is not None:
            output.result(sheet)
