"""From a decoded sample to an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from engine.errors import TrainingError
from engine.models.placement import DevicePlacement
from engine.types import SampleRequest


@contextmanager
def in_tiles(vae: Any, placement: DevicePlacement) -> Iterator[None]:
    """Context in which the VAE decodes tile by tile, alone on the device. Seams may differ slightly."""
    vae.enable_tiling()
    try:
        with placement.on_host("denoiser"), placement.on_device("vae"):
            yield
    finally:
        vae.disable_tiling()


def sample_image(pixels: Tensor, latents: Tensor, request: SampleRequest) -> Image.Image:
    """The image of pixels [3, H, W] in [-1, 1] that were decoded from `latents`.

    Raises:
        TrainingError: it has values that are not finite; names the denoiser or the VAE as the cause.
    """
    if not bool(torch.isfinite(pixels).all()):
        where = "the VAE" if bool(torch.isfinite(latents).all()) else "the denoiser"
        raise TrainingError(
            f"The sample image of {request.prompt!r} is not finite: {where} overflowed.",
            "Set model.no_half_vae, or bf16 instead of fp16." if where == "the VAE" else "Lower the learning rate.",
            code="sample-not-finite",
        )
    levels = ((pixels + 1) * 127.5).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy(), "RGB")
