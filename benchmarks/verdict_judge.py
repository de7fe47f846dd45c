"""The judge of benchmarks/verdicts.py: a small classifier of the demo's drawn world, trained on drawings alone.

It does not use the measures of the verdict. From an image of 64 × 64 px it predicts what is drawn, its colour, the
background, and which of Smithy's five parts are right (antenna, boots, body, belt, eye); for that it is trained on
drawings of Smithy with one to three parts wrong as well.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import draw_demo_images as smithy
from demo_pen import BACKGROUNDS, COLOURS, INK, SUPERSAMPLE, Pen, canvas, soft_box
from demo_world import OBJECTS, draw_scene, sample_scene

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("antenna", "boots", "body", "belt", "eye")
KINDS = ("smithy", "creature", *OBJECTS)
GROUNDS, PAINTS = tuple(BACKGROUNDS), tuple(COLOURS)
HEADS = (len(KINDS), len(PAINTS), len(GROUNDS), *[2] * len(PARTS))
DRAWN, DECODED, UPDATES, BATCH = 5000, 800, 1600, 48
"""Images that it is trained on: drawn, and through the demo's VAE as samples are; updates, and images in each."""
NO_LABEL = -1


@dataclass(frozen=True)
class Seen:
    """The judge's probabilities for images, [B] each, 0 to 1."""

    character: Tensor
    """Mean probability of Smithy's five parts."""
    kinds: Tensor
    """[B, kinds]"""
    colours: Tensor
    """[B, colours]"""
    grounds: Tensor
    """[B, backgrounds]"""


class Judge(nn.Module):
    """Four convolutions and a layer that all heads share."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 16, 192), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(192, size) for size in HEADS)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Logits of each head for pixels [B, 3, 64, 64] in [-1, 1]."""
        shared = self.body(pixels)
        return [head(shared) for head in self.heads]

    @torch.no_grad()
    def look(self, pixels: Tensor) -> Seen:
        """Probabilities for pixels [B, 3, 64, 64] in [-1, 1]."""
        kinds, colours, grounds, *parts = (logits.softmax(1) for logits in self(pixels))
        return Seen(torch.stack([part[:, 1] for part in parts]).mean(0), kinds, colours, grounds)


def random_shot(rng: random.Random) -> smithy.Shot:
    """Smithy anywhere on any ground; three in ten next to an object."""
    ground, tilt = rng.choice(GROUNDS), rng.uniform(-5, 5)
    if rng.random() >= 0.3:
        return smithy.Shot(ground, 32 + rng.uniform(-10, 10), 34 + rng.uniform(-1.5, 1.5), rng.uniform(14, 18), tilt)
    across = rng.choice((20, 44)) + rng.uniform(-2, 2)
    colour = rng.choice([paint for paint in PAINTS if paint != ground])
    down, scale = 35 + rng.uniform(-1, 1), rng.uniform(13.5, 14.5)
    return smithy.Shot(ground, across, down, scale, tilt, rng.choice(OBJECTS), colour)


def nearly_smithy(shot: smithy.Shot, rng: random.Random) -> tuple[Image.Image, list[int]]:
    """Smithy with one to three parts wrong, and which are right (in the order of `PARTS`)."""
    wrong = rng.sample(PARTS, rng.choice((1, 2, 2, 3)))
    sheet, brush = canvas(BACKGROUNDS[shot.background])
    pen = Pen(brush, (shot.across, shot.down), shot.scale, shot.tilt)
    if "antenna" not in wrong:
        pen.stroke([(0, -0.85), (0, -1.3)], INK, 3.0)
        pen.disc(0, -1.38, 0.3, 0.3, smithy.SUN)
    if "boots" not in wrong:
        for side in (-1, 1):
            heel, toe = side * 0.18, side * 0.98
            boot = [(heel, 0.8), (heel, 1.5), (toe, 1.5), (toe, 1.12), (side * 0.7, 1.0), (side * 0.7, 0.8)]
            pen.shape(boot, smithy.EMBER)
    body = COLOURS[rng.choice(PAINTS)] if "body" in wrong and rng.random() < 0.5 else smithy.TEAL
    if "body" in wrong and body == smithy.TEAL:
        pen.disc(0, 0, 1.0, 1.0, body)
    else:
        pen.shape(soft_box(0.98, 0.98, 0.14), body)
    if "belt" not in wrong:
        pen.shape([(-0.98, 0.55), (0.98, 0.55), (0.98, 0.98), (-0.98, 0.98)], INK, 0)
    if "eye" in wrong:
        for side in (-1, 1):
            pen.disc(side * 0.37, -0.24, 0.3, 0.3, (255, 255, 255))
            pen.disc(side * 0.37, -0.24, 0.16, 0.16, INK, 0)
    else:
        pen.disc(0, -0.22, 0.6, 0.6, smithy.EMBER)
        pen.disc(0, -0.22, 0.26, 0.26, INK, 0)
    return sheet.reduce(SUPERSAMPLE), [int(part not in wrong) for part in PARTS]


def drawing(rng: random.Random) -> tuple[Image.Image, list[int]]:
    """An image of the world with its labels, one for each head."""
    if rng.random() < 0.4:
        shot = random_shot(rng)
        ground = GROUNDS.index(shot.background)
        if rng.random() < 0.45:
            image, parts = nearly_smithy(shot, rng)
            return image, [KINDS.index("creature"), NO_LABEL, ground, *parts]
        return smithy.draw_smithy(shot), [0, NO_LABEL, ground, *[1] * len(PARTS)]
    scene = sample_scene(rng)
    labels = [KINDS.index(scene.kind), PAINTS.index(scene.colour), GROUNDS.index(scene.background)]
    return draw_scene(scene), [*labels, *[0] * len(PARTS)]


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """[B, 3, 64, 64] in [-1, 1]."""
    arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


def train_judge(through_vae: Callable[[Tensor], Tensor], path: Path) -> Judge:
    """Train the judge, or load it if it was trained before; prints how often it is right on new drawings.

    Args:
        through_vae: encodes and decodes pixels [B, 3, 64, 64].
        path: file of its weights.
    """
    judge = Judge()
    if path.is_file():
        judge.load_state_dict(torch.load(path, weights_only=True))
        return judge.eval()
    torch.manual_seed(0)
    rng = random.Random(0)
    drawn = [drawing(rng) for _ in range(DRAWN)]
    pixels, labels = pixels_of([image for image, _ in drawn]), torch.tensor([label for _, label in drawn])
    decoded = torch.cat([through_vae(part) for part in pixels[:DECODED].split(40)])
    pixels, labels = torch.cat([pixels, decoded, decoded]), torch.cat([labels, labels[:DECODED], labels[:DECODED]])
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, UPDATES)
    for _ in range(UPDATES):
        chosen = torch.randint(0, len(pixels), (BATCH,))
        moved = torch.roll(pixels[chosen], (rng.randint(-3, 3), rng.randint(-3, 3)), (2, 3))
        moved = moved * rng.uniform(0.95, 1.05) + torch.randn_like(moved) * rng.choice((0, 0.02, 0.06))
        losses = [
            nn.functional.cross_entropy(logits, labels[chosen, head], ignore_index=NO_LABEL)
            for head, logits in enumerate(judge(moved))
        ]
        optimizer.zero_grad()
        torch.stack(losses).nansum().backward()
        optimizer.step()
        schedule.step()
    judge.eval()
    fresh = [drawing(random.Random(10_000 + number)) for number in range(200)]
    pixels, labels = pixels_of([image for image, _ in fresh]), torch.tensor([label for _, label in fresh])
    for name, inputs in (("drawn", pixels), ("decoded", torch.cat([through_vae(part) for part in pixels.split(40)]))):
        with torch.no_grad():
            answers = [logits.argmax(1) for logits in judge(inputs)]
        labelled = [labels[:, head] != NO_LABEL for head in range(len(HEADS))]
        right = [float((answer == labels[:, n])[labelled[n]].float().mean()) for n, answer in enumerate(answers)]
        print(f"judge, {name}:", " ".join(f"{share:.1%}" for share in right), flush=True)
    torch.save(judge.state_dict(), path)
    return judge
