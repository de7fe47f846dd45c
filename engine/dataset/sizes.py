"""SDXL's size conditioning of a training image, as Kohya computes it (facts: sd-scripts `train_util.py`)."""

from __future__ import annotations

from engine.dataset.buckets import Placement, Size

Sizes = tuple[int, int, int, int, int, int]


def size_conditioning(original: Size, placement: Placement, *, flip: bool = False) -> Sizes:
    """(original height, original width, top, left, bucket height, bucket width), px.

    Top and left are Kohya's, not those of the actual crop: the margins of the full image if it were fitted inside the
    bucket, so they are on the axis that is not cropped. LoRAs are trained this way everywhere; 640 × 480 in
    576 × 448 is cropped by 10 px on the left, and conditioned on (8, 0).

    Args:
        original: (width, height) of the image before it is scaled.
        flip: the image is mirrored; left is then counted from the other side.
    """
    (width, height), (bucket_width, bucket_height) = original, placement.bucket
    ratio = width / height
    if bucket_width / bucket_height > ratio:
        inside_width, inside_height = bucket_height * ratio, float(bucket_height)
    else:
        inside_width, inside_height = float(bucket_width), bucket_width / ratio
    left, top = (bucket_width - inside_width) // 2, (bucket_height - inside_height) // 2
    if flip:
        left = bucket_width - (left + inside_width)
    return height, width, int(top), int(left), bucket_height, bucket_width
