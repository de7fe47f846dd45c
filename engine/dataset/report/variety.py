"""Too few pictures, or pictures that share a background or a colour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.dataset.caption_check import FEWEST
from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.likeness import THUMB
from engine.text import plural

if TYPE_CHECKING:
    import numpy as np

    from engine.dataset.report.survey import Survey

_MOST = 0.8
"""Share of the pictures from which on it is called all of them."""
_RING = 3
"""Cells of the thumbnail's edge that count as background."""
_FLAT, _SAME = 14.0, 20.0
"""Levels: within one edge, and between the edges of different pictures."""
_ALIKE = 0.85
"""Mean correlation between the edges of two pictures."""
_GREY = 10
"""Levels between a pixel's channels below which it is grey."""

FEW = Kind(
    "few",
    "warning",
    "Few pictures",
    f"Fewer than {FEWEST} different pictures are trained on; copies and versions count once.",
    "The LoRA learns these pictures by heart: poses, clothes and backgrounds come along.",
    "15 to 40 pictures with different poses, clothes, light and places are usual for a person or character.",
)
BACKGROUND = Kind(
    "one-background",
    "warning",
    "One background everywhere",
    f"In at least {_MOST:.0%} of the pictures the edge has the same plain colour (within {_SAME:.0f} levels), or the "
    f"edges of all correlate by {_ALIKE} on average.",
    "The LoRA takes the background for a part of the subject, and draws it always.",
    "Add pictures in other places, and name the background in the captions: what is named is learnt apart.",
)
COLOUR = Kind(
    "one-colour",
    "note",
    "One colour everywhere",
    f"In at least {_MOST:.0%} of the pictures the mean colours lie within {_SAME:.0f} levels of each other and are "
    "not grey; or all are black and white.",
    "The LoRA learns the tint as part of the subject.",
    "It is right for a style. For a person or thing, add pictures in other light.",
)
KINDS = (FEW, BACKGROUND, COLOUR)


def find(survey: Survey) -> Iterator[Finding]:
    """The findings of this group."""
    import numpy as np

    pictures = survey.distinct()
    if 0 < len(pictures) < FEWEST:
        yield Finding(FEW, said=f"{plural(len(pictures), 'different picture')} to train on.")
    if len(pictures) < 5:
        return
    packed = b"".join(survey.thumbs[picture.path] for picture in pictures)
    thumbs = np.frombuffer(packed, np.uint8).reshape(-1, THUMB, THUMB, 3)
    shared, said = _background(thumbs)
    if shared is not None:
        yield Finding(BACKGROUND, tuple(Case((pictures[index].path,)) for index in np.flatnonzero(shared)), said)
    said = _colour(thumbs)
    if said:
        yield Finding(COLOUR, said=said)


def _background(thumbs: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Which pictures [N] bool share one, and what it is."""
    import numpy as np

    inner = np.zeros((THUMB, THUMB), bool)
    inner[_RING:-_RING, _RING:-_RING] = True
    edges = thumbs[:, ~inner].astype(np.float32)
    flat = edges.std(1).max(1) <= _FLAT
    colours = edges.mean(1)
    if flat.mean() >= _MOST:
        middle = np.median(colours[flat], 0)
        same = flat & (np.abs(colours - middle).max(1) <= _SAME)
        if same.mean() >= _MOST:
            return same, "Plain, #{:02x}{:02x}{:02x}.".format(*middle.round().astype(int))
    vectors = (edges - colours[:, None]).reshape(len(edges), -1)
    lengths = np.linalg.norm(vectors, axis=1)
    vectors = vectors[lengths > 0] / lengths[lengths > 0, None]
    count = len(vectors)
    if count >= _MOST * len(thumbs) and count > 1:
        # the mean of all pairs, from the sum of the vectors
        mean = (float((vectors.sum(0) ** 2).sum()) - count) / (count * (count - 1))
        if mean >= _ALIKE:
            return np.ones(len(thumbs), bool), f"The edges of the pictures correlate by {mean:.2f}."
    return None, ""


def _colour(thumbs: np.ndarray) -> str:
    import numpy as np

    spread = np.ptp(thumbs.astype(np.int16), axis=3).reshape(len(thumbs), -1)
    grey = np.percentile(spread, 98, axis=1) <= _GREY
    if grey.mean() >= _MOST:
        return f"{int(grey.sum())} of {plural(len(thumbs), 'picture')} are black and white."
    means = thumbs.reshape(len(thumbs), -1, 3).astype(np.float32).mean(1)
    middle = np.median(means, 0)
    same = np.abs(means - middle).max(1) <= _SAME
    if same.mean() >= _MOST and np.ptp(middle) >= 2 * _SAME:
        shown = "#{:02x}{:02x}{:02x}".format(*middle.round().astype(int))
        return f"{int(same.sum())} of {plural(len(thumbs), 'picture')} are about {shown} on average."
    return ""
