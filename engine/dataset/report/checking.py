"""The complete check: find the images, measure them, and run each group of findings."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid
from engine.dataset.images import ImageInfo, Rejected
from engine.dataset.report import (
    balance,
    borders,
    crops,
    duplicates,
    facing,
    files,
    masks,
    quality,
    texts,
    variety,
    watermarks,
)
from engine.dataset.report.findings import LEVELS, Finding, Kind, Report
from engine.dataset.report.measure_cache import MeasureCache
from engine.dataset.report.measuring import Job, measure_all
from engine.dataset.report.survey import Survey
from engine.dataset.scan import survey as scan_images
from engine.errors import ModelError, UsageError
from engine.families.registry import families, recognise
from engine.types import Recognition
from engine.worker import OnProgress

GROUPS = (files, masks, duplicates, texts, facing, quality, borders, watermarks, crops, variety, balance)
KINDS: tuple[Kind, ...] = tuple(kind for group in GROUPS for kind in group.KINDS)


def measure_images(config: RunConfig, cache: MeasureCache, progress: OnProgress) -> Survey:
    """Find the images of a configuration and measure each.

    Raises:
        UsageError: no folder is set, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any image file.
    """
    if config.sets_aside:  # they are checked like the rest
        config = config.changed(dataset={"validation_split": 0.0})
    scan, bad = scan_images(config, lambda done, total: progress("finding images", done, total))
    recognition, trouble = _recognise(config)
    grid = None
    try:
        table = config.dataset
        grid = BucketGrid.from_table(table) if recognition is None else BucketGrid.of_model(table, recognition)
    except UsageError as error:
        trouble = f"{trouble} Buckets are not checked. {error}".strip()
    survey = Survey(config, scan, bad, recognition, grid, cache, trouble=trouble)
    _measure(survey, progress)
    return survey


def _recognise(config: RunConfig) -> tuple[Recognition | None, str]:
    """The model of the configuration, else the reference model of its family; and an error text."""
    if config.model.pretrained_model_name_or_path:
        try:
            return recognise(config.model.pretrained_model_name_or_path), ""
        except ModelError as error:
            return None, f"The model is not used for this report. {error}"
    matches = [family for family in families() if family.name == config.model.family]
    return (matches[0].reference_model() if matches else None), ""


def _measure(survey: Survey, progress: OnProgress) -> None:
    jobs: dict[Path, Job] = {}
    for subset in survey.scan.subsets:
        table = survey.table(subset)
        side = round(math.sqrt(table.size[0] * table.size[1]))
        for image in subset.images:
            jobs.setdefault(image.path, Job(image, side, table.alpha_background, table.max_image_megapixels))
    done = 0

    def count_done() -> None:
        nonlocal done
        done += 1
        progress("looking at images", done, len(jobs))

    for job, key, result in measure_all(jobs.values(), survey.cache, count_done):
        path = job.image.path
        if result.measures is None:
            survey.broken.append(Rejected(path, result.reason))
        else:
            survey.measures[path], survey.keys[path], survey.thumbs[path] = result.measures, key, result.thumb
    survey.broken.sort(key=lambda rejected: str(rejected.path))


def build_report(survey: Survey, progress: OnProgress) -> Report:
    """Run all groups of findings on the measures and captions."""
    findings: list[Finding] = []
    for index, group in enumerate(GROUPS):
        progress("comparing", index, len(GROUPS))
        findings += group.find(survey)
    progress("comparing", len(GROUPS), len(GROUPS))
    findings.sort(key=lambda finding: LEVELS.index(finding.kind.level))
    counts = Counter(cut.placement.bucket for cut in crops.cuts(survey))
    notes = [*survey.scan.notes]
    notes += [text for text in (survey.trouble, survey.cache.note) if text]
    return Report(tuple(findings), len(survey.training), tuple(notes), dict(sorted(counts.items())))


def check(
    config: RunConfig, progress: OnProgress = lambda *_: None, cache: MeasureCache | None = None
) -> tuple[Report, Survey]:
    """Check the images of a configuration; an exception of `progress` ends it, measures stay in the cache.

    Returns:
        the report and its survey, whose cache is closed, so that `marks` is no longer available.

    Raises:
        UsageError: no folder is set, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any image file.
        LoraSmithError: no process can be started that looks at the images.
    """
    cache = cache or MeasureCache()
    try:
        survey = measure_images(config, cache, progress)
        return build_report(survey, progress), survey
    finally:
        cache.close()


def images_of(survey: Survey) -> dict[Path, ImageInfo]:
    """All images by path."""
    return {image.path: image for subset in survey.scan.subsets for image in subset.images}
