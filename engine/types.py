"""Types that all packages share. Imports nothing from the engine, and no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

PredictionType = Literal["epsilon", "v_prediction", "flow"]
Part = Literal["vae", "text_encoder", "denoiser"]
"""What moves between host and device as a unit; "text_encoder" means all text encoders of a model."""
Log = Callable[[str], None]
"""Logs one decision with its reason."""
Progress = Callable[[int, int], object]
"""Called with (done, total)."""


class Sharing(Protocol):
    """The ranks of a run, as caches use them: each fills a part, and gets from the others what it lacks."""

    rank: int
    size: int

    def gather(self, value: Any) -> list[Any]:
        """The value of each rank, on every rank."""

    def share(self, missing: Sequence[str], load: Callable[[str], Any], save: Callable[[str, Any], None]) -> None:
        """Save here, under the keys in `missing`, what another rank has under them."""


@dataclass(frozen=True)
class Recognition:
    """What a checkpoint is, read from its headers and configuration files only (no torch, no tensors)."""

    family: str
    path: Path
    layout: Literal["diffusers", "single_file", "configurations"]
    """"configurations": those that ship with the program, without weights; for plans."""
    prediction_type: PredictionType
    zero_terminal_snr: bool
    dtype: str
    """Number format of most weights: "fp16", "bf16", "fp32", "fp8"."""
    size: int
    """Bytes on disk."""
    reasons: tuple[str, ...] = ()
    """One sentence for each decision: "prediction type epsilon: scheduler_config.json"."""
    details: Mapping[str, Any] = field(default_factory=dict)
    downscale: int = 8
    """Pixels a latent cell is wide (FLUX: a patch of 2 × 2): what a single training size must be a multiple of."""
    multiple: int = 64
    """Pixels that bucket sides must be a multiple of, so that every level of the U-Net divides evenly."""
    latent_channels: int = 4
    """Numbers in a latent cell."""
    caption_bytes: int = 0
    """Bytes of an encoded caption in the cache, where that is worth reporting."""


@dataclass(frozen=True)
class LoraTarget:
    """One layer that takes a LoRA."""

    component: str
    """"unet", "text_encoder", ...: a key of `Model.trainable`."""
    path: str
    """Module path inside the component, as `named_modules()` gives it."""
    kohya_name: str
    """Its name in Kohya's file format, "lora_unet_..."."""
    kind: Literal["linear", "conv1x1", "conv3x3", "norm"]
    more: tuple[str, ...] = ()
    """Where one layer of Kohya's is several here, all with the same input: the paths of the others. The outputs
    of `path` and of these, concatenated, are the rows of Kohya's layer."""
    is_split: bool = False
    """Whether each of these layers has an adapter of its own in training; in a file they are one."""

    @property
    def is_denoiser(self) -> bool:
        """Whether it is in the denoiser, and so is trained with unet_lr; all others are in text encoders."""
        return self.kohya_name.startswith("lora_unet_")

    @property
    def paths(self) -> tuple[str, ...]:
        """Every layer of it, in the order of the rows."""
        return (self.path, *self.more)


@dataclass(frozen=True)
class SampleRequest:
    """One image to generate."""

    prompt: str
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    seed: int = 0
    steps: int = 28
    scale: float = 7.0
    """Classifier-free guidance; none at 1."""
    sampler: str = "ddim"
    guidance: float = 3.5
    """Value of the guidance embedding (FLUX dev); other families have none."""
