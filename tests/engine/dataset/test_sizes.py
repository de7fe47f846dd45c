"""The size conditioning of SDXL (facts §3.5)."""

import pytest

from engine.dataset.buckets import Placement
from engine.dataset.sizes import size_conditioning


@pytest.mark.parametrize(
    ("original", "bucket", "flip", "expected"),
    [
        ((640, 480), (576, 448), False, (480, 640, 8, 0, 448, 576)),
        ((640, 480), (576, 448), True, (480, 640, 8, 0, 448, 576)),
        ((1000, 1000), (1024, 1024), False, (1000, 1000, 0, 0, 1024, 1024)),
        ((480, 640), (448, 576), False, (640, 480, 0, 8, 576, 448)),
        ((1000, 2000), (832, 1216), False, (2000, 1000, 0, 112, 1216, 832)),
        ((1000, 2001), (832, 1216), True, (2001, 1000, 0, 112, 1216, 832)),
    ],
)
def test_margins_are_those_of_the_full_image_inside_the_bucket(original, bucket, flip, expected):
    assert size_conditioning(original, Placement(bucket, bucket, (0, 0)), flip=flip) == expected
