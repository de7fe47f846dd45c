"""The report as one self-contained HTML page: texts, thumbnails, and the bucket crops."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine.dataset.buckets import Size
from engine.dataset.decoding import UnusableImage, decode
from engine.dataset.images import ImageInfo
from engine.dataset.pixels import flatten
from engine.dataset.pool import ordered_map, workers
from engine.dataset.report.checking import images_of
from engine.dataset.report.crops import Cut, cuts
from engine.dataset.report.findings import LEVELS, Case, Finding, Kind, Report
from engine.dataset.report.survey import Survey
from engine.html_page import page
from engine.html_page.page import EmbeddedImage
from engine.html_page.place import IMAGES
from engine.text import plural, printable
from engine.worker import OnProgress

THUMB_PX = 144
MOST_CASES, MOST_IN_A_CASE, MOST_IN_A_BUCKET, MOST_BUCKETS, MOST_LINES = 24, 8, 16, 60, 60
MOST_BYTES = 20 * 2**20
"""Of all thumbnails in a page, as data URLs."""
_SIGNS = {"error": "✗", "warning": "!", "note": "i"}
_TEMPLATE = Path(__file__).parent / "assets" / "check.html"


@dataclass(frozen=True)
class _Figure:
    """An image in the page."""

    path: str
    name: str
    image: EmbeddedImage | None
    note: str = ""
    kept: str = ""
    """The part that is trained on as an SVG path, in percent of the sides; empty: all of it."""


@dataclass(frozen=True)
class _Case:
    images: list[_Figure]
    text: str


@dataclass(frozen=True)
class _Finding:
    kind: Kind
    heading: str
    text: str
    cases: list[_Case]
    more: int


@dataclass(frozen=True)
class _Level:
    """The findings of a level."""

    name: str
    findings: list[_Finding]

    @property
    def id(self) -> str:
        return f"{self.name}s"

    @property
    def title(self) -> str:
        return f"{self.name.capitalize()}s ({len(self.findings)})"

    @property
    def sign(self) -> str:
        return _SIGNS[self.name]


@dataclass(frozen=True)
class _Bucket:
    heading: str
    images: list[_Figure]
    more: int


@dataclass
class _Figures:
    """Places thumbnails in the page, as long as they fit."""

    thumbnails: dict[Path, EmbeddedImage]
    bytes: int = 0

    def figure(self, path: Path, note: str = "", kept: str = "") -> _Figure:
        """The image of `path`; without a thumbnail where there is none, or no space."""
        image = self.thumbnails.get(path)
        if image is not None and self.bytes + len(image.url) <= MOST_BYTES:
            self.bytes += len(image.url)
        else:
            image = None
        return _Figure(printable(path), printable(path.name), image, note, kept)


def write_page(report: Report, survey: Survey, path: Path, progress: OnProgress = lambda *_: None) -> None:
    """Write the report with its images to `path`, atomically.

    Raises:
        StorageError: no space or no permission.
    """
    groups = _by_bucket(cuts(survey))
    shown = dict(list(groups.items())[:MOST_BUCKETS])
    paths = _thumbnail_paths(report, shown)
    images = [image for path, image in images_of(survey).items() if path in paths]
    figures = _Figures(dict(_thumbnails(images, survey, progress)))
    lines = [f"{printable(subset.path)}: {plural(len(subset.images), 'image')}" for subset in survey.scan.subsets]
    text = page.render(
        _TEMPLATE,
        IMAGES,
        verdict=report.verdict,
        lines=[*lines, *map(printable, report.notes)][:MOST_LINES],
        levels=list(_levels(report, figures)),
        buckets=[_bucket(size, group, figures) for size, group in shown.items()],
        more_buckets=len(groups) - len(shown),
    )
    page.write(path, text)


def _levels(report: Report, figures: _Figures) -> Iterator[_Level]:
    for level in LEVELS:
        findings = [_finding(finding, figures) for finding in report.findings if finding.kind.level == level]
        if findings:
            yield _Level(level, findings)


def _finding(finding: Finding, figures: _Figures) -> _Finding:
    cases = [_case(case, figures) for case in finding.cases[:MOST_CASES]]
    more = max(0, len(finding.cases) - MOST_CASES)
    return _Finding(finding.kind, finding.heading, printable(finding.text), cases, more)


def _case(case: Case, figures: _Figures) -> _Case:
    more = len(case.images) - MOST_IN_A_CASE
    text = " · ".join(filter(None, [printable(case.text), f"and {more} more" if more > 0 else ""]))
    return _Case([figures.figure(path) for path in case.images[:MOST_IN_A_CASE]], text)


def _thumbnail_paths(report: Report, shown: dict[Size, list[Cut]]) -> set[Path]:
    """Images that get a thumbnail; their number is limited."""
    cases = [case for finding in report.findings for case in finding.cases[:MOST_CASES]]
    paths = {path for case in cases for path in case.images[:MOST_IN_A_CASE]}
    return paths | {cut.image.path for group in shown.values() for cut in group[:MOST_IN_A_BUCKET]}


def _thumbnails(images: list[ImageInfo], survey: Survey, progress: OnProgress) -> Iterator[tuple[Path, EmbeddedImage]]:
    """Yield (path, thumbnail), without unreadable images."""
    background = survey.config.dataset.alpha_background

    def encode(image: ImageInfo) -> tuple[Path, EmbeddedImage] | None:
        try:
            size, turn = (image.width, image.height), not image.kohya_exact
            thumbnail = flatten(decode(image.path, size, turn=turn), background)[0]
        except UnusableImage:
            return None
        thumbnail.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        thumbnail.save(buffer, "JPEG", quality=80)
        return image.path, EmbeddedImage(page.data_url("jpeg", buffer.getvalue()), *thumbnail.size)

    for done, encoded in enumerate(ordered_map(encode, images, workers(4), ahead=16), 1):
        progress("creating thumbnails", done, len(images))
        if encoded is not None:
            yield encoded


def _by_bucket(placed: Iterable[Cut]) -> dict[Size, list[Cut]]:
    """Images by bucket, those that lose most first."""
    groups: dict[Size, list[Cut]] = defaultdict(list)
    for cut in placed:
        groups[cut.placement.bucket].append(cut)
    return {size: sorted(groups[size], key=lambda cut: -cut.share) for size in sorted(groups)}


def _bucket(size: Size, group: list[Cut], figures: _Figures) -> _Bucket:
    """A bucket with its images; the cropped part is shaded."""
    images = [figures.figure(cut.image.path, _loss(cut), _kept(cut)) for cut in group[:MOST_IN_A_BUCKET]]
    heading = f"{size[0]} × {size[1]} px: {plural(len(group), 'image')}"
    return _Bucket(heading, images, max(0, len(group) - MOST_IN_A_BUCKET))


def _kept(cut: Cut) -> str:
    left, top, right, bottom = (100 * edge for edge in cut.inside)
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z" if cut.share > 0 else ""


def _loss(cut: Cut) -> str:
    return f"{cut.share:.0%} cut off" if cut.share >= 0.005 else ""
