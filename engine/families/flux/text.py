"""Captions through T5, as FLUX uses it (facts: sd-scripts)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def t5_ids(tokenizer: Any, captions: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """Captions to T5's token ids [B, length] int64, cut and padded, and which of them are text, [B, length] bool."""
    encoding = tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return encoding.input_ids, encoding.attention_mask.bool()


@torch.no_grad()
def t5_states(encoder: Any, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Token ids [B, length] to the last hidden states [B, length, width].

    Args:
        mask: [B, length] bool, true where there is text, so that T5 leaves padding out (`apply_t5_attn_mask`); None:
            padding is read like text. Both as in Kohya's scripts.
    """
    states: Tensor = encoder(ids, attention_mask=None if mask is None else mask.long()).last_hidden_state
    return states
