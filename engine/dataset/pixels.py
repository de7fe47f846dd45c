"""From an image file to the encoder's input tensor: flattened, scaled, cropped, in [-1, 1]."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from engine.config.dataset import DatasetTable
from engine.dataset.buckets import Placement
from engine.dataset.decoding import ChangedImage, UnusableImage, decode, read_header
from engine.dataset.face_crop import face_of, place_face
from engine.dataset.images import ImageInfo
from engine.dataset.resampling import resize
from engine.errors import DataError
from engine.text import printable

if TYPE_CHECKING:
    import torch


MASK_MEGAPIXELS = 178
"""Larger masks are refused, as images are."""


def load_pixels(
    image: ImageInfo, placement: Placement, table: DatasetTable, *, flip: bool = False, rng: random.Random | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read, flatten onto the background, scale, crop and optionally mirror one image.

    Args:
        flip: mirror left and right.
        rng: for `color_aug`, `random_crop` and `face_crop_aug_range`; None: none of them, whatever the table has.

    Returns:
        pixels [3, H, W] float32 in [-1, 1], and the loss weights, [H, W] float32 in [0, 1]: the red channel of the
        image's mask, or with `alpha_mask` its own alpha channel; None if there is neither.

    Raises:
        DataError: the image can't be decoded, or has changed since the scan.
    """
    try:
        flat, weights = fit(image, placement, table, flip=flip, rng=rng)
    except ChangedImage as error:
        raise DataError(
            f"{printable(image.path)}: {error}.", "Replace or remove this image.", code="image-changed"
        ) from error
    except UnusableImage as error:
        raise DataError(
            f"{printable(image.path)}: {error}.", "Replace or remove this image.", code="image-unreadable"
        ) from error
    return as_tensors(flat, weights)


def fit(
    image: ImageInfo, placement: Placement, table: DatasetTable, *, flip: bool = False, rng: random.Random | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """The part of `load_pixels` that needs no torch, with the same arguments.

    Returns:
        the colours as RGB and the loss weights as L, both of the size of the bucket; None without weights.

    Raises:
        UnusableImage: it is broken, or has changed since the scan.
        DataError: its mask cannot be read.
    """
    decoded = decode(image.path, (image.width, image.height), turn=not image.kohya_exact)
    flat, alpha = flatten(decoded, None if image.kohya_exact else table.alpha_background)
    face = None if rng is None else face_of(image.path, table)
    if rng is not None and face is not None and table.face_crop_aug_range is not None:
        sizes, size = table.face_crop_aug_range, (image.width, image.height)
        placement = place_face(size, placement.bucket, face, sizes, rng, random_crop=table.random_crop)
    left, top = placement.crop
    if rng is not None and face is None and table.random_crop:
        left = rng.randint(0, placement.resized[0] - placement.bucket[0])
        top = rng.randint(0, placement.resized[1] - placement.bucket[1])
    box = (left, top, left + placement.bucket[0], top + placement.bucket[1])

    def fitted(layer: Image.Image) -> Image.Image:
        scaled = resize(layer, placement.resized, table.resize_interpolation, opencv=image.kohya_exact)
        cut = scaled.crop(box)
        return ImageOps.mirror(cut) if flip else cut

    flat = fitted(flat)
    if rng is not None and table.color_aug:
        flat = _shift_colour(flat, rng)
    if image.mask_path is not None:
        alpha = mask_of(image, decoded.size)
    if alpha is None or not (table.alpha_mask or image.mask_path is not None):
        return flat, None
    return flat, fitted(alpha)


def as_tensors(
    flat: Image.Image, weights: Image.Image | None, *, flip: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What `load_pixels` returns, from the result of `fit`.

    Args:
        flip: mirror left and right.
    """
    import numpy as np
    import torch

    if flip:
        flat, weights = ImageOps.mirror(flat), None if weights is None else ImageOps.mirror(weights)
    # ToTensor and Normalize(0.5, 0.5) of torchvision, in their order
    pixels = torch.from_numpy(np.asarray(flat).transpose(2, 0, 1).astype(np.float32) / 255.0).sub_(0.5).div_(0.5)
    if weights is None:
        return pixels, None
    return pixels, torch.from_numpy(np.asarray(weights).astype(np.float32) / 255.0)


def mask_of(image: ImageInfo, size: tuple[int, int]) -> Image.Image:
    """The red channel of the image's mask, scaled to `size` (width, height), the size of the image.

    Raises:
        DataError: the mask cannot be read.
    """
    assert image.mask_path is not None
    try:
        turn = not image.kohya_exact
        header = read_header(image.mask_path, MASK_MEGAPIXELS, turn=turn)
        mask = decode(image.mask_path, (header.width, header.height), turn=turn)
    except UnusableImage as error:
        raise DataError(
            f"{printable(image.path)}: its mask {printable(image.mask_path)} cannot be read: {error}.",
            "Replace the mask, or remove image and mask.",
            code="mask-unreadable",
        ) from error
    red = flatten(mask, None if image.kohya_exact else "#ffffff")[0].getchannel("R")
    return red if red.size == size else red.resize(size, Image.Resampling.BILINEAR)


def latent_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A mask [H, W] averaged to the latent's (height, width)."""
    import torch

    return torch.nn.functional.interpolate(mask[None, None], size=size, mode="area")[0, 0]


def flatten(image: Image.Image, background: str | None) -> tuple[Image.Image, Image.Image | None]:
    """Any image as 8-bit RGB over `background` ("#rrggbb"), and its alpha channel if it has one.

    Without a background, the colours under transparent parts are kept.
    """
    if image.mode.startswith("I;16"):
        image = _to_8_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    rgba = image.convert("RGBA")
    if background is None:
        return image.convert("RGB"), rgba.getchannel("A")
    base = Image.new("RGBA", rgba.size, background)
    return Image.alpha_composite(base, rgba).convert("RGB"), rgba.getchannel("A")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits: 65535 becomes 255 (Pillow's own conversion clips at 255)."""
    import numpy as np

    return Image.fromarray(((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _shift_colour(image: Image.Image, rng: random.Random) -> Image.Image:
    """`color_aug`: in a third of the cases shift the hue by up to 16 degrees or change gamma by up to 5 %."""
    if rng.random() > 0.33:
        return image
    if rng.random() < 0.5:
        shift = round(rng.uniform(-16, 16) / 360 * 256)
        hue, saturation, value = image.convert("HSV").split()
        shifted = hue.point([(level + shift) % 256 for level in range(256)])
        return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")
    gamma = rng.uniform(0.95, 1.05)
    curve = [round(255 * (level / 255) ** gamma) for level in range(256)]
    return image.point(curve * 3)
