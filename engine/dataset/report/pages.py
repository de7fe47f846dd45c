"""The report as one self-contained HTML file: texts, thumbnails, and the bucket crops."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from PIL import Image

from engine import atomic
from engine.dataset.buckets import Size
from engine.dataset.decoding import UnusableImage, decode
from engine.dataset.images import ImageInfo
from engine.dataset.pixels import flatten
from engine.dataset.pool import ordered_map, workers
from engine.dataset.report.checking import images_of
from engine.dataset.report.crops import Cut, cuts
from engine.dataset.report.findings import Case, Finding, Report
from engine.dataset.report.survey import Survey
from engine.html_page import require_page_place
from engine.text import plural, printable
from engine.worker import OnProgress

THUMB_PX = 144
MOST_CASES, MOST_IN_A_CASE, MOST_IN_A_BUCKET = 24, 8, 16
_BEGIN = "<!doctype html><html lang=en><meta charset=utf-8><title>Images: "
"""Identifies an earlier report."""
_SIGNS = {"error": "✗", "warning": "!", "note": "i"}
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --error: #c62828; --warning: #b26a00; --note: #33691e; }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #ffb74d; --note: #aed581; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; border-top: 1px solid var(--line); padding-top:
1rem; } .error b.sign { color: var(--error); } .warning b.sign { color: var(--warning); } .note b.sign { color:
var(--note); } p { margin: .2rem 0; max-width: 52rem; } code { opacity: .7; } .cases { display: flex; flex-wrap: wrap;
gap: .8rem; margin: .6rem 0; align-items: flex-end; } .case { display: flex; flex-wrap: wrap; gap: .3rem; border: 1px
solid var(--line); padding: .4rem; max-width: 100%; } .case > .text { flex-basis: 100%; font-size: .85rem; } figure {
margin: 0; width: min-content; } figcaption { font-size: .75rem; overflow-wrap: anywhere; opacity: .8; } .thumb {
position: relative; overflow: hidden; line-height: 0; } .thumb img { display: block; } .thumb b { position: absolute;
box-shadow: 0 0 0 400px #c00a; outline: 1px solid #fff; } .none { width: 96px; height: 96px; border: 1px dashed
var(--line); display: grid; place-items: center; } nav a { margin-right: 1rem; } table { border-collapse: collapse; }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; }
"""


def require_page(path: Path) -> None:
    """Create the folder of a page, and refuse to overwrite anything but an earlier report.

    Raises:
        UsageError: it is a folder, or a file that is not an earlier report.
        StorageError: it cannot be read, or its folder cannot be created.
    """
    require_page_place(path, _BEGIN)


def write_page(report: Report, survey: Survey, path: Path, progress: OnProgress = lambda *_: None) -> None:
    """Write the report with its images to `path`, atomically.

    Raises:
        StorageError: no space or no permission.
    """
    placed = cuts(survey)
    paths = _thumbnail_paths(report, placed)
    images = dict(_thumbnails([image for path, image in images_of(survey).items() if path in paths], survey, progress))
    parts = [
        f"{_BEGIN}{escape(report.verdict)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(report.verdict)}</h1>",
        *(f"<p>{_text(subset.path)}: {plural(len(subset.images), 'image')}</p>" for subset in survey.scan.subsets),
        *(f"<p>{_text(note)}</p>" for note in report.notes),
        *(_section(finding, images) for finding in report.findings),
        *_buckets(placed, images),
        "</html>\n",
    ]
    atomic.write_text(path, "\n".join(parts))


def _text(value: str | Path) -> str:
    return escape(printable(value))


def _thumbnail_paths(report: Report, placed: list[Cut]) -> set[Path]:
    """Images that get a thumbnail; their number is limited."""
    cases = [case for finding in report.findings for case in finding.cases[:MOST_CASES]]
    paths = {path for case in cases for path in case.images[:MOST_IN_A_CASE]}
    return paths | {cut.image.path for group in _by_bucket(placed).values() for cut in group[:MOST_IN_A_BUCKET]}


def _thumbnails(images: list[ImageInfo], survey: Survey, progress: OnProgress) -> Iterator[tuple[Path, str]]:
    """Yield (path, thumbnail as an `img` element), without unreadable images."""
    background = survey.config.dataset.alpha_background

    def render(image: ImageInfo) -> tuple[Path, str] | None:
        try:
            size, turn = (image.width, image.height), not image.kohya_exact
            thumbnail = flatten(decode(image.path, size, turn=turn), background)[0]
        except UnusableImage:
            return None
        thumbnail.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        thumbnail.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        sides = f"width={thumbnail.width} height={thumbnail.height}"
        return image.path, f"<img {sides} alt='' src='data:image/jpeg;base64,{data}'>"

    for done, rendered in enumerate(ordered_map(render, images, workers(4), ahead=16), 1):
        progress("creating thumbnails", done, len(images))
        if rendered is not None:
            yield rendered


def _section(finding: Finding, images: dict[Path, str]) -> str:
    kind = finding.kind
    text = f"<p>{_text(finding.text)}</p>" if finding.text else ""
    repair = f"<p>With --repair: {escape(kind.repair)}</p>" if kind.repair else ""
    cases = "".join(_case(case, images) for case in finding.cases[:MOST_CASES])
    more = len(finding.cases) - MOST_CASES
    rest = f"<p>and {more} more, listed by --json.</p>" if more > 0 else ""
    return (
        f"<section class={kind.level} id={kind.code}><h2><b class=sign>{_SIGNS[kind.level]}</b> "
        f"{escape(finding.heading)} <code>{kind.code}</code></h2>{text}<p>{escape(kind.why)}</p><p>→ "
        f"{escape(kind.advice)}</p>{repair}<div class=cases>{cases}</div>{rest}</section>"
    )


def _case(case: Case, images: dict[Path, str]) -> str:
    figures = "".join(_figure(path, images) for path in case.images[:MOST_IN_A_CASE])
    more = len(case.images) - MOST_IN_A_CASE
    text = " · ".join(filter(None, [_text(case.text), f"and {more} more" if more > 0 else ""]))
    return f"<div class=case>{figures}<span class=text>{text}</span></div>"


def _figure(path: Path, images: dict[Path, str], inside: str = "", note: str = "") -> str:
    image = images.get(path)
    box = f"<div class=thumb>{image}{inside}</div>" if image else "<div class=none>no image</div>"
    return f"<figure title='{_text(path)}'>{box}<figcaption>{_text(path.name)}{note}</figcaption></figure>"


def _by_bucket(placed: Iterable[Cut]) -> dict[Size, list[Cut]]:
    """Images by bucket, those that lose most first."""
    groups: dict[Size, list[Cut]] = defaultdict(list)
    for cut in placed:
        groups[cut.placement.bucket].append(cut)
    return {size: sorted(groups[size], key=lambda cut: -cut.share) for size in sorted(groups)}


def _buckets(placed: list[Cut], images: dict[Path, str]) -> Iterator[str]:
    """Each bucket with its images; the cropped part is shaded."""
    if not placed:
        return
    yield "<h2 id=buckets>Buckets and crops</h2><p>The shaded part of an image is not trained on.</p>"
    for (width, height), group in _by_bucket(placed).items():
        shapes = "".join(_figure(cut.image.path, images, _frame(cut), _loss(cut)) for cut in group[:MOST_IN_A_BUCKET])
        more = len(group) - MOST_IN_A_BUCKET
        rest = f"<p>and {more} more that lose less.</p>" if more > 0 else ""
        yield f"<h3>{width} × {height} px: {plural(len(group), 'image')}</h3><div class=cases>{shapes}</div>{rest}"


def _frame(cut: Cut) -> str:
    left, top, right, bottom = (100 * edge for edge in cut.inside)
    sides = f"left:{left:.1f}%;top:{top:.1f}%;width:{right - left:.1f}%;height:{bottom - top:.1f}%"
    return f"<b style='{sides}'></b>"


def _loss(cut: Cut) -> str:
    return f"<br>{cut.share:.0%} cut off" if cut.share >= 0.005 else ""
