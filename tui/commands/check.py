"""`lorasmith check DIR`: what is wrong with a folder of images and captions, before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import listing, printable
from tui.setup import configuration
from tui.shell import output
from tui.text.report import SIGNS, case_text

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.report.findings import Finding, Report

_MOST_CASES = 10
_MOST_RUNS = 50
"""Runs whose configurations are read to find one on the same folder."""


@click.command("check", short_help="Report what is wrong with images and captions.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--dataset_config", metavar="FILE", help="Kohya's dataset configuration (TOML or JSON) instead of DIR.")
@click.option(
    "--preset", metavar="NAME|FILE", help="Check for a run with it: resolution, buckets, mirroring, token limit."
)
@click.option("--model", metavar="PATH", help="The checkpoint, for its family and tokenizer.")
@click.option("--trigger", metavar="WORD", help="The word that each caption should have.")
@click.option("--set", "overrides", metavar="TABLE.KEY=VALUE", multiple=True, help="Change a setting; repeatable.")
@click.option("--html", metavar="FILE", help="Write the report with thumbnails as one HTML file.")
@click.option("--repair", metavar="OUT_DIR", help="Write a copy with everything fixed that can be fixed safely.")
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
    """Report what is wrong with the images and captions in DIR: a folder of images, the parent of Kohya's
    <repeats>_<name> folders, or a project.

    Without --preset the settings of the newest run that was trained on DIR are used, if there is one. Nothing in DIR
    is changed. Measurements are cached, so that a second report is quick. The exit code is 0, or 3 when there are
    errors: images or captions that cannot be read, or no images.
    """
    from engine.dataset.report.process import CheckRequest, ask

    if folder is not None and preset is None:
        preset = settings_of_a_run(expanded(folder))
    config = _config(folder, dataset_config, preset, model, trigger, overrides)
    request = CheckRequest(config, expanded(html) if html else None, expanded(repair) if repair else None)
    report, repaired = ask(request, output.counters())
    if (
        folder is not None
        and preset is None
        and not any(override.startswith("dataset.resolution") for override in overrides)
    ):
        width, height = config.dataset.size
        output.message(f"Checked for {width}×{height} px, the default resolution; --preset names another.")
    if as_json:
        output.json_result(report.as_json())
    else:
        for line in lines(report):
            output.result(line)
    for line in (repaired, f"The report with images is in {printable(request.html)}." if request.html else ""):
        if line:
            output.message(line)
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
        raise UsageError("Which images?", "lorasmith check DIR, or --dataset_config FILE.", code="no-folder-of-images")
    if folder is not None and dataset_config is not None:
        raise UsageError(
            "DIR and --dataset_config cannot be combined.",
            "The file names the folders itself.",
            code="options-not-together",
        )
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
    """The configuration of the newest run on this folder, as --preset takes it; None where there is none."""
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
            output.message(f"Checked for the run {printable(run.name)}, with its settings; --preset names others.")
            return str(path)
    return None


def _quoted(text: str) -> str:
    """`text` as a TOML string."""
    import json

    return json.dumps(text, ensure_ascii=False)


def project_folders(folder: Path) -> tuple[Path, Path | None]:
    """(images, regularization images) of a project of this program or of the kohya_ss GUI; else the folder
    itself."""
    from engine.runs.project import images_of

    training = images_of(folder)
    other = folder / {"training_images": "regularization_images", "img": "reg"}.get(training.name, "")
    return training, other if training != folder and other.is_dir() and any(other.iterdir()) else None


def lines(report: Report) -> Iterator[str]:
    """The report in words."""
    width = max(40, min(output.width_of_result(), 100))
    for finding in report.findings:
        yield from _finding(finding, width)
        yield ""
    if report.buckets:
        buckets = [f"{width}×{height} ({count})" for (width, height), count in report.buckets.items()]
        yield from output.wrapped(f"Buckets: {listing(buckets, 12)}.", width, "")
    for note in report.notes:
        yield from output.wrapped(printable(note), width, "")
    yield report.verdict


def _finding(finding: Finding, width: int) -> Iterator[str]:
    kind = finding.kind
    yield f"{SIGNS[kind.level]} {finding.heading} [{kind.code}]"
    if finding.text:
        yield from output.wrapped(printable(finding.text), width, "  ")
    for case in finding.cases[:_MOST_CASES]:
        yield from output.wrapped(f"· {case_text(case)}", width, "  ", "    ")
    if len(finding.cases) > _MOST_CASES:
        yield f"  · and {len(finding.cases) - _MOST_CASES} more; --json and --html list them"
    yield from output.wrapped(kind.why, width, "  ")
    yield from output.wrapped(f"→ {kind.advice}", width, "  ")
    if kind.repair:
        yield from output.wrapped(f"--repair: {kind.repair}", width, "  ")
