"""The same pixels at the same place in many pictures: watermarks, logos, time stamps, parts of a user interface.

Of each picture a map of edge directions is kept: one over the whole picture, which finds what is placed in proportion,
and one of each corner in its own pixels, which finds what is placed at a fixed distance from it. Some of the pictures
are compared pair by pair in small windows; where several agree, the edges that they have in common are the mark, and
all pictures are asked for it. (Marks are found by their edges as in Dekel et al. 2017, "On the Effectiveness of Visible
Watermarks"; that work averages all pictures, which needs the mark in most of them.)
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

    from engine.dataset.pictures import Picture
    from engine.dataset.report.survey import Survey

_WHOLE = (64, 64)
"""(rows, columns) in cells of the map of the whole picture."""
_CORNER = (32, 64)
"""(rows, columns) in cells of the map of a corner."""
_CELL = 4
"""Pixels on each side of a cell in a corner."""
_MAPS = (_WHOLE, _CORNER, _CORNER, _CORNER, _CORNER)
PLACES = ("in the same part of the picture", "top left", "top right", "bottom left", "bottom right")
_STRONG = 6.0
"""Levels from cell to cell below which there is no edge."""
_OCTANTS = 8
_WINDOW = (4, 8)
"""(rows, columns) in cells that are compared at once."""
_SAMPLE = 160
"""Pictures that are compared pair by pair."""
_MIN_PICTURES = 4
_MIN_SHARE = 0.1
_MIN_CELLS = 14
_AGREE, _BEARS = 0.6, 0.5
"""Share of edges that must point the same way: of a window in two pictures, and of a whole mark in one that bears it.
By chance an eighth do."""
_MAX_ONE_WAY = 0.6
"""Share of a mark's edges that may point one way: a horizon is no mark."""
_MAX_SPREAD = 0.3
"""Share of the whole picture that a mark may cover; what covers more is a common background."""

WATERMARK = Kind(
    "watermark",
    "warning",
    "The same mark",
    f"In a window of {_WINDOW[1]} × {_WINDOW[0]} cells at least {_MIN_CELLS} edges and {_AGREE:.0%} of all point the "
    f"same way in several pictures, and {_BEARS:.0%} of what these share in at least {_MIN_PICTURES} pictures and "
    f"{_MIN_SHARE:.0%} of all; a cell is {_CELL} px in a corner, or 1/{_WHOLE[0]} of the picture. Copies count once.",
    "What is the same in many pictures is learnt first: the LoRA will draw the watermark, logo or date.",
    "Crop or retouch it, or take pictures without it.",
)
KINDS = (WATERMARK,)


@dataclass(frozen=True)
class Mark:
    """Edges that several pictures have in common."""

    place: int
    """Of its map in `PLACES`."""
    cells: np.ndarray
    """Their places in the maps, [N] int64."""
    codes: np.ndarray
    """Their directions, [N] uint8."""

    def in_picture(self, maps: np.ndarray) -> bool:
        """Whether a picture bears it."""
        return float((maps[self.cells] == self.codes).mean()) >= _BEARS


def marks_of(picture: Image.Image, grey: Image.Image) -> bytes:
    """Edge directions of the whole picture and of its corners, compressed; empty for one smaller than a corner.

    Args:
        picture: RGB in its own size.
        grey: L, as small as it is at hand.
    """
    import numpy as np

    height, width = (side * _CELL for side in _CORNER)
    if picture.width < width or picture.height < height:
        return b""
    maps = [grey.resize(_WHOLE[::-1], Image.Resampling.BOX)]
    for top in (0, picture.height - height):
        for left in (0, picture.width - width):
            corner = picture.crop((left, top, left + width, top + height)).convert("L")
            maps.append(corner.resize(_CORNER[::-1], Image.Resampling.BOX))
    return zlib.compress(np.concatenate([_directions(one).ravel() for one in maps]).tobytes(), 1)


def _directions(grey: Image.Image) -> np.ndarray:
    """For each cell 0 where there is no edge, else 1 to 8: the direction in which it gets lighter, [H, W] uint8."""
    import numpy as np

    levels = np.asarray(grey).astype(np.float32)
    down, right = np.gradient(levels)
    octant = np.floor((np.arctan2(down, right) / (2 * np.pi) * _OCTANTS + 0.5) % _OCTANTS) + 1
    codes: np.ndarray = np.where(np.hypot(down, right) >= _STRONG, octant, 0).astype(np.uint8)
    padded = np.pad(codes, 1)
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    codes[np.all([one == codes for one in around], axis=0)] = 0  # a slope is no edge
    return codes


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group; reads the maps from the shelf one after the other."""
    pictures = survey.distinct()
    step = max(1, len(pictures) // _SAMPLE)
    marks = common_marks([maps for _, maps in _unpacked(survey, pictures[::step])])
    if not marks:
        return
    bearers: list[list[Picture]] = [[] for _ in marks]
    for picture, maps in _unpacked(survey, pictures):
        for found, mark in zip(bearers, marks, strict=True):
            if mark.in_picture(maps):
                found.append(picture)
    cases: list[Case] = []
    for found, mark in sorted(zip(bearers, marks, strict=True), key=lambda pair: -len(pair[0])):
        paths = tuple(picture.path for picture in found)
        told = any(len({*paths} & {*case.pictures}) > len(paths) / 2 for case in cases)
        if len(paths) >= max(_MIN_PICTURES, _MIN_SHARE * len(pictures)) and not told:
            cases.append(Case(paths, PLACES[mark.place]))
    if cases:
        yield Finding(WATERMARK, tuple(cases))


def _unpacked(survey: Survey, pictures: Sequence[Picture]) -> Iterator[tuple[Picture, np.ndarray]]:
    import numpy as np

    for picture, packed in survey.marks(pictures):
        if packed:
            yield picture, np.frombuffer(zlib.decompress(packed), np.uint8)


def common_marks(maps: Sequence[np.ndarray]) -> list[Mark]:
    """The marks that several of these pictures have in common; the work grows with the square of their number."""
    import numpy as np

    if len(maps) < _MIN_PICTURES:
        return []
    codes = np.stack(maps)
    marks = []
    start = 0
    for place, (rows, columns) in enumerate(_MAPS):
        cells = codes[:, start : start + rows * columns].reshape(-1, rows, columns)
        known: list[set[int]] = []
        for members in _agreeing(cells):
            if members in known:
                continue
            known.append(members)
            mark = _in_common(cells[sorted(members)], place, start)
            if mark is not None:
                marks.append(mark)
        start += rows * columns
    return marks


def _agreeing(cells: np.ndarray) -> Iterator[set[int]]:
    """Sets of pictures that agree in a window of a map, largest first."""
    import numpy as np

    windows: dict[int, Groups] = {}
    edges = _windows(cells > 0)
    for one in range(len(cells) - 1):
        agree = _windows((cells[one + 1 :] == cells[one]) & (cells[one] > 0))
        hits = (agree >= _MIN_CELLS) & (agree >= _AGREE * edges[one])
        for other, window in zip(*np.nonzero(hits), strict=True):
            windows.setdefault(int(window), Groups(len(cells))).join(one, one + 1 + int(other))
    groups = [set(group) for found in windows.values() for group in found.groups()]
    yield from sorted((group for group in groups if len(group) >= _MIN_PICTURES), key=len, reverse=True)


def _windows(marked: np.ndarray) -> np.ndarray:
    """Cells that are marked in each window, the windows half a window apart: [N, H, W] bool to [N, windows] int32."""
    import numpy as np

    height, width = _WINDOW[0] // 2, _WINDOW[1] // 2
    count, rows, columns = marked.shape
    halves = marked.reshape(count, rows // height, height, columns // width, width).sum((2, 4), dtype=np.int32)
    pairs = halves[:, :-1] + halves[:, 1:]
    summed: np.ndarray = pairs[:, :, :-1] + pairs[:, :, 1:]
    return summed.reshape(count, -1)


def _in_common(cells: np.ndarray, place: int, start: int) -> Mark | None:
    """The edges that most of these pictures [N, H, W] share; None where they are no mark."""
    import numpy as np

    counts = np.stack([(cells == code).sum(0) for code in range(1, _OCTANTS + 1)])
    often = counts.max(0) >= max(3, 0.7 * len(cells))
    inside = np.flatnonzero(often)
    if len(inside) < _MIN_CELLS:
        return None
    codes = (counts.argmax(0) + 1).astype(np.uint8).ravel()[inside]
    one_way = np.bincount(codes).max() / len(codes)
    spread = often.mean()
    if one_way > _MAX_ONE_WAY or (place == 0 and spread > _MAX_SPREAD):
        return None
    return Mark(place, inside + start, codes)
