"""The whole check: find the pictures, take their measures, and ask each group of findings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from engine.config.schema import RunConfig
from engine.dataset.buckets import BucketGrid
from engine.dataset.pictures import Picture, Rejected
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
from engine.dataset.report.measuring import Job, take_all
from engine.dataset.report.shelf import Shelf
from engine.dataset.report.survey import Survey
from engine.dataset.scan import survey as find_pictures
from engine.errors import ModelError, UsageError
from engine.models.base import Recognition
from engine.models.registry import families, recognise

GROUPS = (files, masks, duplicates, texts, facing, quality, borders, watermarks, crops, variety, balance)
KINDS: tuple[Kind, ...] = tuple(kind for group in GROUPS for kind in group.KINDS)
Told = Callable[[str, int, int], None]
"""Told (what is done, so many, of so many)."""


def look(config: RunConfig, shelf: Shelf, told: Told) -> Survey:
    """Find the pictures of a configuration and take the measures of each.

    Raises:
        UsageError: no folder is named, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any picture file.
    """
    scan, bad = find_pictures(config, lambda done, total: told("finding pictures", done, total))
    recognition, trouble = _recognised(config)
    grid = None
    try:
        grid = BucketGrid.from_config(config) if recognition is None else BucketGrid.from_config(
            config, multiple=recognition.multiple, downscale=recognition.downscale
        )  # fmt: skip
    except UsageError as error:
        trouble = f"{trouble} Buckets are not checked. {error}".strip()
    found = Survey(config, scan, bad, recognition, grid, shelf, trouble=trouble)
    _take_measures(found, told)
    return found


def _recognised(config: RunConfig) -> tuple[Recognition | None, str]:
    """What the pictures are for: the model that is named, else one of the named family; and why it is not known."""
    if config.model.pretrained_model_name_or_path:
        try:
            return recognise(config.model.pretrained_model_name_or_path), ""
        except ModelError as error:
            return None, f"The model is not used for this report. {error}"
    named = [family for family in families() if family.name == config.model.family]
    return (named[0].of_real_size() if named else None), ""


def _take_measures(found: Survey, told: Told) -> None:
    jobs: dict[Path, Job] = {}
    for subset in found.scan.subsets:
        table = found.table(subset)
        side = round(math.sqrt(table.size[0] * table.size[1]))
        for picture in subset.pictures:
            jobs.setdefault(picture.path, Job(picture, side, table.alpha_background, table.max_image_megapixels))
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        told("looking at pictures", done, len(jobs))

    for job, key, taken in take_all(jobs.values(), found.shelf, tell):
        path = job.picture.path
        if taken.measures is None:
            found.broken.append(Rejected(path, taken.reason))
        else:
            found.measures[path], found.keys[path], found.thumbs[path] = taken.measures, key, taken.thumb
    found.broken.sort(key=lambda one: str(one.path))


def judge(found: Survey, told: Told) -> Report:
    """What the measures and captions come to."""
    findings: list[Finding] = []
    for index, group in enumerate(GROUPS):
        told("comparing", index, len(GROUPS))
        findings += group.find(found)
    told("comparing", len(GROUPS), len(GROUPS))
    findings.sort(key=lambda finding: LEVELS.index(finding.kind.level))
    counts = Counter(cut.placement.bucket for cut in crops.cuts(found))
    notes = [*found.scan.notes]
    notes += [text for text in (found.trouble, found.shelf.note) if text]
    return Report(tuple(findings), len(found.training), tuple(notes), dict(sorted(counts.items())))


def check(config: RunConfig, told: Told = lambda *_: None, shelf: Shelf | None = None) -> tuple[Report, Survey]:
    """Check the pictures of a configuration; an exception of `told` ends it, and what was measured stays on the shelf.

    Returns:
        the report, and what it was made from; its shelf is closed, so that only `marks` can no longer be asked.

    Raises:
        UsageError: no folder is named, or one folder has two roles.
        DataError: a folder is missing, unreadable, or without any picture file.
    """
    shelf = shelf or Shelf()
    try:
        found = look(config, shelf, told)
        return judge(found, told), found
    finally:
        shelf.close()


def pictures_of(found: Survey) -> dict[Path, Picture]:
    """All pictures by path."""
    return {picture.path: picture for subset in found.scan.subsets for picture in subset.pictures}
