"""How diffusers reads a LoRA for Stable Diffusion 1.x, and a small forward pass; for the check of a saved file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
from torch import Tensor, nn

from engine.models.base import LoraReader


class _Loader(StableDiffusionLoraLoaderMixin):
    """The part of a pipeline that diffusers' `load_lora_weights` works on."""

    hf_device_map = None
    _lora_scale = 1.0

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = components
        self.unet = components["unet"]
        self.text_encoder = components.get("text_encoder")


class SD15Reader(LoraReader):
    """See `LoraReader`."""

    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter_name: str) -> None:
        """See `LoraReader.load`."""
        _Loader(components).load_lora_weights(dict(tensors), adapter_name=adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> Tensor:
        """Fixed latents, timestep 500, and fixed text: run through the text encoder only when that has a LoRA."""
        unet: Any = components["unet"].eval()
        generator = torch.Generator().manual_seed(0)
        side = max(8, 2 ** (len(unet.config.block_out_channels) - 1))
        latents = torch.randn(1, unet.config.in_channels, side, side, generator=generator)
        encoder: Any = components.get("text_encoder")
        parameter = next(unet.parameters())
        if encoder is not None and any(hasattr(layer, "lora_A") for layer in encoder.modules()):
            tokens = torch.arange(min(8, encoder.config.max_position_embeddings, encoder.config.vocab_size))[None]
            text = encoder.eval()(tokens.to(next(encoder.parameters()).device)).last_hidden_state
        else:
            text = torch.randn(1, 8, unet.config.cross_attention_dim, generator=generator)
        timestep = torch.tensor([500], device=parameter.device)
        return unet(latents.to(parameter), timestep, text.to(parameter)).sample.float()  # type: ignore[no-any-return]
