"""Blurred, too bright, too dark, or nearly one colour: measures and findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    import numpy as np

    from engine.dataset.report.survey import Survey

MAX_BLUR = 0.5
"""Of the sharpest quarter of an image, as from `blur_of`; measured by `benchmarks/dataset_report.py`."""
MIN_RANGE = 24
"""Levels between the darkest and the lightest 2 %."""
_TILES = 4
_REBLUR = 9
"""Pixels of the box of the second blur."""
_TILE_CONTRAST = 6.0
"""Standard deviation in levels; a tile below it is flat and has no sharpness."""
_WHITE, _CLIPPED, _BRIGHT = 250, 0.25, 185

BLURRED = Kind(
    "blurred",
    "warning",
    "Blurred",
    f"Blurring it once more changes little: {MAX_BLUR:.2f} or more of the steps between neighbouring pixels stay, in "
    "the sharpest quarter of its textured parts, at the training resolution (the blur metric of Crété et al. 2007).",
    "The LoRA learns the blur as part of the subject, and generates it.",
    "Remove these unless you want blur; a sharper original is better than a sharpened copy.",
)
OVEREXPOSED = Kind(
    "overexposed",
    "warning",
    "Overexposed",
    "At least 35 % of the pixels are white (250 or more) and the mean is 190 or more, or nothing is darker than 150 "
    "(ignoring 2 % of the pixels). An image with an all white edge counts as drawn on white.",
    "White areas have no structure to learn; skin and colours look washed out.",
    "Develop them darker from the original, or remove them.",
)
UNDEREXPOSED = Kind(
    "underexposed",
    "warning",
    "Underexposed",
    "Nothing is lighter than 80 of 255 (ignoring 2 % of the pixels).",
    "Shapes and colours drown in black, and the LoRA generates darker images.",
    "Develop them lighter from the original, or remove them.",
)
BLANK = Kind(
    "blank",
    "warning",
    "Nearly one colour",
    f"Less than {MIN_RANGE} levels are between the darkest and the lightest 2 % of the pixels.",
    "There is nothing to learn from it; it pulls every image towards that colour.",
    "Remove it.",
)
KINDS = (BLURRED, OVEREXPOSED, UNDEREXPOSED, BLANK)


def blur_of(grey: np.ndarray) -> float:
    """The blur of an image, 0 to 1; -1 if it is too flat to measure.

    The share of the differences between neighbouring pixels that survives another blur (Crété, Dolmiere, Ladret,
    Nicolas 2007, "The blur effect: perception and estimation with a new no-reference perceptual blur metric"), by
    tiles: only the sharpest quarter counts, so that a soft background is fine.

    Args:
        grey: [H, W] float32, levels 0 to 255.
    """
    import numpy as np
    from scipy.ndimage import uniform_filter1d

    rows = np.linspace(0, grey.shape[0], _TILES + 1).astype(int)
    columns = np.linspace(0, grey.shape[1], _TILES + 1).astype(int)
    if min(np.diff(rows).min(), np.diff(columns).min()) < 2 * _REBLUR:
        rows, columns = rows[[0, -1]], columns[[0, -1]]
    remaining = []
    for axis in (0, 1):
        before = np.abs(np.diff(grey, axis=axis))
        after = np.abs(np.diff(uniform_filter1d(grey, _REBLUR, axis=axis, mode="nearest"), axis=axis))
        lost = np.maximum(before - after, 0)
        sums = [[_block(part, rows, columns) for part in (before, lost)]]
        total, gone = sums[0]
        remaining.append(np.where(total > 0, (total - gone) / np.maximum(total, 1e-6), 1.0))
    count = _block(np.ones_like(grey), rows, columns)
    mean, square = _block(grey, rows, columns) / count, _block(grey**2, rows, columns) / count
    textured = np.sqrt(np.maximum(square - mean**2, 0)) >= _TILE_CONTRAST
    if not textured.any():
        return -1.0
    return float(np.quantile(np.maximum(*remaining)[textured], 0.25))


def _block(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums over the tiles that begin at `rows` and `columns`."""
    import numpy as np

    return np.add.reduceat(np.add.reduceat(values, rows[:-1], axis=0), columns[:-1], axis=1)


def exposure_of(grey: Image.Image) -> tuple[int, int, int, float, bool]:
    """(darkest, mean, lightest level without 2 % at either end, share of white, whether the edge is all white) of an
    8-bit image."""
    import numpy as np

    counts = np.array(grey.histogram())
    total = counts.sum()
    low, high = np.searchsorted(counts.cumsum(), (0.02 * total, 0.98 * total))
    mean = float((counts * np.arange(256)).sum() / total)
    levels = np.asarray(grey)
    depth = max(1, min(levels.shape) // 32)
    sides = (levels[:depth], levels[-depth:], levels[:, :depth], levels[:, -depth:])
    white_edge = sum(int((side >= _WHITE).sum()) for side in sides) >= 0.95 * sum(side.size for side in sides)
    return int(low), round(mean), int(high), float(counts[_WHITE:].sum() / total), white_edge


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    cases: dict[str, list[Case]] = {kind.code: [] for kind in KINDS}
    for image, measures in survey.measured():
        low, mean, high, white, white_edge = measures.exposure
        paths = (image.path,)
        if high - low < MIN_RANGE:
            cases[BLANK.code].append(Case(paths, f"{high - low} levels"))
        elif high < 80:
            cases[UNDEREXPOSED.code].append(Case(paths, f"nothing lighter than {high}"))
        elif not white_edge and ((white >= _CLIPPED and mean >= _BRIGHT) or low > 150):
            text = f"{white:.0%} white" if white >= _CLIPPED else f"nothing darker than {low}"
            cases[OVEREXPOSED.code].append(Case(paths, text))
        if measures.blur >= MAX_BLUR and high - low >= MIN_RANGE:
            cases[BLURRED.code].append(Case(paths, f"blur {measures.blur:.2f}"))
    for kind in KINDS:
        if cases[kind.code]:
            yield Finding(kind, tuple(cases[kind.code]))
