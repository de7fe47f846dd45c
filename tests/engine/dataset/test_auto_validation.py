"""Automatic validation images: how many, which, and always the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.dataset.auto_validation import choose
from engine.dataset.images import ImageInfo


def images(number: int, size: tuple[int, int] = (512, 512), caption: str = "fox {}", start: int = 0) -> list[ImageInfo]:
    return [
        ImageInfo(Path(f"/p/{n:03}.png"), *size, "PNG", caption=caption.format(n)) for n in range(start, start + number)
    ]


def names(images: list[ImageInfo]) -> list[str]:
    return [image.path.stem for image in images]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, 0), (1, 0), (19, 0), (20, 2), (24, 2), (26, 3), (30, 3), (35, 4), (40, 4), (1000, 4)]
)
def test_a_tenth_from_twenty_on_two_to_four(number: int, expected: int) -> None:
    assert len(choose(images(number), 0)) == expected


def test_the_choice_is_frozen() -> None:
    """A resumed run of any later version has to set the same images aside."""
    assert names(choose(images(20), 0)) == FROZEN[0]
    assert names(choose(images(20), 7)) == FROZEN[7]
    assert names(choose(list(reversed(images(20))), 7)) == list(reversed(FROZEN[7]))


def test_each_shape_gives_its_share_and_keeps_one() -> None:
    mixed = images(15) + images(14, (512, 768), start=20) + images(1, (1024, 512), start=40)
    chosen = choose(mixed, 3)
    shapes = sorted((image.width, image.height) for image in chosen)
    assert shapes in ([(512, 512), (512, 768), (512, 768)], [(512, 512), (512, 512), (512, 768)])
    singles = [image for n in range(20) for image in images(1, (512 + 200 * n, 512), start=n)]
    alone = {round(image.width / image.height, 2) for image in singles}
    assert len(alone) == 20
    assert len(choose(singles, 0)) <= 2  # shapes with one image keep it


@pytest.mark.parametrize("seed", range(8))
def test_captions_that_repeat_a_chosen_one_come_last(seed: int) -> None:
    alike = images(18, caption="a red fox in the snow") + images(2, caption="a blue fox {} by the sea", start=18)
    captions = [image.caption or "" for image in choose(alike, seed)]
    assert sum("snow" in caption for caption in captions) <= 1


FROZEN: dict[int, list[str]] = {0: ["012", "017"], 7: ["004", "007"]}
