"""diffusers' FLUX attention with fewer operations: queries, keys and values together, rotations as complex products."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor, FluxPosEmbed
from torch import Tensor, nn
from torch.nn import functional

from engine.models.adapted import outputs_of


def use_lean_attention(transformer: nn.Module) -> None:
    """Convert a transformer's attention, in place; both parts of it belong together."""
    for module in transformer.modules():
        if type(module) is FluxPosEmbed:
            module.__class__ = ComplexPositions
        elif isinstance(module, FluxAttention):
            module.set_processor(LeanAttention())  # type: ignore[arg-type, no-untyped-call]


class ComplexPositions(FluxPosEmbed):
    """The rotation of each pair of a head's values, by position, as complex numbers of length 1."""

    def forward(self, ids: Tensor) -> Tensor:
        """Positions [tokens, axes] to [tokens, head / 2], complex64."""
        cosine, sine = super().forward(ids)
        return torch.complex(cosine[:, ::2].float(), sine[:, ::2].float())


class LeanAttention(FluxAttnProcessor):
    """Attention over image and text tokens. In blocks of one stream they come as one sequence, and leave so."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> Any:
        """[B, tokens, width], and of the text [B, length, width] or None; returns the same.

        Args:
            attention_mask: as `scaled_dot_product_attention` takes it.
            image_rotary_emb: as `ComplexPositions` gives it.
        """
        query, key, value = _heads(attn, (attn.to_q, attn.to_k, attn.to_v), hidden_states)
        query, key = attn.norm_q(query), attn.norm_k(key)
        length = 0
        if encoder_hidden_states is not None:
            length = encoder_hidden_states.shape[1]
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text = _heads(attn, layers, encoder_hidden_states)
            text = (attn.norm_added_q(text[0]), attn.norm_added_k(text[1]), text[2])
            query, key, value = (torch.cat(pair, dim=1) for pair in zip(text, (query, key, value), strict=True))
        if image_rotary_emb is not None:
            query, key = (rotated(part, image_rotary_emb) for part in (query, key))
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, attention_mask).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return mixed
        text_part, image_part = mixed.split_with_sizes([length, mixed.shape[1] - length], dim=1)
        return attn.to_out[0](image_part.contiguous()), attn.to_add_out(text_part.contiguous())


def _heads(attn: Any, layers: tuple[Any, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Each layer's output [B, tokens, heads, width of a head]."""
    return tuple(output.view(*output.shape[:-1], -1, attn.head_dim) for output in outputs_of(layers, x))


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """Each pair of values turned by its angle (Su et al. 2021), computed in float32.

    Args:
        x: [B, tokens, heads, width]; the result has its dtype.
        rotation: [tokens, width / 2] complex64.
    """
    result: Tensor = _Rotated.apply(x, rotation)  # type: ignore[no-untyped-call]
    return result


def _turned(x: Tensor, rotation: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).to(x.dtype)


class _Rotated(torch.autograd.Function):
    """Backwards it is the rotation by the negative angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rotation)
        return _turned(x, rotation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rotation,) = ctx.saved_tensors
        return _turned(gradient, rotation.conj()), None
