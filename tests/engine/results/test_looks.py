"""What an image looks like in numbers, and what a burnt or copied one is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from engine.paths import ASSETS
from engine.results.looks import Look, burn, copying, different, distance, look_at

IMAGES = sorted((ASSETS / "demo_pictures").glob("*.png"))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize((256, 256))


@pytest.fixture(scope="module")
def training() -> dict[str, Look]:
    return {path.name: look_at(opened(path)) for path in IMAGES}


@pytest.mark.parametrize(
    ("image", "saturation", "clipped"),
    [
        (Image.new("RGB", (64, 64), (255, 0, 0)), 1.0, 1.0),
        (Image.new("RGB", (64, 64), (128, 128, 128)), 0.0, 0.0),
        (Image.new("L", (9, 5), 255), 0.0, 1.0),
        (Image.new("RGBA", (640, 64), (200, 100, 100, 0)), 0.5, 0.0),
        (Image.new("RGB", (1, 1), (0, 0, 0)), 0.0, 1.0),
    ],
)
def test_plain_colours(image: Image.Image, saturation: float, clipped: float) -> None:
    look = look_at(image)
    assert (look.saturation, look.clipped) == pytest.approx((saturation, clipped), abs=0.01)
    assert (look.contrast, look.detail) == pytest.approx((0, 0), abs=1e-4)


def test_contrast_and_detail_of_a_checkerboard() -> None:
    board = Image.new("L", (64, 64))
    board.putdata([255 * ((n + n // 64) % 2) for n in range(64 * 64)])
    look = look_at(board)
    assert look.contrast == pytest.approx(0.5, abs=0.01) and look.detail == pytest.approx(4, abs=0.01)


@pytest.mark.parametrize(
    ("change", "measure", "above"),
    [
        (lambda image: image, "saturation", None),
        (lambda image: ImageEnhance.Color(image).enhance(0.3), "saturation", False),
        (lambda image: ImageEnhance.Contrast(image).enhance(2.5), "clipped", True),
        (lambda image: image.filter(ImageFilter.GaussianBlur(6)), "detail", False),
        (lambda image: image.filter(ImageFilter.GaussianBlur(6)), "contrast", False),
        (lambda image: ImageEnhance.Sharpness(image).enhance(9), "detail", True),
    ],
)
def test_burn_names_what_left_the_range(training: dict[str, Look], change, measure: str, above: bool | None) -> None:  # type: ignore[no-untyped-def]
    looks = list(training.values())
    ratios = burn([look_at(change(opened(path))) for path in IMAGES], looks, looks)
    assert set(ratios) == {"saturation", "clipped", "contrast", "detail"}
    if above is None:
        assert all(value == pytest.approx(1) for value in ratios.values())
    else:
        assert ratios[measure] > 1.2 if above else ratios[measure] < 0.8


def test_inside_the_range_of_base_and_training_nothing_is_burnt() -> None:
    def look(value: float) -> Look:
        return Look(value, value, value, value, (0, 0))

    for value, expected in ((0.2, 1), (0.3, 1), (0.4, 1), (0.81, 2), (0.095, 0.5)):
        assert burn([look(value)], [look(0.2)], [look(0.4)])["detail"] == pytest.approx(expected)
    assert burn([], [look(1)], []) == burn([look(1)], [], []) == {}


def test_a_copy_even_a_mirrored_one_is_found(training: dict[str, Look]) -> None:
    for change in (lambda image: image, ImageOps.mirror, lambda image: image.filter(ImageFilter.GaussianBlur(1))):
        copied = copying([look_at(change(opened(IMAGES[4])))], training)
        assert copied is not None and copied[0] > 0.6 and copied[1] == IMAGES[4].name


def test_something_new_is_no_copy_and_one_image_is_too_few(training: dict[str, Look]) -> None:
    rng = random.Random(1)
    noise = Image.new("RGB", (64, 64))
    noise.putdata([tuple(rng.randrange(256) for _ in range(3)) for _ in range(64 * 64)])
    copied = copying([look_at(noise)], training)
    assert copied is not None and copied[0] < 0.3
    single = {IMAGES[0].name: training[IMAGES[0].name]}
    assert copying([look_at(noise)], single) is None
    assert copying([look_at(noise)], {**single, "again.png": training[IMAGES[0].name]}) is None


def test_distance_is_symmetric_and_zero_for_the_mirror_image() -> None:
    image = opened(IMAGES[10])
    here, there = look_at(image), look_at(ImageOps.mirror(image))
    assert distance(here, there) == distance(there, here) <= 2


def test_versions_of_an_image_are_one() -> None:
    first, second = opened(IMAGES[0]), opened(IMAGES[4])
    versions = [first, ImageOps.mirror(first), second, first.resize((48, 48)), ImageOps.mirror(second)]
    looks = [look_at(version) for version in versions]
    assert different(looks) == [looks[0], looks[2]]
    assert different([]) == []
