"""Bars and frames around pictures: letterbox, pillarbox, scans with an edge."""

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
"""Levels between the pixels of one line of a bar, and between the lines."""
_OTHER = 28
"""Levels by which a pixel of the picture differs from the bar."""
_WHOLE = 0.995
"""Share of a line's pixels that have its colour; noise may spoil the rest."""
_ABRUPT = 0.7
"""Share of the first line behind a bar that must differ: a drawing on a plain ground begins gradually."""
_REACHES = 0.2
"""Share of the line that must differ at each end of the bars: an image fills the space between them, while a subject on
a plain ground, however straight its edges are, has that ground at its other sides too."""
_OUTERMOST = 2
"""Lines that are its edge."""
_SPOILT = 5
_MIN_SHARE = 0.015
_MAX_SHARE = 0.9
_FRAME_SHARE = 0.13
"""Of the side, the widest edge of a frame: from there on it is the ground that something stands on."""
_FRAME_ABRUPT = 0.9
"""`_ABRUPT` for a frame, where nothing else tells it from a subject with straight edges."""

BORDERS = Kind(
    "borders",
    "warning",
    "Bars or a frame",
    f"Lines of one colour on two opposite sides, each at least {_MIN_SHARE:.1%} of the side, behind which the picture "
    f"begins at once ({_ABRUPT:.0%} of the next line differ) and reaches from edge to edge; or such lines on all four "
    f"sides ({_FRAME_ABRUPT:.0%} of the next line differ), each at most {_FRAME_SHARE:.0%} of the side. A subject with "
    "straight edges on a plain ground is neither.",
    "The LoRA learns the bars and draws them, and the real picture is trained at a lower resolution.",
    "Cut them off.",
    "Cuts the bars off.",
)
KINDS = (BORDERS,)


def margins_of(pixels: np.ndarray) -> Margins:
    """A frame, or bars on two opposite sides; zeros where there is neither.

    Args:
        pixels: [H, W, 3] uint8.
    """
    turned = pixels.swapaxes(0, 1)
    rows, columns = _even_lines(pixels), _even_lines(turned)
    if all((*rows, *columns)):
        upright = _bars(pixels[:, columns[0] : len(turned) - columns[1]], rows, _FRAME_ABRUPT)
        across = _bars(turned[:, rows[0] : len(pixels) - rows[1]], columns, _FRAME_ABRUPT)
        if upright and across:
            thin = max(upright) <= _FRAME_SHARE * len(pixels) and max(across) <= _FRAME_SHARE * len(turned)
            return (across[0], upright[0], across[1], upright[1]) if thin else (0, 0, 0, 0)
    if (bars := _bars(pixels, rows, _ABRUPT)) and _reaches(pixels, bars):
        return 0, bars[0], 0, bars[1]
    if (bars := _bars(turned, columns, _ABRUPT)) and _reaches(turned, bars):
        return bars[0], 0, bars[1], 0
    return 0, 0, 0, 0


def _reaches(pixels: np.ndarray, bars: tuple[int, int]) -> bool:
    """Whether what is between the bars goes on to both of the other edges of the picture."""
    import numpy as np

    between = pixels[bars[0] : len(pixels) - bars[1]].astype(np.float32)
    differs = np.abs(between - pixels[0].mean(0)).max(-1) > _OTHER
    return all(edge.any(1).mean() >= _REACHES for edge in (differs[:, :_OUTERMOST], differs[:, -_OUTERMOST:]))


def _even_lines(pixels: np.ndarray) -> tuple[int, int]:
    """Lines of one colour at the beginning and at the end of the first axis; zeros where they cannot be bars."""
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
    """Lines of a colour at the beginning; 0 where all are. One by one, as most pictures end it at the first."""
    import numpy as np

    level = colour.round().astype(np.int16)
    for number, line in enumerate(lines):
        even = (np.abs(line.astype(np.int16) - level) <= _EVEN).all(-1)
        if even.mean() < _WHOLE:
            return number
    return 0


def _bars(pixels: np.ndarray, even: tuple[int, int], abrupt: float) -> tuple[int, int] | None:
    """Lines of the bars at both ends, if behind each a share `abrupt` of the line differs at once. A few lines between
    bar and picture, which compression has spoilt, belong to the bar."""
    import numpy as np

    found = []
    for lines, count in ((pixels, even[0]), (pixels[::-1], even[1])):
        behind = lines[count : count + _SPOILT].astype(np.float32)
        differs = (np.abs(behind - lines[0].mean(0)).max(-1) > _OTHER).mean(1) >= abrupt
        if not count or not differs.any():
            return None
        found.append(count + int(np.argmax(differs)))
    return found[0], found[1]


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    cases = []
    for picture, measures in survey.measured():
        left, top, right, bottom = measures.margins
        if any(measures.margins) and measures.exposure[2] > measures.exposure[0]:
            sides = {"left": left, "top": top, "right": right, "bottom": bottom}
            said = ", ".join(f"{side} {width} px" for side, width in sides.items() if width)
            cases.append(Case((picture.path,), said))
    if cases:
        yield Finding(BORDERS, tuple(cases))
