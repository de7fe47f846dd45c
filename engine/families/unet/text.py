"""Captions to token ids, and long ones back from their chunks: Kohya's chunks (sd-scripts)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK = 75
"""Tokens of a caption that one pass of CLIP takes; max_token_length counts in these."""


def context_length(tokenizer: Any, text_encoder: Any) -> int:
    """Ids in one pass, start and end included: the tokenizer's limit, at most what the encoder has positions for."""
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def tokenise(tokenizer: Any, captions: Sequence[str], context: int, max_token_length: int) -> Tensor:
    """Captions to token ids [B, chunks, context] int64.

    A long caption is cut at `chunks * (context - 2)` tokens; each chunk is start, its tokens, and the last id of the
    long row. With a padding id other than the end id, a chunk that is full ends in the end id, and one that is
    empty begins with it.
    """
    chunks = max(1, max_token_length // CHUNK)
    inside = context - 2
    rows: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=chunks * inside + 2, return_tensors="pt"
    ).input_ids
    if chunks == 1:
        return rows[:, None]
    start, end = rows[:, :1], rows[:, -1:]
    pieces = [torch.cat([start, rows[:, 1 + n * inside : 1 + (n + 1) * inside], end], 1) for n in range(chunks)]
    ids = torch.stack(pieces, 1)
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        full = (ids[..., -2] != tokenizer.eos_token_id) & (ids[..., -2] != tokenizer.pad_token_id)
        ids[..., -1][full] = tokenizer.eos_token_id
        ids[..., 1][ids[..., 1] == tokenizer.pad_token_id] = tokenizer.eos_token_id
    return ids


def joined(states: Tensor, batch: int) -> Tensor:
    """Hidden states of chunks [batch * chunks, context, width] as those of whole captions
    [batch, chunks * (context - 2) + 2, width]: the first start, all tokens, the last end."""
    if len(states) == batch:
        return states
    states = states.reshape(batch, -1, *states.shape[1:])
    inside = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], inside, states[:, -1, -1:]], 1)
