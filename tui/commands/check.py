"""`lorasmith check DIR`: what is wrong with a folder of pictures and captions, before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.runs.layout import expanded
from engine.text import listing, printable
from tui import configuration, output
from tui.words.report import SIGNS, case_text

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.report.findings import Finding, Report

_MOST_CASES = 10
_MOST_RUNS = 50
"""Whose configurations are read to find one on the same folder."""


@click.command("check", short_help="Tell what is wrong with pictures and captions.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--dataset_config", metavar="FILE", help="Kohya's dataset configuration (TOML or JSON) in place of DIR.")
@click.option(
    "--preset", metavar="NAME|FILE", help="Check for a run with it: resolution, buckets, mirroring, token limit."
)
@click.option("--model", metavar="PATH", help="The checkpoint, for its family and tokenizer.")
@click.option("--trigger", metavar="WORD", help="The word that each caption should have.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option("--html", metavar="FILE", help="Write the report with thumbnails as one HTML file.")
@click.option("--repair", metavar="OUT_DIR", help="Write a copy in which is mended what can be mended safely.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    folder: str | None,
    dataset_config: str | None,
    preset: str | None,
    model: str | None,
    trigger: str | None,
    overrides: tuple[str, ...],
    html: str | None,
    repair: str | None,
    as_json: bool,
) -> int:
    """Tell what is wrong with the pictures and captions in DIR: a folder of pictures, the parent of Kohya's
    <repeats>_<name> folders, or a project.

    Without --preset the settings of the newest run that was trained on DIR are taken, if there is one. Nothing in DIR
    is changed. What is measured is kept, so that a second report is quick. The exit code is 0, or 3 when there are
    errors: pictures or captions that cannot be read, or no pictures.
    """
    from engine.dataset.report.process import Wish, ask

    if folder is not None and preset is None:
        preset = settings_of_a_run(expanded(folder))
    config = _config(folder, dataset_config, preset, model, trigger, overrides)
    if folder is not None and preset is None and not any(one.startswith("dataset.resolution") for one in overrides):
        width, height = config.dataset.size
        output.narrate(f"Checked for {width}×{height} px, the default resolution; --preset names another.")
    wish = Wish(config, expanded(html) if html else None, expanded(repair) if repair else None)
    report, repaired = ask(wish, output.counters())
    if as_json:
        output.json_result(report.as_json())
    else:
        for line in lines(report):
            output.result(line)
    for line in (repaired, f"The report with pictures is in {printable(wish.html)}." if wish.html else ""):
        if line:
            output.narrate(line)
    return ExitCode.BAD_DATA if report.failed else ExitCode.DONE


def _config(
    folder: str | None,
    dataset_config: str | None,
    preset: str | None,
    model: str | None,
    trigger: str | None,
    overrides: tuple[str, ...],
) -> RunConfig:
    if folder is None and dataset_config is None and preset is None:
        raise UsageError("Which pictures?", "lorasmith check DIR, or --dataset_config FILE.")
    if folder is not None and dataset_config is not None:
        raise UsageError("DIR and --dataset_config do not go together.", "The file names the folders itself.")
    if trigger is not None:
        overrides = (*overrides, f"dataset.class_tokens={_quoted(trigger)}")
    config = configuration.read_partly(preset, overrides, dataset_config=dataset_config, model=model)
    if folder is None:
        return config
    training, regularizing = project_folders(expanded(folder))
    changes: dict[str, object] = {"train_data_dir": str(training), "dataset_config": None}
    if regularizing is not None:
        changes["reg_data_dir"] = str(regularizing)
    return config.changed(dataset=changes)


def settings_of_a_run(folder: Path) -> str | None:
    """The configuration of the newest run on this folder, as --preset takes it; None where no run is known."""
    from engine.config import load_config
    from engine.errors import LoraSmithError
    from engine.runs.find import find_runs

    training = os.path.realpath(project_folders(folder)[0])
    for run in find_runs([folder])[:_MOST_RUNS]:
        path = run.run_dir.config_path
        try:
            images = load_config(path).dataset.train_data_dir
        except (LoraSmithError, OSError, ValueError):
            continue  # a damaged run has no settings to offer
        if images and os.path.realpath(expanded(images)) == training:
            output.narrate(f"Checked for the run {printable(run.name)}, with its settings; --preset names others.")
            return str(path)
    return None


def _quoted(text: str) -> str:
    """As TOML reads it."""
    import json

    return json.dumps(text, ensure_ascii=False)


def project_folders(folder: Path) -> tuple[Path, Path | None]:
    """(pictures, regularization pictures) of a project of this program or of the kohya_ss GUI; else the folder
    itself."""
    from engine.dataset.project import pictures_of

    training = pictures_of(folder)
    other = folder / {"training_images": "regularization_images", "img": "reg"}.get(training.name, "")
    return training, other if training != folder and other.is_dir() and any(other.iterdir()) else None


def lines(report: Report) -> Iterator[str]:
    """The report in words."""
    width = max(40, min(output.width_of_result(), 100))
    for finding in report.findings:
        yield from _finding(finding, width)
        yield ""
    if report.buckets:
        shown = [f"{width}×{height} ({count})" for (width, height), count in report.buckets.items()]
        yield from output.wrapped(f"Buckets: {listing(shown, 12)}.", width, "")
    for note in report.notes:
        yield from output.wrapped(printable(note), width, "")
    yield report.verdict


def _finding(finding: Finding, width: int) -> Iterator[str]:
    kind = finding.kind
    yield f"{SIGNS[kind.level]} {finding.heading} [{kind.code}]"
    if finding.said:
        yield from output.wrapped(printable(finding.said), width, "  ")
    for case in finding.cases[:_MOST_CASES]:
        yield from output.wrapped(f"· {case_text(case)}", width, "  ", "    ")
    if len(finding.cases) > _MOST_CASES:
        yield f"  · and {len(finding.cases) - _MOST_CASES} more; --json and --html list them"
    yield from output.wrapped(kind.why, width, "  ")
    yield from output.wrapped(f"→ {kind.advice}", width, "  ")
    if kind.repair:
        yield from output.wrapped(f"--repair: {kind.repair}", width, "  ")
