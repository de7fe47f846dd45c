"""Few images, one background, one colour; marks, bars and blur where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from engine.dataset.report.borders import margins_of
from engine.dataset.report.quality import MAX_BLUR, blur_of, exposure_of
from engine.paths import ASSETS
from tests.drawn_images import blurred, framed, letterboxed, save, scene
from tests.engine.dataset.report.conftest import Checked, codes, image_names

SIZE = (128, 128)


def on_ground(seed: int, colour: str | tuple[int, int, int]) -> Image.Image:
    """A part of a scene in the middle of a plain ground."""
    image = Image.new("RGB", SIZE, colour)
    mask = Image.new("L", SIZE)
    ImageDraw.Draw(mask).ellipse((20, 30 + seed % 9, 100, 110), fill=255)
    image.paste(scene(seed, SIZE), mask=mask)
    return image


def test_few_images(tmp_path: Path, checked: Checked) -> None:
    for number in range(11):
        save(tmp_path / "p", f"{number}.png", scene(number, SIZE), f"number {number}")
    assert "few" not in codes(checked(tmp_path / "p"))
    for number in range(2):  # a copy is no other image
        save(tmp_path / "p", f"{number}.png", scene(5, SIZE), f"number {number}")
    assert "few" in codes(checked(tmp_path / "p"))


def test_one_background(tmp_path: Path, checked: Checked) -> None:
    for number in range(6):
        save(tmp_path / "p", f"{number}.png", on_ground(number, "#e8e8e8"), f"number {number}")
    save(tmp_path / "p", "other.png", scene(9, SIZE), "another")
    assert image_names(checked(tmp_path / "p"), "one-background") == {f"{number}.png" for number in range(6)}


def test_backgrounds_that_differ(tmp_path: Path, checked: Checked) -> None:
    for number in range(6):
        save(tmp_path / "p", f"{number}.png", on_ground(number, (40 * number, 30, 200)), f"number {number}")
    assert "one-background" not in codes(checked(tmp_path / "p"))


def test_one_place_in_all_images(tmp_path: Path, checked: Checked) -> None:
    """The same room behind different subjects."""
    room = scene(77, SIZE)
    for number in range(6):
        image = room.copy()
        image.paste(scene(number, (60, 80)), (30, 30))
        save(tmp_path / "p", f"{number}.png", image, f"number {number}")
    report = checked(tmp_path / "p")
    assert "one-background" in codes(report)


def test_black_and_white(tmp_path: Path, checked: Checked) -> None:
    for number in range(6):
        save(tmp_path / "p", f"{number}.png", scene(number, SIZE).convert("L").convert("RGB"), f"number {number}")
    assert "one-colour" in codes(checked(tmp_path / "p"))


@pytest.mark.parametrize("seed", range(4))
def test_bars_are_found_to_the_pixel(seed: int) -> None:
    image = scene(seed)
    assert margins_of(np.asarray(image)) == (0, 0, 0, 0)
    assert margins_of(np.asarray(letterboxed(image, 0.125))) == (0, 64, 0, 64)
    turned = letterboxed(image.transpose(Image.Transpose.ROTATE_90), 0.125).transpose(Image.Transpose.ROTATE_90)
    assert margins_of(np.asarray(turned)) == (80, 0, 80, 0)
    assert margins_of(np.asarray(framed(image, 24))) == (24, 24, 24, 24)


def test_a_plain_ground_is_no_bar() -> None:
    assert margins_of(np.asarray(on_ground(1, "white"))) == (0, 0, 0, 0)


@pytest.mark.parametrize("ground", ["white", "black", "gray", "#9cc9ee"])
@pytest.mark.parametrize(
    "box",
    [
        (100, 120, 400, 480), (150, 60, 350, 511), (100, 10, 412, 511), (100, 0, 412, 400), (80, 80, 432, 432),
        (40, 150, 472, 360), (0, 200, 400, 300), (10, 120, 511, 400),
    ],
    ids=["box", "standing", "large, standing", "hanging", "poster", "wide poster", "from the left", "from the right"],
)  # fmt: skip
@pytest.mark.parametrize("noise", [0, 4])
def test_a_subject_with_straight_edges_on_a_plain_ground_is_no_bar(
    ground: str, box: tuple[int, int, int, int], noise: int
) -> None:
    image = Image.new("RGB", (512, 512), ground)
    image.paste(scene(5, (512, 512)).crop(box), box[:2])
    grain = np.random.default_rng(0).integers(-noise, noise + 1, (512, 512, 3))
    pixels = (np.asarray(image).astype(int) + grain).clip(0, 255).astype(np.uint8)
    assert margins_of(pixels) == (0, 0, 0, 0)


@pytest.mark.parametrize("path", sorted(ASSETS.glob("demo_*/smithy_*.png")), ids=lambda path: "/".join(path.parts[-2:]))
def test_the_demos_images_have_no_bars(path: Path) -> None:
    assert margins_of(np.asarray(Image.open(path).convert("RGB"))) == (0, 0, 0, 0)


def test_blur_grows_with_blur() -> None:
    image = scene(3)
    values = [blur_of(_grey(blurred(image, sigma) if sigma else image)) for sigma in (0, 1, 2, 4)]
    assert values == sorted(values)
    assert values[0] < 0.3 < MAX_BLUR < values[2]


def test_a_soft_background_is_not_blur() -> None:
    image = blurred(scene(3), 6)
    image.paste(scene(4, (300, 256)), (100, 120))
    assert blur_of(_grey(image)) < MAX_BLUR


def test_a_flat_image_has_no_blur() -> None:
    assert blur_of(np.full((64, 64), 128, np.float32)) == -1


def test_a_drawing_on_white_is_not_overexposed() -> None:
    low, _, high, white, white_edge = exposure_of(on_ground(1, "white").convert("L"))
    assert white_edge
    assert white > 0.4
    assert low < high == 255


def _grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(np.float32)
