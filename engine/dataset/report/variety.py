"""Too few images, or images with the same background or colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.dataset.caption_check import FEWEST
from engine.dataset.report.findings import Case, Finding, Kind
from engine.dataset.report.likeness import THUMB
from engine.text import plural

if TYPE_CHECKING:
    import numpy as np

    from engine.dataset.report.survey import Survey

_MOST = 0.8
"""Share of the images that counts as all of them."""
_RING = 3
"""Cells at the thumbnail's edge that count as background."""
_FLAT, _SAME = 14.0, 20.0
"""Most levels: within one edge, and between the edges of different images."""
_ALIKE = 0.85
"""Mean correlation between the edges of two images."""
_GREY = 10
"""Most levels between the channels of a grey pixel."""
_BLOCK = 4096
"""Thumbnails that are compared at a time, to bound memory: about 60 MiB."""

FEW = Kind(
    "few",
    "warning",
    "Few images",
    f"Fewer than {FEWEST} different training images; copies and versions count once.",
    "The LoRA memorizes these images, with poses, clothes and backgrounds.",
    "15 to 40 images with different poses, clothes, light and places are usual for a person or character.",
)
BACKGROUND = Kind(
    "one-background",
    "warning",
    "One background everywhere",
    f"In at least {_MOST:.0%} of the images the edge has the same plain colour (within {_SAME:.0f} levels), or the "
    f"edges of all correlate by {_ALIKE} on average.",
    "The LoRA learns the background as part of the subject, and always generates it.",
    "Add images in other places, and name the background in the captions: it is then learned separately.",
)
COLOUR = Kind(
    "one-colour",
    "note",
    "One colour everywhere",
    f"In at least {_MOST:.0%} of the images the mean colours are within {_SAME:.0f} levels of each other and are "
    "not grey; or all are black and white.",
    "The LoRA learns the tint as part of the subject.",
    "It is fine for a style. For a person or object, add images in other light.",
)
KINDS = (FEW, BACKGROUND, COLOUR)


def find(survey: Survey) -> Iterator[Finding]:
    """Yield the findings of this group."""
    import numpy as np

    images = survey.distinct()
    if 0 < len(images) < FEWEST:
        yield Finding(FEW, text=f"{plural(len(images), 'different image')} to train on.")
    if len(images) < 5:
        return
    thumbs = [survey.thumbs[image.path] for image in images]
    shared, background = _background(thumbs)
    if shared is not None:
        yield Finding(BACKGROUND, tuple(Case((images[index].path,)) for index in np.flatnonzero(shared)), background)
    colour = _colour(thumbs)
    if colour:
        yield Finding(COLOUR, text=colour)


def _blocks(thumbs: Sequence[bytes]) -> Iterator[np.ndarray]:
    """The thumbnails in order, [n, THUMB, THUMB, 3] uint8 each."""
    import numpy as np

    for start in range(0, len(thumbs), _BLOCK):
        packed = b"".join(thumbs[start : start + _BLOCK])
        yield np.frombuffer(packed, np.uint8).reshape(-1, THUMB, THUMB, 3)


def _background(thumbs: Sequence[bytes]) -> tuple[np.ndarray | None, str]:
    """Which images [N] bool share a background, and its description."""
    import numpy as np

    inner = np.zeros((THUMB, THUMB), bool)
    inner[_RING:-_RING, _RING:-_RING] = True
    deviations, means = [], []
    count, total = 0, np.zeros(np.count_nonzero(~inner) * 3)
    for block in _blocks(thumbs):
        edges = block[:, ~inner].astype(np.float32)
        deviations.append(edges.std(1).max(1))
        means.append(edges.mean(1))
        vectors = (edges - means[-1][:, None]).reshape(len(edges), -1)
        lengths = np.linalg.norm(vectors, axis=1)
        uneven = lengths > 0
        count += int(np.count_nonzero(uneven))
        total += (vectors[uneven] / lengths[uneven, None]).sum(0)
    flat, colours = np.concatenate(deviations) <= _FLAT, np.concatenate(means)
    if flat.mean() >= _MOST:
        middle = np.median(colours[flat], 0)
        same = flat & (np.abs(colours - middle).max(1) <= _SAME)
        if same.mean() >= _MOST:
            return same, "Plain, #{:02x}{:02x}{:02x}.".format(*middle.round().astype(int))
    if count >= _MOST * len(thumbs) and count > 1:
        # the mean of all pairs, from the sum of the unit vectors
        mean = (float((total**2).sum()) - count) / (count * (count - 1))
        if mean >= _ALIKE:
            return np.ones(len(thumbs), bool), f"The edges of the images correlate by {mean:.2f}."
    return None, ""


def _colour(thumbs: Sequence[bytes]) -> str:
    import numpy as np

    spreads, colours = [], []
    for block in _blocks(thumbs):
        spread = np.ptp(block.astype(np.int16), axis=3).reshape(len(block), -1)
        spreads.append(np.percentile(spread, 98, axis=1))
        colours.append(block.reshape(len(block), -1, 3).astype(np.float32).mean(1))
    grey = np.concatenate(spreads) <= _GREY
    if grey.mean() >= _MOST:
        return f"{int(grey.sum())} of {plural(len(thumbs), 'image')} are black and white."
    means = np.concatenate(colours)
    middle = np.median(means, 0)
    same = np.abs(means - middle).max(1) <= _SAME
    if same.mean() >= _MOST and np.ptp(middle) >= 2 * _SAME:
        code = "#{:02x}{:02x}{:02x}".format(*middle.round().astype(int))
        return f"{int(same.sum())} of {plural(len(thumbs), 'image')} are about {code} on average."
    return ""
