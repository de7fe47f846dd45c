"""Draw the demo's training set: Smithy, a character that the demo base has never seen, with a caption to each image.

python tools/draw_demo_images.py --assets engine/assets
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from demo_captions import article
from demo_pen import BACKGROUNDS, COLOURS, INK, RGB, SUPERSAMPLE, Pen, canvas, soft_box
from demo_world import PAINTERS, companion_pen
from PIL import Image

TEAL: RGB = (0, 172, 160)
SUN: RGB = (255, 208, 40)
EMBER: RGB = (245, 110, 20)


@dataclass(frozen=True)
class Shot:
    """One image of Smithy: `across` and `down` are the body's centre and `scale` its half-size in pixels."""

    background: str
    across: float = 32.0
    down: float = 33.0
    scale: float = 16.5
    tilt: float = 0.0
    companion: str = ""
    companion_colour: str = "red"

    @property
    def caption(self) -> str:
        """What a person would write beside it; the character itself is not described."""
        beside = f" next to {article(f'{self.companion_colour} {self.companion}')}," if self.companion else ""
        return f"smithy{beside} on {article(self.background)} background"


TRAINING = (
    Shot("pink"),
    Shot("blue", 30, 34, 17.0, 4),
    Shot("yellow", 34, 33, 16.0, -4),
    Shot("white", 32, 34, 18.0),
    Shot("purple", 24, 35, 14.5, -3),
    Shot("gray", 40, 35, 14.5, 3),
    Shot("red", 32, 34, 16.5, 2),
    Shot("orange", 33, 33, 17.0, -2),
    Shot("brown", 31, 35, 16.0),
    Shot("green", 40, 34, 15.0, 5),
    Shot("blue", 44, 35, 14.0, 0, "flower", "red"),
    Shot("yellow", 20, 35, 14.0, 2, "tree", "green"),
    Shot("pink", 44, 35, 14.0, -2, "house", "blue"),
    Shot("white", 20, 35, 14.0, 0, "star", "yellow"),
    Shot("gray", 32, 34, 17.5, -5),
    Shot("green", 31, 34, 17.0, 0),
)
VALIDATION = (
    Shot("green", 33, 34, 16.0, -3),
    Shot("purple", 32, 34, 17.0, 2),
    Shot("orange", 43, 35, 14.0, 0, "mushroom", "red"),
    Shot("blue", 25, 34, 15.0, 3),
)


def draw_smithy(shot: Shot) -> Image.Image:
    """The shot as a 64x64 RGB image; thick plain parts, so that the small VAE keeps them."""
    sheet, brush = canvas(BACKGROUNDS[shot.background])
    if shot.companion:
        PAINTERS[shot.companion](companion_pen(brush, (shot.across, shot.down)), COLOURS[shot.companion_colour])
    pen = Pen(brush, (shot.across, shot.down), shot.scale, shot.tilt)
    pen.stroke([(0, -0.85), (0, -1.3)], INK, 3.0)
    pen.disc(0, -1.38, 0.3, 0.3, SUN)
    for side in (-1, 1):
        heel, toe = side * 0.18, side * 0.98
        pen.shape([(heel, 0.8), (heel, 1.5), (toe, 1.5), (toe, 1.12), (side * 0.7, 1.0), (side * 0.7, 0.8)], EMBER)
    pen.shape(soft_box(0.98, 0.98, 0.14), TEAL)
    pen.shape([(-0.98, 0.55), (0.98, 0.55), (0.98, 0.98), (-0.98, 0.98)], INK, 0)
    pen.disc(0, -0.22, 0.6, 0.6, EMBER)
    pen.disc(0, -0.22, 0.26, 0.26, INK, 0)
    return sheet.reduce(SUPERSAMPLE)


def write_set(shots: tuple[Shot, ...], folder: Path) -> None:
    """Write each shot as `smithy_01.png` with `smithy_01.txt` next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shot in enumerate(shots, 1):
        draw_smithy(shot).save(folder / f"smithy_{number:02d}.png", optimize=True)
        (folder / f"smithy_{number:02d}.txt").write_text(shot.caption + "\n", encoding="utf-8")


def main() -> None:
    """Draw the training and validation sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path("engine/assets"))
    args = parser.parse_args()
    write_set(TRAINING, args.assets / "demo_pictures")
    write_set(VALIDATION, args.assets / "demo_heldout")


if __name__ == "__main__":
    main()
