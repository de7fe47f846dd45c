"""A remedy for an out-of-memory, and its context. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.config.resolve import ResolvedConfig
from engine.families.resolved import ResolvedRun
from engine.hardware import Gpu
from engine.runs.phase import Phase


@dataclass(frozen=True)
class Remedy:
    """A change that needs less memory, or frees some."""

    name: str
    title: str
    why: str
    """One sentence."""
    saves: str
    """An estimate in words."""
    costs: str
    """In time and quality."""
    changes: Mapping[str, object] = field(default_factory=dict)
    """Dotted keys and their new values, as `prepare_resume` takes them; empty: the user has to act."""


@dataclass(frozen=True)
class OomContext:
    """Where memory ran out, or may."""

    run: ResolvedRun
    gpu: Gpu | None
    """None: on the CPU."""
    phase: str

    @property
    def config(self) -> ResolvedConfig:
        """The resolved settings. Changes are made in the written ones, where rules may decide some of these."""
        return self.run.config

    @property
    def trains(self) -> bool:
        """Whether the memory ran out in the training step."""
        return self.phase == Phase.TRAIN

    @property
    def encodes_text_once(self) -> bool:
        """Whether no step changes what a caption is encoded to."""
        return self.config.network.network_train_unet_only or self.config.training.rates[1] == 0

    @property
    def new_pixels(self) -> bool:
        """Whether augmentation gives images new pixels in every step, so that latents cannot be cached."""
        table = self.config.dataset
        return table.color_aug or table.random_crop or table.crops_faces
