"""The report as one HTML file: words, thumbnails, and what the buckets cut off. It needs no other file and no
network."""

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
from engine.dataset.decoding import UnusablePicture, decode
from engine.dataset.pictures import Picture
from engine.dataset.pixels import flatten
from engine.dataset.pool import ordered_map, workers
from engine.dataset.report.checking import Told, pictures_of
from engine.dataset.report.crops import Cut, cuts
from engine.dataset.report.findings import Case, Finding, Report
from engine.dataset.report.survey import Survey
from engine.errors import StorageError, UsageError
from engine.reading import open_file
from engine.text import plural, printable

THUMB_PX = 144
MOST_CASES, MOST_IN_A_CASE, MOST_IN_A_BUCKET = 24, 8, 16
_BEGIN = "<!doctype html><html lang=en><meta charset=utf-8><title>Pictures: "
"""By which an earlier report is known."""
_SIGNS = {"error": "✗", "warning": "!", "note": "i"}
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --error: #c62828; --warning: #b26a00; --note: #33691e; }
@media (prefers-color-scheme: dark) { :root { --error: #ff8a80; --warning: #ffb74d; --note: #aed581; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem; border-top: 1px solid var(--line); padding-top:
1rem; } .error b.sign { color: var(--error); } .warning b.sign { color: var(--warning); } .note b.sign { color:
var(--note); } p { margin: .2rem 0; max-width: 52rem; } code { opacity: .7; } .cases { display: flex; flex-wrap: wrap;
gap: .8rem; margin: .6rem 0; align-items: flex-end; } .case { display: flex; flex-wrap: wrap; gap: .3rem; border: 1px
solid var(--line); padding: .4rem; max-width: 100%; } .case > .said { flex-basis: 100%; font-size: .85rem; } figure {
margin: 0; width: min-content; } figcaption { font-size: .75rem; overflow-wrap: anywhere; opacity: .8; } .thumb {
position: relative; overflow: hidden; line-height: 0; } .thumb img { display: block; } .thumb b { position: absolute;
box-shadow: 0 0 0 400px #c00a; outline: 1px solid #fff; } .none { width: 96px; height: 96px; border: 1px dashed
var(--line); display: grid; place-items: center; } nav a { margin-right: 1rem; } table { border-collapse: collapse; }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; }
"""


def require_page(path: Path) -> None:
    """Make the folder of a page, and refuse a place where something else would be lost.

    Raises:
        UsageError: a folder, or a file that is no earlier report.
        StorageError: it cannot be read, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise UsageError(f"--html: {printable(path)} is a folder.", "Name a file in it, for example report.html.")
        if path.exists():
            with open_file(path) as file:
                if file.read(len(_BEGIN)) != _BEGIN.encode():
                    raise UsageError(
                        f"--html: {printable(path)} is there already, and no earlier report.", "Name another file."
                    )
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"--html: {printable(path)} cannot be written: {reason}.", "Name another place.") from error


def write_page(report: Report, found: Survey, path: Path, told: Told = lambda *_: None) -> None:
    """Write the report with its pictures to `path`, in one piece.

    Raises:
        StorageError: no space or no permission.
    """
    placed = cuts(found)
    shown = _shown(report, placed)
    images = dict(_thumbnails([picture for path, picture in pictures_of(found).items() if path in shown], found, told))
    parts = [
        f"{_BEGIN}{escape(report.verdict)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(report.verdict)}</h1>",
        *(f"<p>{_text(subset.path)}: {plural(len(subset.pictures), 'picture')}</p>" for subset in found.scan.subsets),
        *(f"<p>{_text(note)}</p>" for note in report.notes),
        *(_section(finding, images) for finding in report.findings),
        *_buckets(placed, images),
        "</html>\n",
    ]
    atomic.write_text(path, "\n".join(parts))


def _text(value: str | Path) -> str:
    return escape(printable(value))


def _shown(report: Report, placed: list[Cut]) -> set[Path]:
    """Pictures that have a thumbnail: not all of ten thousand."""
    cases = [case for finding in report.findings for case in finding.cases[:MOST_CASES]]
    shown = {path for case in cases for path in case.pictures[:MOST_IN_A_CASE]}
    return shown | {cut.picture.path for group in _by_bucket(placed).values() for cut in group[:MOST_IN_A_BUCKET]}


def _thumbnails(pictures: list[Picture], found: Survey, told: Told) -> Iterator[tuple[Path, str]]:
    """(picture, its thumbnail as an `img`); nothing for one that cannot be read."""
    background = found.config.dataset.alpha_background

    def draw(picture: Picture) -> tuple[Path, str] | None:
        try:
            size, turn = (picture.width, picture.height), not picture.kohya_exact
            image = flatten(decode(picture.path, size, turn=turn), background)[0]
        except UnusablePicture:
            return None
        image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        sides = f"width={image.width} height={image.height}"
        return picture.path, f"<img {sides} alt='' src='data:image/jpeg;base64,{data}'>"

    for done, drawn in enumerate(ordered_map(draw, pictures, workers(4), ahead=16), 1):
        told("drawing thumbnails", done, len(pictures))
        if drawn is not None:
            yield drawn


def _section(finding: Finding, images: dict[Path, str]) -> str:
    kind = finding.kind
    said = f"<p>{_text(finding.said)}</p>" if finding.said else ""
    repair = f"<p>With --repair: {escape(kind.repair)}</p>" if kind.repair else ""
    cases = "".join(_case(case, images) for case in finding.cases[:MOST_CASES])
    more = len(finding.cases) - MOST_CASES
    rest = f"<p>and {more} more, which --json lists.</p>" if more > 0 else ""
    return (
        f"<section class={kind.level} id={kind.code}><h2><b class=sign>{_SIGNS[kind.level]}</b> "
        f"{escape(finding.heading)} <code>{kind.code}</code></h2>{said}<p>{escape(kind.why)}</p><p>→ "
        f"{escape(kind.advice)}</p>{repair}<div class=cases>{cases}</div>{rest}</section>"
    )


def _case(case: Case, images: dict[Path, str]) -> str:
    figures = "".join(_figure(path, images) for path in case.pictures[:MOST_IN_A_CASE])
    more = len(case.pictures) - MOST_IN_A_CASE
    said = " · ".join(filter(None, [_text(case.said), f"and {more} more" if more > 0 else ""]))
    return f"<div class=case>{figures}<span class=said>{said}</span></div>"


def _figure(path: Path, images: dict[Path, str], inside: str = "", said: str = "") -> str:
    image = images.get(path)
    drawn = f"<div class=thumb>{image}{inside}</div>" if image else "<div class=none>no picture</div>"
    return f"<figure title='{_text(path)}'>{drawn}<figcaption>{_text(path.name)}{said}</figcaption></figure>"


def _by_bucket(placed: Iterable[Cut]) -> dict[Size, list[Cut]]:
    """Pictures of each bucket, those that lose most first."""
    groups: dict[Size, list[Cut]] = defaultdict(list)
    for cut in placed:
        groups[cut.placement.bucket].append(cut)
    return {size: sorted(groups[size], key=lambda cut: -cut.share) for size in sorted(groups)}


def _buckets(placed: list[Cut], images: dict[Path, str]) -> Iterator[str]:
    """Each bucket with its pictures; what is cut off is shaded."""
    if not placed:
        return
    yield "<h2 id=buckets>Buckets, and what they cut off</h2><p>The shaded part of a picture is not trained on.</p>"
    for (width, height), group in _by_bucket(placed).items():
        shapes = "".join(_figure(cut.picture.path, images, _frame(cut), _loss(cut)) for cut in group[:MOST_IN_A_BUCKET])
        more = len(group) - MOST_IN_A_BUCKET
        rest = f"<p>and {more} more that lose less.</p>" if more > 0 else ""
        yield f"<h3>{width} × {height} px: {plural(len(group), 'picture')}</h3><div class=cases>{shapes}</div>{rest}"


def _frame(cut: Cut) -> str:
    left, top, right, bottom = (100 * edge for edge in cut.inside)
    sides = f"left:{left:.1f}%;top:{top:.1f}%;width:{right - left:.1f}%;height:{bottom - top:.1f}%"
    return f"<b style='{sides}'></b>"


def _loss(cut: Cut) -> str:
    return f"<br>{cut.share:.0%} cut off" if cut.share >= 0.005 else ""
