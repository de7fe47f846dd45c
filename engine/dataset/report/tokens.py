"""Caption lengths in tokens of the text encoder. Loads no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.config.caption_weights import weighted_parts
from engine.dataset.trigger import count_tokens
from engine.families.base import CaptionTokens
from engine.families.registry import family_named

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.types import Recognition


def token_counter(config: RunConfig, recognition: Recognition | None) -> CaptionTokens | None:
    """The token counter of a run, with its tokenizer; CLIP's if the family is unknown; None if the family's tokenizer
    is not on this machine.

    Raises:
        ModelError: a tokenizer cannot be read.
    """
    folder = config.model.pretrained_model_name_or_path
    weighted = config.model.weighted_captions

    def count(text: str) -> int:
        parts = [part for part, _ in weighted_parts(text)] if weighted else [text]
        return sum(count_tokens(part, folder) for part in parts)

    clip = CaptionTokens(count, config.model.max_token_length)
    if recognition is None:
        return clip
    return family_named(recognition.family).caption_tokens(config, recognition, clip)
