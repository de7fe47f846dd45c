"""Scaling images: exact area averages for OpenCV's INTER_AREA, Pillow's filters otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

_STRIP = 64
"""Rows of an image that are turned into an array at once: so few that they stay in the processor's cache."""
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


def resize(
    image: Image.Image, size: tuple[int, int], interpolation: str | None, *, opencv: bool = False
) -> Image.Image:
    """Scale an 8-bit L or RGB image to `size` (width, height).

    Args:
        interpolation: `dataset.resize_interpolation`; None: area when no side grows, else Lanczos (as Kohya).
            "area" with a growing side is Pillow's bilinear filter.
        opencv: area, nearest, bilinear and bicubic as OpenCV computes them. Its kernels skip pixels when an image
            shrinks; Pillow's use all of them. Equal to the byte, except for bicubic (one level in 0.2 % of the
            values) and area (one level in 0.02 %), where OpenCV adds in float32 in another order.
    """
    if image.size == size:
        return image
    shrinks = size[0] <= image.width and size[1] <= image.height
    if interpolation is None:
        interpolation = "area" if shrinks else "lanczos"
    if interpolation == "area" and not shrinks:
        return _linear(image, size, area=True) if opencv else image.resize(size, Image.Resampling.BILINEAR)
    if interpolation == "area":
        return _halved(image) if opencv and (size[0] * 2, size[1] * 2) == image.size else _area(image, size)
    kernel = _OPENCV.get(interpolation) if opencv else None
    return kernel(image, size) if kernel else image.resize(size, _FILTERS[interpolation])


def _nearest(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """OpenCV's INTER_NEAREST_EXACT: positions in 1/65536 of a pixel, with its rounding (resizeNN_bitexact)."""
    import numpy as np

    def source_indices(old: int, new: int) -> np.ndarray:
        step = ((old << 16) + new // 2) // new
        return ((step * np.arange(new, dtype=np.int64) + (step // 2 - old % 2)) >> 16).clip(0, old - 1)

    pixels = np.asarray(image)
    return Image.fromarray(pixels[source_indices(image.height, size[1])][:, source_indices(image.width, size[0])])


def _bicubic(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """OpenCV's INTER_CUBIC: the kernel has a fixed width in source pixels at any scale."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    planes = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(planes, (size[1], size[0]), mode="bicubic", align_corners=False)[0]
    levels = scaled.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray((levels[0] if pixels.ndim == 2 else levels.permute(1, 2, 0)).numpy())


def _linear(image: Image.Image, size: tuple[int, int], *, area: bool = False) -> Image.Image:
    """OpenCV's INTER_LINEAR for 8 bits, in its fixed-point arithmetic; with `area` its INTER_AREA for a growing side.

    Two neighbours per pixel, weights in 1/2048, sums cut to 16 bits between the two directions (resize.cpp of OpenCV).
    """
    import numpy as np

    pixels = np.asarray(image).astype(np.int32)
    first, share = _places(pixels.shape[1], size[0], area)
    last = pixels.shape[1] - 1
    share = np.where((first < 0) | (first >= last), np.float32(0), share)
    left, right = first.clip(0, last), (first + 1).clip(0, last)
    near, far = (weight.reshape(-1, *[1] * (pixels.ndim - 2)) for weight in _weights(share))
    across = (pixels[:, left] * near + pixels[:, right] * far) >> 4
    first, share = _places(pixels.shape[0], size[1], area)  # positions outside keep their two weights here
    last = pixels.shape[0] - 1
    above, below = first.clip(0, last), (first + 1).clip(0, last)
    near, far = (weight.reshape(-1, *[1] * (pixels.ndim - 1)) for weight in _weights(share))
    levels = (((across[above] * near) >> 16) + ((across[below] * far) >> 16) + 2) >> 2
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def _places(old: int, new: int, area: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each of `new` positions the `old` pixel before it, int64 [new], and the distance to it, float32 [new]."""
    import numpy as np

    scale, places = old / new, np.arange(new)
    if not area:
        exact = ((places + 0.5) * scale - 0.5).astype(np.float32)
        first = np.floor(exact).astype(np.int64)
        return first, exact - first.astype(np.float32)
    first = np.floor(places * scale).astype(np.int64)
    share = (places + 1 - (first + 1) * (new / old)).astype(np.float32)
    return first, np.where(share <= 0, np.float32(0), share - np.floor(share))


def _weights(share: np.ndarray) -> list[np.ndarray]:
    """The weights of the pixels before and after a position, in 1/2048."""
    import numpy as np

    return [np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - share, share)]


def _halved(image: Image.Image) -> Image.Image:
    """The mean of each 2 x 2 pixels, halves rounded up, as OpenCV does for exactly this scale."""
    import numpy as np

    pixels = np.asarray(image).astype(np.uint16)
    rows = pixels[0::2] + pixels[1::2]
    return Image.fromarray(((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8))


_OPENCV = {"nearest": _nearest, "bilinear": _linear, "linear": _linear, "bicubic": _bicubic, "cubic": _bicubic}
"""The kernels that Kohya's scripts use from OpenCV; lanczos and box are Pillow's."""


def _area(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Each new pixel is the mean over the area it covers, with pixels at its edge weighted by overlap.

    Pillow's BOX counts such pixels fully or not at all.
    """
    import numpy as np

    width, height = size
    bands = len(image.getbands())
    rows = np.empty((height, image.width * bands), np.float32)
    step = max(1, _STRIP * height // image.height)
    for first in range(0, height, step):
        last = min(first + step, height)
        top, bottom = first * image.height // height, -(-last * image.height // height)
        strip = np.asarray(image.crop((0, top, image.width, bottom))).reshape(bottom - top, -1)
        _average_rows(strip, rows, range(first, last), image.height, top)
    across = np.ascontiguousarray(rows.reshape(height, image.width, bands).swapaxes(0, 1)).reshape(image.width, -1)
    columns = np.empty((width, height * bands), np.float32)
    _average_rows(across, columns, range(width), image.width, 0)
    result = columns.reshape(width, height, bands).swapaxes(0, 1)
    return Image.fromarray(np.rint(result[..., 0] if bands == 1 else result).astype(np.uint8))


def _average_rows(pixels: np.ndarray, result: np.ndarray, chosen: range, height: int, top: int) -> None:
    """Average rows of an image into the chosen rows of `result`, [N, M] float32.

    Args:
        pixels: rows of the image, [H, M], that the chosen rows cover.
        height: rows of the whole image, N <= height.
        top: the number of the first row in `pixels`.
    """
    import numpy as np

    count = len(result)
    for row in chosen:
        # in units of 1/count of a pixel, so that edges are exact
        start, end = row * height, (row + 1) * height
        first, last = start // count, -(-end // count)
        weights = np.array(
            [min(end, (i + 1) * count) - max(start, i * count) for i in range(first, last)], np.float32
        ) / np.float32(height)
        # einsum without BLAS: the sum does not depend on the number of threads
        np.einsum(
            "i,ij->j", weights, pixels[first - top : last - top].astype(np.float32), out=result[row], optimize=False
        )
