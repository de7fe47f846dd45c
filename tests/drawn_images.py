"""Images that are drawn for tests and benchmarks of the dataset report: varied ones, and each fault put into one.

A scene has what photographs have: large shapes, edges, and texture on every scale (1/f noise), in colours of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_SUBJECTS = (
    "fox",
    "lighthouse",
    "violin",
    "teapot",
    "sailor",
    "bicycle",
    "cactus",
    "pianist",
    "owl",
    "tram",
    "gardener",
)
_PLACES = ("in a harbour", "on a meadow", "in a kitchen", "under a bridge", "at night", "in deep snow", "by a window")
_LIGHTS = ("soft light", "hard shadows", "backlight", "morning mist", "lamp light", "overcast sky", "golden hour")
_POSES = ("close up", "from behind", "full body", "leaning", "in motion", "from above", "sitting", "half in the frame")


def scene(seed: int, size: tuple[int, int] = (640, 512)) -> Image.Image:
    """A varied image: textured ground, shapes, grain; the same for the same seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    ground, tint = _noise(rng, size), _noise(rng, size)
    colour, hue = rng.uniform(60, 195, 3), rng.uniform(-16, 16, 3)
    levels = colour + 34 * ground[..., None] + hue * tint[..., None]
    image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 9))):
        x, y = rng.uniform(-0.1, 0.9, 2) * size
        w, h = rng.uniform(0.08, 0.5, 2) * size
        fill = tuple(int(level) for level in rng.integers(0, 256, 3))
        shape = int(rng.integers(3))
        if shape == 0:
            pen.ellipse((x, y, x + w, y + h), fill=fill)
        elif shape == 1:
            pen.polygon([(x, y + h), (x + w * rng.uniform(), y), (x + w, y + h * rng.uniform(0.5, 1))], fill=fill)
        else:
            pen.line((x, y, x + w, y + h), fill=fill, width=int(rng.integers(2, 20)))
    grain = 4 * rng.standard_normal((height, width), np.float32) + 7 * np.roll(ground, 97, (0, 1)) * np.sign(tint)
    return Image.fromarray(np.clip(np.asarray(image) + grain[..., None], 0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Texture [H, W] whose amplitude falls with frequency, mean 0, deviation 1."""
    width, height = size
    side = 2 ** int(np.ceil(np.log2(max(size)))) // 2
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequencies[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / frequencies**1.5
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (side, side))
    field = (field / field.std()).astype(np.float32)
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def caption(seed: int) -> str:
    """What a scene is said to show; different for different seeds, in most cases."""
    rng = random.Random(seed)
    parts = [rng.choice(_SUBJECTS), rng.choice(_PLACES), rng.choice(_LIGHTS), rng.choice(_POSES)]
    return ", ".join([*parts, f"number {seed}"])


def blurred(image: Image.Image, sigma: float = 4.0) -> Image.Image:
    """Out of focus."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def exposed(image: Image.Image, stops: float) -> Image.Image:
    """More or less light, in f-stops, clipped at white (gamma 2.2)."""
    return image.point(
        [min(255, round(255 * ((level / 255) ** 2.2 * 2**stops) ** (1 / 2.2))) for level in range(256)] * 3
    )


def letterboxed(image: Image.Image, share: float = 0.12) -> Image.Image:
    """Black bars over parts of its top and bottom."""
    bar = round(image.height * share)
    boxed = Image.new("RGB", image.size)
    boxed.paste(image.crop((0, bar, image.width, image.height - bar)), (0, bar))
    return boxed


def framed(image: Image.Image, width: int = 24) -> Image.Image:
    """A white edge all around."""
    framed_image = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), "white")
    framed_image.paste(image, (width, width))
    return framed_image


def watermarked(image: Image.Image, words: str = "© studio north", opacity: float = 0.8) -> Image.Image:
    """White letters at a fixed place at the bottom right."""
    mask = Image.new("L", image.size)
    pen = ImageDraw.Draw(mask)
    pen.text((image.width - 200, image.height - 50), words, fill=round(255 * opacity), font_size=24)
    marked = image.copy()
    marked.paste(Image.new("RGB", image.size, "white"), mask=mask)
    return marked


def trimmed(image: Image.Image, share: float = 0.06) -> Image.Image:
    """A part of each side cut off, and scaled to three quarters."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    cut = image.crop((x, y, image.width - x, image.height - y))
    return cut.resize((round(cut.width * 0.75), round(cut.height * 0.75)), Image.Resampling.LANCZOS)


def mirrored(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def sizes(seed: int) -> tuple[int, int]:
    """A usual size for a scene."""
    return random.Random(seed).choice([(640, 512), (512, 640), (576, 576), (704, 480), (480, 720), (512, 512)])


def save(folder: Path, name: str, image: Image.Image, words: str | None, **options: object) -> Path:
    """Write an image, and its caption if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    usual = {"quality": 92} if path.suffix in (".jpg", ".webp") else {}
    image.save(path, **{**usual, **options})
    if words is not None:
        path.with_suffix(".txt").write_text(words + "\n")
    return path


def clean_set(folder: Path, count: int, first_seed: int = 1000) -> list[Path]:
    """Images in which nothing is to be found."""
    seeds = range(first_seed, first_seed + count)
    return [save(folder, f"clean_{seed}.jpg", scene(seed, sizes(seed)), caption(seed)) for seed in seeds]


FAULTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred": blurred,
    "overexposed": lambda image: exposed(image, 3.0),
    "underexposed": lambda image: exposed(image, -5.0),
    "borders": letterboxed,
    "watermark": watermarked,
}
"""What is done to an image, by the code of the finding."""


def versions(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """A near duplicate and a mirrored one, by the code of the finding."""
    yield "near-duplicate", trimmed(image)
    yield "mirrored", mirrored(image)
