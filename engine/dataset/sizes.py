"""SDXL's size conditioning of a training picture, as Kohya computes it (facts: sd-scripts `train_util.py`)."""

from __future__ import annotations

from engine.dataset.buckets import Placement, Size

Sizes = tuple[int, int, int, int, int, int]


def size_conditioning(original: Size, placement: Placement, *, flip: bool = False) -> Sizes:
    """(original height, original width, top, left, bucket height, bucket width), px.

    Top and left are Kohya's and not those of the real crop: the margins that the whole picture would have if it were
    fitted inside the bucket, so they lie on the axis that in reality is not cropped. LoRAs are trained so everywhere;
    640 × 480 in 576 × 448 is really cut by 10 px on the left, and conditioned on (8, 0).

    Args:
        original: (width, height) of the picture before it is scaled.
        flip: the picture is mirrored; left then is counted from the other side.
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
