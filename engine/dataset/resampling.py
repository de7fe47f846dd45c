"""Scaling pictures: exact area averages where OpenCV's INTER_AREA is meant, Pillow's filters elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


_OPENCV = {"nearest": "nearest", "bilinear": "bilinear", "linear": "bilinear", "bicubic": "bicubic", "cubic": "bicubic"}
"""Kohya's names of OpenCV's kernels, and the same in torch."""


def resize(
    image: Image.Image, size: tuple[int, int], interpolation: str | None, *, opencv: bool = False
) -> Image.Image:
    """Scale an 8-bit L or RGB picture to `size` (width, height).

    Args:
        interpolation: `dataset.resize_interpolation`; None: area when no side grows, else Lanczos (as Kohya).
            "area" with a growing side is bilinear, as in OpenCV.
        opencv: nearest, bilinear and bicubic as OpenCV has them, which leaves pixels out when it shrinks; Pillow's
            look at all of them.
    """
    if image.size == size:
        return image
    shrinks = size[0] <= image.width and size[1] <= image.height
    if interpolation is None:
        interpolation = "area" if shrinks else "lanczos"
    if interpolation == "area":
        return _area(image, size) if shrinks else image.resize(size, Image.Resampling.BILINEAR)
    if opencv and interpolation in _OPENCV:
        return _like_opencv(image, size, _OPENCV[interpolation])
    return image.resize(size, _FILTERS[interpolation])


def _like_opencv(image: Image.Image, size: tuple[int, int], mode: str) -> Image.Image:
    """Kernels of one pixel's width whatever the scale; OpenCV's whole numbers may differ by one level."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    planes = pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]
    corners = {} if mode == "nearest" else {"align_corners": False}
    scaled = torch.nn.functional.interpolate(planes, (size[1], size[0]), mode=mode, **corners)[0]
    levels = scaled.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray((levels[0] if pixels.ndim == 2 else levels.permute(1, 2, 0)).numpy())


def _area(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Each new pixel is the mean over the area it covers, pixels cut by its edge counted by their part.

    Pillow's BOX counts such pixels wholly or not at all.
    """
    import numpy as np

    pixels = np.asarray(image)
    rows = _area_rows(pixels.reshape(pixels.shape[0], -1), size[1]).reshape(size[1], *pixels.shape[1:])
    columns = _area_rows(np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(pixels.shape[1], -1), size[0])
    result = columns.reshape(size[0], size[1], *pixels.shape[2:]).swapaxes(0, 1)
    return Image.fromarray(np.rint(result).astype(np.uint8))


def _area_rows(pixels: np.ndarray, count: int) -> np.ndarray:
    """Average rows [N, M] into [count, M] float32, count <= N."""
    import numpy as np

    height = pixels.shape[0]
    result = np.empty((count, pixels.shape[1]), np.float32)
    for row in range(count):
        # in units of 1/count of a pixel, so that edges are exact
        start, end = row * height, (row + 1) * height
        first, last = start // count, -(-end // count)
        weights = np.array(
            [min(end, (i + 1) * count) - max(start, i * count) for i in range(first, last)], np.float32
        ) / np.float32(height)
        # einsum without BLAS: the same sum whatever the number of threads
        np.einsum("i,ij->j", weights, pixels[first:last].astype(np.float32), out=result[row], optimize=False)
    return result
