"""Kohya's names of the LoRA modules of one kind of model. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class ModuleTable:
    """The modules that Kohya makes for a kind of model."""

    attention: Mapping[str, tuple[str, ...]]
    """Component, as `inspect_lora` calls it, to its modules without convolutions; the denoiser first."""
    convolutions: tuple[str, ...] = ()
    """Additional modules of the denoiser: with conv_dim, or in_dims."""
    outside: tuple[str, ...] = ()
    """Further layers that other programs train and readers accept."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Every module."""
        return frozenset([*(name for names in self.attention.values() for name in names), *self.convolutions])

    def resolve(self, name: str) -> str | None:
        """Kohya's name of the module with this name in a file; None if the model has no such layer."""
        return name if name in self.names or name in self.outside else None

    def counts(self, modules: frozenset[str], components: frozenset[str]) -> dict[str, int]:
        """How many modules a complete file has, for the components that `modules` belong to."""
        more = len(self.convolutions) if modules & set(self.convolutions) else 0
        denoiser = next(iter(self.attention))
        return {
            title: len(names) + (more if title == denoiser else 0)
            for title, names in self.attention.items()
            if title in components
        }


def clip_names(prefix: str, layers: int) -> list[str]:
    """The modules of one CLIP text encoder.

    Args:
        prefix: Kohya's: "lora_te1_".
    """
    parts = [f"self_attn_{part}_proj" for part in ("k", "v", "q", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"{prefix}text_model_encoder_layers_{layer}_{part}" for layer in range(layers) for part in parts]
