"""Bars and frames around images: letterbox, pillarbox, scans with an edge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.report.findings import Case, Finding, Kind

if TYPE_CHECKING:
    import numpy as np

    from engine.dataset.report.survey import Survey

Margins = tuple[int, int, int, int]
"""(left, top, right, bottom) in px."""
_EVEN = 20
"""Most levels between the pixels of one line of a bar, and between the lines."""
_OTHER = 28
"""Levels by which an image pixel differs from the bar."""
_MIN_EVEN_SHARE = 0.995
"""Share of a line's pixels with its colour; the rest may be noise."""
_ABRUPT = 0.7
"""Share of the first line after a bar that must differ: a drawing on a plain background begins gradually."""
_REACHES = 0.2
"""Share of the edge pixels between the bars that must differ: an image fills the space between them, while a subject
on a plain background has that background on its other sides too."""
_OUTERMOST = 2
"""Lines of the edge."""
_BLEND_LINES = 5
"""Lines that compression may blend between bar and image."""
_MIN_SHARE = 0.015
_MAX_SHARE = 0.9
_FRAME_SHARE = 0.13
"""Share of the side, the widest edge of a frame; anything wider is a background."""
_FRAME_ABRUPT = 0.9
"""`_ABRUPT` for a frame; it is the only difference from a subject with straight edges."""

BORDERS = Kind(
    "borders",
    "warning",
    "Bars or a frame",
    f"Lines of one colour on two opposite sides, each at least {_MIN_SHARE:.1%} of the side, after which the image "
    f"begins abruptly ({_ABRUPT:.0%} of the next line differ) and reaches from edge to edge; or such lines on all four "
    f"sides ({_FRAME_ABRUPT:.0%} of the next line differ), each at most {_FRAME_SHARE:.0%} of the side. A subject with "
    "straight edges on a plain background is neither.",
    "The LoRA learns the bars and generates them, and the actual image is trained at a lower resolution.",
    "Cut them off.",
    "Cuts the bars off.",
)
KINDS = (BORDERS,)


def margins_of(pixels: np.ndarray) -> Margins:
    """The margins of a frame, or of bars on two opposite sides; zeros if there is neither.

    Args:
        pixels: [H, W, 3] uint8.
    """
    transposed = pixels.swapaxes(0, 1)
    rows, columns = _even_lines(pixels), _even_lines(transposed)
    if all((*rows, *columns)):
        vertical = _bars(pixels[:, columns[0] : len(transposed) - columns[1]], rows, _FRAME_ABRUPT)
        horizontal = _bars(transposed[:, rows[0] : len(pixels) - rows[1]], columns, _FRAME_ABRUPT)
        if vertical and horizontal:
            thin = max(vertical) <= _FRAME_SHARE * len(pixels) and max(horizontal) <= _FRAME_SHARE * len(transposed)
            return (horizontal[0], vertical[0], horizontal[1], vertical[1]) if thin else (0, 0, 0, 0)
    if (bars := _bars(pixels, rows, _ABRUPT)) and _reaches(pixels, bars):
        return 0, bars[0], 0, bars[1]
    if (bars := _bars(transposed, columns, _ABRUPT)) and _reaches(transposed, bars):
        return bars[0], 0, bars[1], 0
    return 0, 0, 0, 0


def _reaches(pixels: np.ndarray, bars: tuple[int, int]) -> bool:
    """Whether the content between the bars reaches both other edges of the image."""
    import numpy as np

    between = pixels[bars[0] : len(pixels) - bars[1]].astype(np.float32)
    differs = np.abs(between - pixels[0].mean(0)).max(-1) > _OTHER
    return all(edge.any(1).mean() >= _REACHES for edge in (differs[:, :_OUTERMOST], differs[:, -_OUTERMOST:]))


def _even_lines(pixels: np.ndarray) -> tuple[int, int]:
    """Lines of one colour at the start and end of the first axis; zeros if they cannot be bars."""
    import numpy as np

    size = len(pixels)
    ends = pixels[0].mean(0), pixels[-1].mean(0)
    if np.abs(ends[0] - ends[1]).max() > _EVEN:
        return 0, 0
    first, last = _count_even(pixels, ends[0]), _count_even(pixels[::-1], ends[1])
    if min(first, last) < max(1, _MIN_SHARE * size) or first + last > _MAX_SHARE * size:
        return 0, 0
    return first, last


def _count_even(lines: np.ndarray, colour: np.ndarray) -> int:
    """Lines of a colour at the start; 0 if all are. Stops early, as most images have none."""
    import numpy as np

    level = colour.round().astype(np.int16)
    for number, line in enumerate(lines):
        even = (np.abs(line.astype(np.int16) - level) <= _EVEN).all(-1)
        if even.mean() < _MIN_EVEN_SHARE:
            return number
    return 0


def _bars(pixels: np.ndarray, even: tuple[int, int], abrupt: float) -> tuple[int, int] | None:
    """Lines of the bars at both ends, if after each at least `abrupt` of the line differs. A few lines blended by
    compression belong to the bar."""
    import numpy as np

    widths = []
    for lines, count in ((pixels, even[0]), (pixels[::-1], even[1])):
        following = lines[count : count + _BLEND_LINES].astype(np.float32)
        differs = (np.abs(following - lines[0].mean(0)).max(-1) > _OTHER).mean(1) >= abrupt
        if not count or not differs.any():
            return None
        widths.append(count + int(np.argmax(differs)))
    return widths[0], widths[1]


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    cases = []
    for image, measures in survey.measured():
        left, top, right, bottom = measures.margins
        if any(measures.margins) and measures.exposure[2] > measures.exposure[0]:
            sides = {"left": left, "top": top, "right": right, "bottom": bottom}
            text = ", ".join(f"{side} {width} px" for side, width in sides.items() if width)
            cases.append(Case((image.path,), text))
    if cases:
        yield Finding(BORDERS, tuple(cases))
