"""How diffusers reads a LoRA for a U-Net, and a small forward pass; for the check of a saved file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from torch import Tensor, nn
from typing_extensions import override

from engine.families.base import LoraReader
from engine.models.adapted import is_adapted


class _Loader:
    """The part of a pipeline that diffusers' `load_lora_weights` works on."""

    hf_device_map = None
    _lora_scale = 1.0

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = components
        self.unet = components["unet"]
        self.text_encoder = components.get("text_encoder")
        self.text_encoder_2 = components.get("text_encoder_2")


class _SD15Loader(_Loader, StableDiffusionLoraLoaderMixin):
    pass


class _SDXLLoader(_Loader, StableDiffusionXLLoraLoaderMixin):
    pass


class SD15Reader(LoraReader):
    """Reads LoRAs for SD 1.x."""

    loader: type[_SD15Loader | _SDXLLoader] = _SD15Loader

    @override
    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter_name: str) -> None:
        self.loader(components).load_lora_weights(dict(tensors), adapter_name=adapter_name)

    @override
    def load_file(self, components: Mapping[str, nn.Module], path: Path, adapter_name: str) -> None:
        self.loader(components).load_lora_weights(str(path), adapter_name=adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> Tensor:
        """Fixed latents, timestep 500, and fixed text, which goes through the encoders that have a LoRA."""
        unet: Any = components["unet"].eval()
        generator = torch.Generator().manual_seed(0)
        parameter = next(unet.parameters())
        side = max(8, 2 ** (len(unet.config.block_out_channels) - 1))
        latents = torch.randn(1, unet.config.in_channels, side, side, generator=generator)
        text = torch.randn(1, 8, unet.config.cross_attention_dim, generator=generator)
        pooled, start = None, 0
        for name in ("text_encoder", "text_encoder_2"):
            encoder: Any = components.get(name)
            if encoder is None:
                continue
            size = encoder.config.hidden_size
            if any(map(is_adapted, encoder.modules())):
                tokens = torch.arange(min(8, encoder.config.max_position_embeddings, encoder.config.vocab_size))[None]
                output = encoder.eval()(tokens.to(next(encoder.parameters()).device))
                states = output.last_hidden_state.to("cpu", torch.float32)
                text[:, : states.shape[1], start : start + size] = states
                pooled = getattr(output, "text_embeds", None)
            start += size
        timestep = torch.tensor([500], device=parameter.device)
        more = self.conditions(unet, pooled, generator)
        return unet(latents.to(parameter), timestep, text.to(parameter), **more).sample.float()  # type: ignore[no-any-return]

    def conditions(self, unet: Any, pooled: Tensor | None, generator: torch.Generator) -> dict[str, Any]:
        """Additional inputs of the U-Net.

        Args:
            pooled: [1, width] of a text encoder that has a LoRA.
        """
        return {}


class SDXLReader(SD15Reader):
    """Reads LoRAs for SDXL."""

    loader = _SDXLLoader

    def conditions(self, unet: Any, pooled: Tensor | None, generator: torch.Generator) -> dict[str, Any]:
        """Pooled text and sizes."""
        config, parameter = unet.config, next(unet.parameters())
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        if pooled is None:
            pooled = torch.randn(1, width, generator=generator)
        sizes = torch.tensor([[512.0, 512, 0, 0, 512, 512]], device=parameter.device)
        return {"added_cond_kwargs": {"text_embeds": pooled.to(parameter), "time_ids": sizes}}
