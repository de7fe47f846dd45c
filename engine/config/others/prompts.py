"""Prompts of other trainers as lines in Kohya's syntax."""

from __future__ import annotations

from typing import Any

from engine.config.kohya.argument_values import integer_of, number_of


def prompt_line(
    prompt: str,
    *,
    negative: Any = "",
    width: Any = None,
    height: Any = None,
    seed: Any = None,
    steps: Any = None,
    guidance: Any = None,
    sampler: str = "",
    flux: bool = False,
) -> str:
    """One prompt with its settings; a value of another type is left out, and the run's own counts.

    Args:
        guidance: of the guidance embedding for FLUX, else of classifier-free guidance.
        sampler: Kohya's name; "": that of the run.
    """
    parts = [prompt]
    if isinstance(negative, str) and negative.strip() and not flux:
        parts.append(f"--n {negative}")
    numbers = {"w": integer_of(width), "h": integer_of(height), "d": integer_of(seed), "s": integer_of(steps)}
    parts += [f"--{flag} {value}" for flag, value in numbers.items() if value is not None and value >= 0]
    scale = number_of(guidance)
    if scale is not None:
        parts.append(f"--{'g' if flux else 'l'} {scale:g}")
    if sampler and not flux:
        parts.append(f"--ss {sampler}")
    return " ".join(" ".join(part.split()) for part in parts)
