"""The names inside a LoRA file in Kohya's format (facts: sd-scripts `networks/lora.py`). Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from engine.errors import ModelError
from engine.text import printable

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"
PARTS = (DOWN, UP, ALPHA)
"""Ends of the keys of a module's three tensors."""

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")

T = TypeVar("T")


def by_module(tensors: Mapping[str, T], parts: Sequence[str] = PARTS) -> dict[str, dict[str, T]]:
    """{"lora_unet_...": {"lora_down.weight": tensor, ...}} from a flat mapping, in the order of the mapping.

    Args:
        parts: ends of the keys of a module.

    Raises:
        ModelError: a key is not in Kohya's format.
    """
    modules: dict[str, dict[str, T]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        if part not in parts or not name.startswith(PREFIXES):
            raise ModelError(
                f"The LoRA to start from has the key {printable(key)}, which no LoRA in Kohya's format has.",
                "Use another copy of the file.",
                code="lora-unknown-key",
            )
        modules.setdefault(name, {})[part] = tensor
    return modules


def misread_by_diffusers(alphas: Mapping[str, float], *, denoiser: bool) -> list[str]:
    """The modules of one component of a U-Net family for which diffusers (0.42) does not use the file's alpha.

    Where a component's alphas are not all equal, it uses the most frequent one for attention layers (their names are
    converted wrongly), and since transformers 5.6 for all of a text encoder.

    Args:
        alphas: by Kohya's name.
        denoiser: whether the component is the U-Net.
    """
    first, *others = Counter(alphas.values()).most_common(2)
    tie = bool(others) and others[0][1] == first[1]
    affected = [name for name in alphas if not denoiser or "_attn" in name]
    return [name for name in affected if tie or alphas[name] != first[0]]
