"""Captions to token ids, and long ones back from their chunks: Kohya's chunks (sd-scripts)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.config.caption_weights import weighted_parts

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
    length = row_length(context, max_token_length)
    rows: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    return _chunked(tokenizer, rows, context)


def row_length(context: int, max_token_length: int) -> int:
    """Ids of a caption in all its chunks, with one start and one end."""
    return max(1, max_token_length // CHUNK) * (context - 2) + 2


def _chunked(tokenizer: Any, rows: Tensor, context: int) -> Tensor:
    """Rows [B, chunks * (context - 2) + 2] as chunks [B, chunks, context]."""
    inside = context - 2
    chunks = (rows.shape[1] - 2) // inside
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


@dataclass(frozen=True)
class Tokens:
    """One caption for one text encoder."""

    ids: Tensor
    """[1, chunks, context] int64."""
    weights: Tensor | None = None
    """[1, chunks * (context - 2) + 2] float32, of each token; None: captions have no weights."""


def tokenise_weighted(tokenizer: Any, caption: str, context: int, max_token_length: int) -> Tokens:
    """A caption with weights (`weighted_parts`); start, end and padding weigh 1.

    Each part is tokenised by itself, as in sd-scripts' `_get_weighted_input_ids`.
    """
    length = row_length(context, max_token_length)
    ids: list[int] = []
    weights: list[float] = []
    for part, weight in weighted_parts(caption):
        own = tokenizer(part, add_special_tokens=False).input_ids
        ids += own
        weights += [weight] * len(own)
    ids, weights = ids[: length - 2], weights[: length - 2]
    padding = length - 2 - len(ids)
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]
    chunks = _chunked(tokenizer, torch.tensor([row]), context)
    return Tokens(chunks, torch.tensor([[1.0, *weights, 1.0, *[1.0] * padding]]))


def weighted(states: Tensor, weights: Tensor | None, *, keep_mean: bool) -> Tensor:
    """Hidden states [B, tokens, width] multiplied by the weights [B, tokens] of their tokens.

    Args:
        weights: None: nothing is changed.
        keep_mean: scale each caption's states back to their mean: so A1111 and the samples of Kohya's scripts, not
            their training. A mean of exactly 0, which no factor restores, is left alone.
    """
    if weights is None:
        return states
    result = states.float() * weights.to(states.device)[..., None]
    if keep_mean:
        before, after = states.float().mean((1, 2), keepdim=True), result.mean((1, 2), keepdim=True)
        result = result * torch.where(after == 0, 1.0, before / after)
    return result.to(states.dtype)


def joined(states: Tensor, batch: int) -> Tensor:
    """Hidden states of chunks [batch * chunks, context, width] as those of whole captions
    [batch, chunks * (context - 2) + 2, width]: the first start, all tokens, the last end."""
    if len(states) == batch:
        return states
    states = states.reshape(batch, -1, *states.shape[1:])
    inside = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], inside, states[:, -1, -1:]], 1)
