"""A folder with one of each fault."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.drawn_images import (
    blurred,
    caption,
    exposed,
    letterboxed,
    mirrored,
    save,
    scene,
    trimmed,
    watermarked,
)

TRIGGER = "f0x"
EXPECTED = {
    "broken": {"broken.jpg"},
    "caption-unreadable": {"latin1_caption.jpg"},
    "duplicate": {"copy.png", "original.webp"},
    "near-duplicate": {"photo.jpg", "photo_small.jpg"},
    "mirrored": {"left.jpg", "right.jpg"},
    "rotated": {"phone.jpg"},
    "front-camera": {"phone.jpg"},
    "blurred": {"blurred.jpg"},
    "small": {"tiny.jpg", "wide.jpg"},
    "large": {"huge.jpg"},
    "caption-same": {"same_1.jpg", "same_2.jpg"},
    "caption-long": {"long_caption.jpg"},
    "caption-empty": {"empty_caption.jpg"},
    "caption-missing": {"no_caption.jpg"},
    "trigger-missing": {"no_trigger.jpg"},
    "borders": {"letterboxed.jpg"},
    "watermark": {f"marked_{number}.jpg" for number in range(5)},
    "overexposed": {"overexposed.jpg"},
    "underexposed": {"underexposed.jpg"},
    "blank": {"blank.png"},
    "cmyk": {"cmyk.jpg"},
    "16-bit": {"sixteen.png"},
    "animated": {"animated.webp"},
    "transparent": {"transparent.png"},
    "wrong-extension": {"really_png.jpg"},
    "rare-format": {"modern.avif"},
    "cropped": {"wide.jpg"},
    "stray-file": {"film.mp4"},
    "mirror-hint": {"selfie.jpg"},
}
"""Code to the names of the images; nothing else may be found of these."""


def draw_bad_set(folder: Path) -> Path:
    """Draw it: 35 images, of which one is broken."""
    seeds = iter(range(1, 100))

    def put(name: str, image: Image.Image, words: str | None = "", **options: object) -> Path:
        text = words if words is None or words else f"{TRIGGER}, {caption(next(seeds))}"
        return save(folder, name, image, text, **options)

    put("copy.png", scene(1, (512, 512)))
    put("original.webp", scene(1, (512, 512)), lossless=True)
    put("photo.jpg", scene(2))
    put("photo_small.jpg", trimmed(scene(2)), quality=60)
    put("left.jpg", scene(3))
    put("right.jpg", mirrored(scene(3)))
    _phone(put("phone.jpg", scene(4)))
    put("blurred.jpg", blurred(scene(5)))
    put("tiny.jpg", scene(6, (120, 100)))
    put("wide.jpg", scene(7, (1024, 180)))
    put("huge.jpg", scene(8, (560, 512)).resize((2240, 2048), Image.Resampling.BICUBIC))
    put("same_1.jpg", scene(9), f"{TRIGGER}, a fox on a hill")
    put("same_2.jpg", scene(10), f"{TRIGGER}, a fox on a  Hill")
    put("long_caption.jpg", scene(11), f"{TRIGGER}, " + "a fox runs over a hill and, " * 57)
    put("empty_caption.jpg", scene(12), " ")
    put("no_caption.jpg", scene(13), None)
    put("no_trigger.jpg", scene(14), "only a fox")
    put("letterboxed.jpg", letterboxed(scene(15)))
    put("overexposed.jpg", exposed(scene(16), 3))
    put("underexposed.jpg", exposed(scene(17), -5))
    put("blank.png", Image.new("RGB", (512, 512), "#808890"))
    put("cmyk.jpg", scene(18, (512, 512)).convert("CMYK"))
    put("sixteen.png", Image.fromarray(_sixteen(scene(19, (512, 512)))))
    put("animated.webp", scene(20, (512, 512)), save_all=True, append_images=[scene(21, (512, 512))])
    put("transparent.png", _half_transparent(scene(22, (512, 512))))
    put("really_png.jpg", scene(23, (512, 512)), format="PNG")
    put("modern.avif", scene(24, (512, 512)))
    put("selfie.jpg", scene(25), f"{TRIGGER}, mirror selfie with a red bag")
    for number in range(5):
        put(f"marked_{number}.jpg", watermarked(scene(30 + number)))
    latin = put("latin1_caption.jpg", scene(26))
    latin.with_suffix(".txt").write_bytes("f0x, a café".encode("latin-1"))
    broken = put("broken.jpg", scene(27))
    broken.write_bytes(broken.read_bytes()[:20000])
    (folder / "film.mp4").write_bytes(b"no image")
    return folder


def _phone(path: Path) -> None:
    """Lying in the file, upright by EXIF, taken with a front camera."""
    image = Image.open(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA434] = "iPhone 12 front camera 2.71mm f/2.2"
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=92, exif=exif)


def _sixteen(image: Image.Image) -> object:
    import numpy as np

    return np.asarray(image.convert("L")).astype(np.uint16) * 257


def _half_transparent(image: Image.Image) -> Image.Image:
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    return image
