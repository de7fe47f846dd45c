"""The names inside a LoRA file in Kohya's format (facts: sd-scripts `networks/lora.py`). Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from engine.errors import ModelError
from engine.text import printable

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
PARTS = (DOWN, UP, ALPHA)
"""The three tensors of a module."""

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")

T = TypeVar("T")


def is_peft(keys: Iterable[str]) -> bool:
    """Whether a file of these keys is a LoRA for a transformer in diffusers' and peft's format."""
    return any(key.startswith("transformer.") and ".lora_A." in key for key in keys)


def by_module(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """{"lora_unet_...": {"lora_down.weight": tensor, ...}} from a flat mapping, in the order of the mapping.

    Raises:
        ModelError: a key is not of Kohya's format.
    """
    modules: dict[str, dict[str, T]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part not in PARTS or not name.startswith(PREFIXES):
            raise ModelError(
                f"The LoRA to start from has the key {printable(key)}, which no LoRA in Kohya's format has.",
                "network_weights takes a LoRA in Kohya's format (keys lora_unet_... and lora_te_...).",
            )
        modules.setdefault(name, {})[part] = tensor
    return modules
