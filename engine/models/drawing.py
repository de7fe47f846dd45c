"""From a decoded sample to a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from engine.errors import TrainingError
from engine.models.base import SampleRequest
from engine.models.residence import Residence


@contextmanager
def in_tiles(vae: Any, residence: Residence) -> Iterator[None]:
    """Within it the VAE decodes tile by tile, alone on the device. Seams may differ slightly."""
    vae.enable_tiling()
    try:
        with residence.without("denoiser"), residence.present("vae"):
            yield
    finally:
        vae.disable_tiling()


def finished(pixels: Tensor, latents: Tensor, request: SampleRequest) -> Image.Image:
    """The picture of pixels [3, H, W] in [-1, 1] that were decoded from `latents`.

    Raises:
        TrainingError: it has values that are not finite; says whether the denoiser or the VAE gave them.
    """
    if not bool(torch.isfinite(pixels).all()):
        where = "drawing" if bool(torch.isfinite(latents).all()) is False else "the VAE"
        raise TrainingError(
            f"The sample picture of {request.prompt!r} is not finite: {where} overflowed.",
            "Set model.no_half_vae, or bf16 in place of fp16." if where == "the VAE" else "Lower the learning rate.",
        )
    levels = ((pixels + 1) * 127.5).round().to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy(), "RGB")
