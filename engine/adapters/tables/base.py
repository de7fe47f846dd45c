"""What is known of the LoRA modules of one kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The modules that Kohya makes for a kind of model."""

    attention: Mapping[str, tuple[str, ...]]
    """Component, as `inspect_lora` calls it, to its modules without convolutions."""
    convolutions: tuple[str, ...] = ()
    """Modules of the denoiser that come besides: with conv_dim, in FLUX with in_dims."""

    @property
    def names(self) -> frozenset[str]:
        """Every module."""
        return frozenset([*(name for names in self.attention.values() for name in names), *self.convolutions])

    def counts(self, modules: frozenset[str], components: frozenset[str]) -> dict[str, int]:
        """How many modules a complete file has, for the components that `modules` belong to."""
        more = len(self.convolutions) if modules & set(self.convolutions) else 0
        return {
            title: len(names) + (more if title in ("UNet", "transformer") else 0)
            for title, names in self.attention.items()
            if title in components
        }
