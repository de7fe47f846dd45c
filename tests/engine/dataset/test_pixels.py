from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.config.dataset import DatasetTable
from engine.dataset.buckets import Placement
from engine.dataset.decoding import read_header
from engine.dataset.images import ImageInfo
from engine.dataset.pixels import latent_mask, load_pixels
from engine.dataset.resampling import resize
from tests.refusals import refused

Draw = Callable[..., Path]


def loaded(
    path: Path, placement: Placement | None = None, *, flip: bool = False, seed: int | None = None, **table: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    header = read_header(path, 178)
    size = (header.width, header.height)
    image = ImageInfo(path, *size, header.format)
    placement = placement or Placement(size, size, (0, 0))
    rng = None if seed is None else random.Random(seed)
    return load_pixels(image, placement, DatasetTable(**table), flip=flip, rng=rng)


def levels(pixels: torch.Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] back to 0-255."""
    return ((pixels * 0.5 + 0.5) * 255).round().byte().numpy()


def test_range_shape_and_type(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.new("RGB", (20, 16), (255, 0, 51))
    image.save(path)
    pixels, mask = loaded(path)
    assert pixels.shape == (3, 16, 20) and pixels.dtype == torch.float32 and mask is None
    assert pixels[:, 0, 0].tolist() == pytest.approx([1.0, -1.0, -0.6])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_rotation_turns_the_pixels(tmp_path: Path, orientation: int, extension: str) -> None:
    """The red corner is top left once the image is upright; where it is stored follows from the EXIF standard."""
    upright = Image.new("RGB", (40, 24), "white")
    upright.paste("red", (0, 0, 16, 8))
    stored = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    (upright.transpose(stored) if stored is not None else upright).save(path, exif=exif)
    pixels, _ = loaded(path)
    assert pixels.shape == (3, 24, 40)
    green = pixels[1]
    assert green[2, 4] < -0.6 and min(green[2, 36], green[20, 4], green[20, 36]) > 0.6


def test_heic(tmp_path: Path) -> None:
    pixels, _ = loaded(Path(__file__).parent / "fixtures/small.heic")
    image = levels(pixels).astype(int)
    assert image.shape == (3, 64, 96)
    assert abs(image[0, 32, 95] - 255) < 12 and abs(image[0, 32, 0]) < 12 and abs(image[1, 63, 48] - 255) < 12


def test_transparency_is_laid_on_the_background(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    rgba.paste((255, 0, 0, 255), (0, 0, 8, 16))
    rgba.paste((0, 0, 0, 128), (8, 0, 16, 8))
    rgba.save(tmp_path / "a.png")
    white = levels(loaded(tmp_path / "a.png")[0])
    assert white[:, 0, 0].tolist() == [255, 0, 0] and white[:, 15, 15].tolist() == [255] * 3
    assert abs(int(white[0, 0, 15]) - 127) <= 1
    assert levels(loaded(tmp_path / "a.png", alpha_background="#0000ff")[0])[:, 15, 15].tolist() == [0, 0, 255]


def test_alpha_as_mask(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (32, 16), (9, 9, 9, 255))
    rgba.paste((9, 9, 9, 0), (0, 0, 16, 16))
    rgba.save(tmp_path / "a.png")
    placement = Placement((16, 8), (16, 8), (0, 0))
    _, mask = loaded(tmp_path / "a.png", placement, alpha_mask=True)
    assert mask is not None and mask.shape == (8, 16)
    assert mask[0].tolist() == [0.0] * 8 + [1.0] * 8
    assert latent_mask(mask, (1, 2)).tolist() == [[0.0, 1.0]]
    _, flipped = loaded(tmp_path / "a.png", placement, flip=True, alpha_mask=True)
    assert flipped is not None and flipped[0].tolist() == [1.0] * 8 + [0.0] * 8
    Image.new("RGB", (16, 16)).save(tmp_path / "b.png")
    assert loaded(tmp_path / "b.png", alpha_mask=True)[1] is None


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_cut(tmp_path: Path, extension: str) -> None:
    values = np.tile(np.linspace(0, 65535, 16).astype(np.uint16), (16, 1))
    path = tmp_path / f"a.{extension}"
    Image.fromarray(values).save(path)
    assert levels(loaded(path)[0])[1, 5].tolist() == [round(int(value) / 257) for value in values[0]]


def test_16_bit_colour(tmp_path: Path) -> None:
    """Written by hand: Pillow has no such mode to write."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">HHH", 65535, 32896, 0) * 16
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(row * 16))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))
    assert levels(loaded(path)[0])[:, 8, 8].tolist() == [255, 128, 0]


def test_grey_bilevel_palette_and_cmyk(tmp_path: Path) -> None:
    Image.new("L", (16, 16), 77).save(tmp_path / "grey.png")
    assert levels(loaded(tmp_path / "grey.png")[0])[:, 0, 0].tolist() == [77] * 3
    Image.new("1", (16, 16), 1).save(tmp_path / "bilevel.tif")
    assert levels(loaded(tmp_path / "bilevel.tif")[0]).min() == 255
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "palette.png")
    assert levels(loaded(tmp_path / "palette.png")[0])[:, 0, 0].tolist() == [10, 200, 30]
    palette.paste(0, (0, 0, 8, 16))
    palette.save(tmp_path / "hole.png", transparency=0)
    holed = levels(loaded(tmp_path / "hole.png", alpha_background="#ff0000")[0])
    assert holed[:, 0, 0].tolist() == [255, 0, 0] and holed[:, 0, 15].tolist() == [10, 200, 30]
    Image.new("L", (16, 16), 5).save(tmp_path / "keyed.png", transparency=5)
    assert levels(loaded(tmp_path / "keyed.png")[0]).min() == 255
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    red = levels(loaded(tmp_path / "cmyk.jpg")[0])[:, 8, 8].astype(int)
    assert abs(red - [255, 0, 0]).max() <= 3


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert levels(loaded(tmp_path / "a.webp")[0])[:, 3, 3].tolist() == [255, 0, 0]


def test_crop_and_mirror(tmp_path: Path) -> None:
    columns = np.tile(np.arange(32, dtype=np.uint8) * 8, (16, 1))
    Image.fromarray(columns).save(tmp_path / "a.png")
    placement = Placement((16, 16), (32, 16), (8, 0))
    assert levels(loaded(tmp_path / "a.png", placement)[0])[0, 0].tolist() == list(range(64, 192, 8))
    assert levels(loaded(tmp_path / "a.png", placement, flip=True)[0])[0, 0].tolist() == list(range(64, 192, 8))[::-1]
    starts = {levels(loaded(tmp_path / "a.png", placement, seed=s, random_crop=True)[0])[0, 0, 0] for s in range(60)}
    assert min(starts) == 0 and max(starts) == 128
    assert levels(loaded(tmp_path / "a.png", placement, random_crop=True)[0])[0, 0, 0] == 64


def test_colour_shift_changes_a_third_a_little(tmp_path: Path, draw: Draw) -> None:
    path = draw(tmp_path / "a.png")
    plain = loaded(path)[0]
    shifted = [loaded(path, seed=seed, color_aug=True)[0] for seed in range(60)]
    changes = [float((pixels - plain).abs().mean()) for pixels in shifted]
    assert 10 <= sum(change > 0 for change in changes) <= 30 and max(changes) < 0.3
    assert torch.equal(loaded(path, seed=3, color_aug=True)[0], shifted[3])


def test_shrinking_is_an_exact_area_average() -> None:
    row = Image.fromarray(np.array([[30, 90, 210]], np.uint8))
    # 3 -> 2: the middle pixel is shared: (30 + 90/2) / 1.5 and (90/2 + 210) / 1.5
    assert np.asarray(resize(row, (2, 1), None)).tolist() == [[50, 170]]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    means = blocks.reshape(3, 4, 5, 4, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(resize(Image.fromarray(blocks), (5, 3), "area")) - means).max() <= 0.5
    flat = Image.new("RGB", (997, 613), (7, 130, 255))
    assert np.asarray(resize(flat, (512, 315), None)).reshape(-1, 3).tolist() == [[7, 130, 255]] * (512 * 315)


def test_enlarging_is_lanczos_and_names_are_kohyas() -> None:
    image = Image.linear_gradient("L").resize((10, 10))
    same = [("lanczos", Image.Resampling.LANCZOS), ("cubic", Image.Resampling.BICUBIC), ("box", Image.Resampling.BOX),
            ("nearest", Image.Resampling.NEAREST), ("linear", Image.Resampling.BILINEAR),
            ("area", Image.Resampling.BILINEAR), (None, Image.Resampling.LANCZOS)]  # fmt: skip
    for name, resampling in same:
        assert resize(image, (25, 25), name).tobytes() == image.resize((25, 25), resampling).tobytes(), name
    assert resize(image, (5, 20), None).tobytes() == image.resize((5, 20), Image.Resampling.LANCZOS).tobytes()


def test_a_broken_image_names_the_file(tmp_path: Path, draw: Draw) -> None:
    path = draw(tmp_path / "a.jpg", size=(300, 300))
    header = read_header(path, 178)
    path.write_bytes(path.read_bytes()[:-600])
    with refused("image-unreadable", path, "truncated"):
        placement = Placement((64, 64), (64, 64), (0, 0))
        load_pixels(ImageInfo(path, header.width, header.height, "JPEG"), placement, DatasetTable())


def test_a_image_replaced_after_the_scan_is_not_decoded(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = draw(tmp_path / "a.png")
    draw(path, size=(900, 900))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with refused("image-changed", path, "900×900", "40×30"):
        load_pixels(ImageInfo(path, 40, 30, "PNG"), Placement((40, 30), (40, 30), (0, 0)), DatasetTable())
