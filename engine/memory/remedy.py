"""What a remedy is, and the situation that it is for. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.config import RunConfig
from engine.hardware import Gpu


@dataclass(frozen=True)
class Remedy:
    """One way to need less memory, or to have more."""

    name: str
    title: str
    why: str
    """One sentence."""
    saves: str
    """An estimate in words."""
    costs: str
    """In time and quality."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """Dotted keys and their new values, as `prepare_resume` takes them; empty: the person acts."""


@dataclass(frozen=True)
class Situation:
    """Where memory ran out, or may."""

    config: RunConfig
    """As it really runs."""
    gpu: Gpu | None
    """None: on the CPU."""
    phase: str

    @property
    def trains(self) -> bool:
        """Whether it is the training step that needs the memory."""
        return self.phase == "train"

    @property
    def encodes_text_once(self) -> bool:
        """Whether no step changes what a caption is encoded to."""
        return self.config.network.network_train_unet_only or self.config.training.rates[1] == 0

    @property
    def new_pixels(self) -> bool:
        """Whether pictures get new pixels in every step, so that no latent can be kept."""
        return self.config.dataset.color_aug or self.config.dataset.random_crop
