"""How diffusers reads a LoRA for SDXL, and a small forward pass; for the check of a saved file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from torch import Tensor, nn

from engine.models.base import LoraReader


class _Loader(StableDiffusionXLLoraLoaderMixin):
    """The part of a pipeline that diffusers' `load_lora_weights` works on."""

    hf_device_map = None
    _lora_scale = 1.0

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = components
        self.unet = components["unet"]
        self.text_encoder = components.get("text_encoder")
        self.text_encoder_2 = components.get("text_encoder_2")


class SDXLReader(LoraReader):
    """See `LoraReader`."""

    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter_name: str) -> None:
        """See `LoraReader.load`."""
        _Loader(components).load_lora_weights(dict(tensors), adapter_name=adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> Tensor:
        """Fixed latents, timestep 500, fixed text and sizes; the text goes through the encoders that have a LoRA."""
        unet: Any = components["unet"].eval()
        generator = torch.Generator().manual_seed(0)
        parameter = next(unet.parameters())
        config = unet.config
        side = max(8, 2 ** (len(config.block_out_channels) - 1))
        latents = torch.randn(1, config.in_channels, side, side, generator=generator)
        text = torch.randn(1, 8, config.cross_attention_dim, generator=generator)
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        pooled = torch.randn(1, width, generator=generator)
        start = 0
        for name in ("text_encoder", "text_encoder_2"):
            encoder: Any = components.get(name)
            if encoder is None:
                continue
            size = encoder.config.hidden_size
            if any(hasattr(layer, "lora_A") for layer in encoder.modules()):
                tokens = torch.arange(min(8, encoder.config.vocab_size))[None].to(next(encoder.parameters()).device)
                output = encoder.eval()(tokens)
                states = output.last_hidden_state.to("cpu", torch.float32)
                text[:, : states.shape[1], start : start + size] = states
                if name == "text_encoder_2":
                    pooled = output.text_embeds
            start += size
        added = {
            "text_embeds": pooled.to(parameter),
            "time_ids": torch.tensor([[512.0, 512, 0, 0, 512, 512]], device=parameter.device),
        }
        timestep = torch.tensor([500], device=parameter.device)
        output = unet(latents.to(parameter), timestep, text.to(parameter), added_cond_kwargs=added)
        return output.sample.float()  # type: ignore[no-any-return]
