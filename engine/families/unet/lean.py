"""diffusers' U-Net blocks without what these models never use: the same values from fewer operations.

diffusers' blocks divide by factors that are 1, ask for options that no Stable Diffusion has, and add into new memory.
Each replaced block has the weights, the names and, for inputs that it does not expect, the forward of its original.

What a block gets enters it through one view, so that the gradients from inside are summed first. With gradient
checkpointing that cannot be otherwise, and so the sums are rounded alike with and without it.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from engine.models.adapted import outputs_of


def use_lean_blocks(unet: nn.Module) -> None:
    """Convert the blocks of a U-Net, in place; those with other options stay."""
    for module in unet.modules():
        if type(module) is ResnetBlock2D and _is_plain_resnet(module):
            module.__class__ = LeanResnet
        elif type(module) is BasicTransformerBlock and _is_plain_block(module):
            module.__class__ = LeanTransformerBlock
        elif type(module) is GEGLU:
            module.__class__ = LeanGEGLU
        elif type(module) is Attention and _is_plain_attention(module):
            module.set_processor(LeanAttention())  # type: ignore[arg-type, no-untyped-call]


def _is_plain_resnet(block: Any) -> bool:
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_emb_proj is not None
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.dropout.p == 0
        and block.output_scale_factor == 1
    )


def _is_plain_block(block: Any) -> bool:
    return (
        block.norm_type == "layer_norm"
        and block.pos_embed is None
        and block.attn2 is not None
        and not block.only_cross_attention
        and not hasattr(block, "fuser")
    )


def _is_plain_attention(attention: Any) -> bool:
    absent = (attention.spatial_norm, attention.group_norm, attention.norm_q, attention.norm_k)
    return (
        isinstance(attention.processor, AttnProcessor2_0)
        and all(part is None for part in absent)
        and not attention.norm_cross
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
        and attention.to_out[1].p == 0
    )


def _sum(made: Tensor, x: Tensor) -> Tensor:
    """The sum, in the memory of `made` where autograd allows that without copies."""
    if torch.compiler.is_compiling() or made._is_view() or made.dtype != x.dtype:
        return made + x
    return made.add_(x)


class LeanResnet(ResnetBlock2D):
    """x + conv2(silu(norm2(conv1(silu(norm1(x))) + time)))."""

    enters_once = True

    def forward(self, input_tensor: Tensor, temb: Tensor, *_: Any) -> Tensor:
        """[B, in, h, w] and the embedding [B, width] of the timestep to [B, out, h, w]."""
        input_tensor = input_tensor.view_as(input_tensor)
        hidden = self.conv1(functional.silu(self.norm1(input_tensor)))
        hidden = hidden + self.time_emb_proj(functional.silu(temb))[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return _sum(hidden, input_tensor)


class LeanTransformerBlock(BasicTransformerBlock):
    """Attention to itself, to the text, and two linear layers; each is added to its input."""

    enters_once = True

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        *others: Any,
        **named: Any,
    ) -> Tensor:
        """[B, tokens, width] and the text [B, length, width] to [B, tokens, width]."""
        if attention_mask is not None or encoder_attention_mask is not None or self._chunk_size is not None:
            masks = (attention_mask, encoder_hidden_states, encoder_attention_mask)
            return super().forward(hidden_states, *masks, *others, **named)
        hidden = hidden_states.view_as(hidden_states)
        text = None if encoder_hidden_states is None else encoder_hidden_states.view_as(encoder_hidden_states)
        hidden = _sum(self.attn1(self.norm1(hidden)), hidden)
        hidden = _sum(self.attn2(self.norm2(hidden), text), hidden)
        return _sum(self.ff(self.norm3(hidden)), hidden)


class LeanAttention(AttnProcessor2_0):
    """Attention without norms, on tokens; a mask is left to diffusers."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *others: Any,
        **named: Any,
    ) -> Tensor:
        """[B, tokens, width], and [B, length, width] of the text or None, to [B, tokens, width]."""
        if attention_mask is not None or hidden_states.dim() != 3:
            inputs = (hidden_states, encoder_hidden_states, attention_mask)
            return super().__call__(attn, *inputs, *others, **named)
        batch, heads = len(hidden_states), attn.heads
        if encoder_hidden_states is None:
            parts = outputs_of((attn.to_q, attn.to_k, attn.to_v), hidden_states)
        else:
            parts = [attn.to_q(hidden_states), *outputs_of((attn.to_k, attn.to_v), encoder_hidden_states)]
        query, key, value = (part.view(batch, -1, heads, part.shape[-1] // heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return result


class LeanGEGLU(GEGLU):
    """One half of a linear layer's output times the GELU of the other (Shazeer 2020)."""

    def forward(self, hidden_states: Tensor, *_: Any) -> Tensor:
        """[..., in] to [..., out]."""
        result: Tensor = _Gated.apply(self.proj(hidden_states))  # type: ignore[no-untyped-call]
        return result


class _Gated(torch.autograd.Function):
    """The two halves of the gradient are written into one tensor, where autograd would join two."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        value, gate = both.chunk(2, dim=-1)
        factor = functional.gelu(gate)
        ctx.save_for_backward(both, factor)
        return value * factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        both, factor = ctx.saved_tensors
        value, gate = both.chunk(2, dim=-1)
        result = torch.empty_like(both)
        to_value, to_gate = result.chunk(2, dim=-1)
        torch.mul(gradient, factor, out=to_value)
        torch.ops.aten.gelu_backward.grad_input(gradient * value, gate, grad_input=to_gate)
        return result
