"""The same pixels at the same place in many images: watermarks, logos, time stamps, parts of a user interface.

Each image has maps of edge directions: one of the full image, for marks placed in proportion, and one of each corner
in its own pixels, for marks at a fixed distance from it. A sample of the images is compared pairwise in small windows;
if several agree, their common edges are the mark, and all images are searched for it. (Marks are found by their edges
as in Dekel et al. 2017, "On the Effectiveness of Visible Watermarks"; that work averages all images, which needs the
mark in most of them.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.likeness import Groups

if TYPE_CHECKING:
    import numpy as np

    from engine.dataset.images import ImageInfo
    from engine.dataset.report.survey import Survey

_FULL = (64, 64)
"""(rows, columns) in cells of the map of the full image."""
_CORNER = (32, 64)
"""(rows, columns) in cells of the map of a corner."""
_CELL = 4
"""Side in px of a corner cell."""
_MAPS = (_FULL, _CORNER, _CORNER, _CORNER, _CORNER)
PLACES = ("in the same part of the image", "top left", "top right", "bottom left", "bottom right")
_STRONG = 6.0
"""Fewest levels from cell to cell that are an edge."""
_OCTANTS = 8
_WINDOW = (4, 8)
"""(rows, columns) in cells of a comparison window."""
_SAMPLE = 160
"""Images that are compared pairwise."""
_MIN_IMAGES = 4
_MIN_SHARE = 0.1
_MIN_CELLS = 14
_AGREE, _HAS_MARK = 0.6, 0.5
"""Share of edges with the same direction: of a window in two images, and of a complete mark in an image that has it.
By chance it is an eighth."""
_MAX_SAME_DIRECTION = 0.6
"""Most edges of a mark with the same direction, as a share: a horizon is no mark."""
_MAX_SPREAD = 0.3
"""Largest share of the image that a mark covers; anything larger is a common background."""

WATERMARK = Kind(
    "watermark",
    "warning",
    "The same mark",
    f"In a window of {_WINDOW[1]} × {_WINDOW[0]} cells at least {_MIN_CELLS} edges and {_AGREE:.0%} of all have the "
    f"same direction in several images, and {_HAS_MARK:.0%} of what these share in at least {_MIN_IMAGES} images and "
    f"{_MIN_SHARE:.0%} of all; a cell is {_CELL} px in a corner, or 1/{_FULL[0]} of the image. Copies count once.",
    "Content common to many images is learned first: the LoRA generates the watermark, logo or date.",
    "Crop or retouch it, or use images without it.",
)
KINDS = (WATERMARK,)


@dataclass(frozen=True)
class Mark:
    """Edges common to several images."""

    place: int
    """Index of its map in `PLACES`."""
    cells: np.ndarray
    """Indices of its edges in the maps, [N] int64."""
    codes: np.ndarray
    """Directions of its edges, [N] uint8."""

    def in_image(self, maps: np.ndarray) -> bool:
        """Whether an image has the mark."""
        return float((maps[self.cells] == self.codes).mean()) >= _HAS_MARK


def marks_of(image: Image.Image, grey: Image.Image) -> bytes:
    """Edge directions of the full image and its corners, compressed; empty if it is smaller than a corner.

    Args:
        image: RGB at full size.
        grey: L, at any size.
    """
    import numpy as np

    height, width = (side * _CELL for side in _CORNER)
    if image.width < width or image.height < height:
        return b""
    maps = [grey.resize(_FULL[::-1], Image.Resampling.BOX)]
    for top in (0, image.height - height):
        for left in (0, image.width - width):
            corner = image.crop((left, top, left + width, top + height)).convert("L")
            maps.append(corner.resize(_CORNER[::-1], Image.Resampling.BOX))
    return zlib.compress(np.concatenate([_directions(part).ravel() for part in maps]).tobytes(), 1)


def _directions(grey: Image.Image) -> np.ndarray:
    """Per cell 0 without an edge, else 1 to 8: the direction in which it gets lighter, [H, W] uint8."""
    import numpy as np

    levels = np.asarray(grey).astype(np.float32)
    down, right = np.gradient(levels)
    octant = np.floor((np.arctan2(down, right) / (2 * np.pi) * _OCTANTS + 0.5) % _OCTANTS) + 1
    codes: np.ndarray = np.where(np.hypot(down, right) >= _STRONG, octant, 0).astype(np.uint8)
    padded = np.pad(codes, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    codes[np.all([neighbour == codes for neighbour in neighbours], axis=0)] = 0  # a slope is no edge
    return codes


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group; the maps are read from the cache one by one."""
    images = survey.distinct()
    step = max(1, len(images) // _SAMPLE)
    marks = common_marks([maps for _, maps in _unpacked(survey, images[::step])])
    if not marks:
        return
    images_by_mark: list[list[ImageInfo]] = [[] for _ in marks]
    for image, maps in _unpacked(survey, images):
        for marked, mark in zip(images_by_mark, marks, strict=True):
            if mark.in_image(maps):
                marked.append(image)
    cases: list[Case] = []
    for marked, mark in sorted(zip(images_by_mark, marks, strict=True), key=lambda pair: -len(pair[0])):
        paths = tuple(image.path for image in marked)
        reported = any(len({*paths} & {*case.images}) > len(paths) / 2 for case in cases)
        if len(paths) >= max(_MIN_IMAGES, _MIN_SHARE * len(images)) and not reported:
            cases.append(Case(paths, PLACES[mark.place]))
    if cases:
        yield Finding(WATERMARK, tuple(cases))


def _unpacked(survey: Survey, images: Sequence[ImageInfo]) -> Iterator[tuple[ImageInfo, np.ndarray]]:
    import numpy as np

    for image, packed in survey.marks(images):
        if packed:
            yield image, np.frombuffer(zlib.decompress(packed), np.uint8)


def common_marks(maps: Sequence[np.ndarray]) -> list[Mark]:
    """The marks common to several of these images; the time is quadratic in their number."""
    import numpy as np

    if len(maps) < _MIN_IMAGES:
        return []
    codes = np.stack(maps)
    marks = []
    start = 0
    for place, (rows, columns) in enumerate(_MAPS):
        cells = codes[:, start : start + rows * columns].reshape(-1, rows, columns)
        seen: list[set[int]] = []
        for members in _agreeing(cells):
            if members in seen:
                continue
            seen.append(members)
            mark = _in_common(cells[sorted(members)], place, start)
            if mark is not None:
                marks.append(mark)
        start += rows * columns
    return marks


def _agreeing(cells: np.ndarray) -> Iterator[set[int]]:
    """Sets of images that agree in a window of a map, largest first."""
    import numpy as np

    windows: dict[int, Groups] = {}
    edges = _windows(cells > 0)
    for first in range(len(cells) - 1):
        agree = _windows((cells[first + 1 :] == cells[first]) & (cells[first] > 0))
        hits = (agree >= _MIN_CELLS) & (agree >= _AGREE * edges[first])
        for offset, window in zip(*np.nonzero(hits), strict=True):
            windows.setdefault(int(window), Groups(len(cells))).join(first, first + 1 + int(offset))
    groups = [set(group) for window_groups in windows.values() for group in window_groups.groups()]
    yield from sorted((group for group in groups if len(group) >= _MIN_IMAGES), key=len, reverse=True)


def _windows(marked: np.ndarray) -> np.ndarray:
    """Marked cells per window, with windows overlapping by half: [N, H, W] bool to [N, windows] int32."""
    import numpy as np

    height, width = _WINDOW[0] // 2, _WINDOW[1] // 2
    count, rows, columns = marked.shape
    halves = marked.reshape(count, rows // height, height, columns // width, width).sum((2, 4), dtype=np.int32)
    pairs = halves[:, :-1] + halves[:, 1:]
    summed: np.ndarray = pairs[:, :, :-1] + pairs[:, :, 1:]
    return summed.reshape(count, -1)


def _in_common(cells: np.ndarray, place: int, start: int) -> Mark | None:
    """The edges that most of these images [N, H, W] share; None if they are no mark."""
    import numpy as np

    counts = np.stack([(cells == code).sum(0) for code in range(1, _OCTANTS + 1)])
    often = counts.max(0) >= max(3, 0.7 * len(cells))
    inside = np.flatnonzero(often)
    if len(inside) < _MIN_CELLS:
        return None
    codes = (counts.argmax(0) + 1).astype(np.uint8).ravel()[inside]
    same_direction = np.bincount(codes).max() / len(codes)
    spread = often.mean()
    if same_direction > _MAX_SAME_DIRECTION or (place == 0 and spread > _MAX_SPREAD):
        return None
    return Mark(place, inside + start, codes)
