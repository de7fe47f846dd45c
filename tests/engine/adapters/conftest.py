"""A tiny U-Net and text encoder of the real SD1.5 classes, and targets named as Kohya names them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.config.schema import NetworkTable, RunConfig
from engine.training.groups import trained_targets
from engine.types import LoraTarget


def targets_of(unet: nn.Module, text_encoder: nn.Module, *, conv: bool = False) -> list[LoraTarget]:
    """The layers that Kohya gives a LoRA, found by the class of the module around them (facts §5.3)."""
    targets = []
    for name, layer in text_encoder.named_modules():
        if isinstance(layer, nn.Linear):
            kohya = "text_model." + name.removeprefix("text_model.")
            targets.append(LoraTarget("text_encoder", name, "lora_te_" + kohya.replace(".", "_"), "linear"))
    for name, layer in unet.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        if ".attentions." in name or (conv and any(part in name for part in (".resnets.", "samplers."))):
            kind = "linear" if isinstance(layer, nn.Linear) else f"conv{layer.kernel_size[0]}x{layer.kernel_size[0]}"
            targets.append(LoraTarget("unet", name, "lora_unet_" + name.replace(".", "_"), kind))
    return targets


@dataclass
class Tiny:
    """Two components, and a network put into them."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    messages: list[str] = field(default_factory=list)

    @property
    def components(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder, "unet": self.unet}

    def attach(
        self,
        *,
        rates: tuple[float, float] = (1e-3, 1e-4),
        conv: bool = False,
        weights: dict[str, torch.Tensor] | None = None,
        seed: int = 0,
        targets: Sequence[LoraTarget] | None = None,
        folds_alpha: bool = False,
        **network: object,
    ) -> AdapterNetwork:
        table = NetworkTable.model_validate({"network_dim": 4, "network_alpha": 2.0, **network})
        chosen = targets_of(self.unet, self.text_encoder, conv=conv) if targets is None else targets
        config = RunConfig().changed(training={"unet_lr": rates[0], "text_encoder_lr": rates[1]})
        config = config.model_copy(update={"network": table})
        return AdapterNetwork.attach(
            Lora(),
            self.components,
            trained_targets(chosen, config, self.messages.append),
            network=table,
            weights=weights,
            generator_seed=seed,
            folds_alpha=folds_alpha,
            log=self.messages.append,
        )

    def forward(self) -> torch.Tensor:
        """The denoiser's output for fixed inputs, through the text encoder."""
        generator = torch.Generator().manual_seed(7)
        tokens = torch.randint(0, 60, (2, 16), generator=generator)
        latents = torch.randn(2, 4, 8, 8, generator=generator).to(self.unet.dtype)
        text = self.text_encoder(tokens).last_hidden_state.to(self.unet.dtype)
        return self.unet(latents, torch.tensor([3, 700]), text).sample


def make_tiny(dtype: torch.dtype = torch.float32) -> Tiny:
    return copy.deepcopy(_built(dtype))


@functools.cache
def _built(dtype: torch.dtype) -> Tiny:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=24,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=63,
            bos_token_id=62,
            pad_token_id=63,
            projection_dim=24,
        )
    )
    nn.Module.to(unet, dtype)  # diffusers' own `to` warns about layers to be kept in fp32 that this model has not
    return Tiny(unet.requires_grad_(False).eval(), text_encoder.to(dtype).requires_grad_(False).eval())


def fill(network: AdapterNetwork, size: float = 0.1, seed: int = 5) -> None:
    """Values as after a training: the up matrices are no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


@pytest.fixture
def tiny() -> Tiny:
    return make_tiny()


@pytest.fixture
def make() -> Callable[..., Tiny]:
    return make_tiny


@pytest.fixture
def filled() -> Callable[..., None]:
    return fill
