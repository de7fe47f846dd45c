"""A small FLUX and a small U-Net of the real classes with LoRA layers, for the tests of the memory ladder."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.config.memory import MemoryTable
from engine.config.schema import NetworkTable
from engine.config.values import BasePrecision
from engine.families.unet.lean import use_lean_blocks
from engine.lowmem.base_precision import Quantizer
from engine.lowmem.settings import apply_memory_settings
from engine.models.placement import DevicePlacement
from engine.types import LoraTarget

BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "transformer_blocks.", "single_transformer_blocks.")
"""Of both denoisers: what is quantised."""


@dataclass
class Small:
    """Stands in for a `Model` whose denoiser has random weights."""

    denoiser: Any
    blocks: list[nn.Module]
    inputs: Callable[[torch.dtype], dict[str, Tensor]]
    device: torch.device
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = "unet" if hasattr(self.denoiser, "down_blocks") else "transformer"
        self.trainable = {name: self.denoiser}
        self.placement = DevicePlacement({"denoiser": [self.denoiser]}, self.device)

    def climb(self, **memory: object) -> Small:
        """Apply `[memory]`, bring it to its device, and put LoRA into every layer of the blocks that takes one."""
        table = MemoryTable.model_validate(memory)
        self.quantise(table.base_precision)
        apply_memory_settings(self, table, self.messages.append)  # type: ignore[arg-type]
        self.placement.acquire("denoiser")
        (name,) = self.trainable
        inside = {layer for block in self.blocks for layer in block.modules()}
        targets = [
            LoraTarget(name, path, f"lora_unet_{path.replace('.', '_')}", _kind(layer))
            for path, layer in self.denoiser.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer in inside
        ]
        network = NetworkTable(network_dim=4, network_alpha=4.0, conv_dim=4)
        self.network = AdapterNetwork.attach(
            Lora(), self.trainable, targets, network=network, generator_seed=1, log=self.messages.append
        )
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        self.denoiser.train()
        return self

    def quantise(self, precision: BasePrecision) -> Small:
        """Give the blocks that number format."""
        quantizer = Quantizer(self.denoiser, precision, torch.device("cpu"), BLOCKS)
        quantizer.quantize_all()
        quantizer.log_summary(next(iter(self.trainable)), torch.float32, self.messages.append)
        return self

    def predict(self) -> Tensor:
        """[2, ...] float32; under autocast where the base is in half precision, as with `kohya_exact`."""
        dtype, kind = next(self.denoiser.parameters()).dtype, self.device.type
        inputs = {key: value.to(self.device) for key, value in self.inputs(dtype).items()}
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            return torch.as_tensor(self.denoiser(**inputs).sample).float()

    def step(self) -> tuple[float, list[Tensor]]:
        """The loss and the gradient of each LoRA parameter; then a step of plain gradient descent."""
        loss = self.predict().square().mean()
        loss.backward()
        parameters = self.network.parameters()
        gradients = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        assert len(gradients) == len(parameters)
        with torch.no_grad():
            for parameter in parameters:
                parameter -= 0.05 * parameter.grad  # type: ignore[operator]
                parameter.grad = None
        return loss.item(), gradients

    def steps(self, count: int) -> list[float]:
        """The losses of so many steps."""
        return [self.step()[0] for _ in range(count)]


def _kind(layer: nn.Linear | nn.Conv2d) -> Literal["linear", "conv1x1", "conv3x3"]:
    if isinstance(layer, nn.Linear):
        return "linear"
    return "conv1x1" if layer.kernel_size == (1, 1) else "conv3x3"


def small_flux(dtype: torch.dtype = torch.float32, device: str = "cpu", **config: Any) -> Small:
    """FLUX with two double and three single blocks, 64 wide."""
    denoiser = copy.deepcopy(_flux(dtype, **config))
    return Small(
        denoiser,
        [*denoiser.transformer_blocks, *denoiser.single_transformer_blocks],
        functools.partial(_flux_inputs, denoiser.config),
        torch.device(device),
    )


def small_unet(dtype: torch.dtype = torch.float32, device: str = "cpu") -> Small:
    """A U-Net of five blocks, 64 and 128 wide, with attention in the outer ones."""
    denoiser = copy.deepcopy(_unet(dtype))
    blocks = [*denoiser.down_blocks, denoiser.mid_block, *denoiser.up_blocks]
    return Small(denoiser, blocks, _unet_inputs, torch.device(device))


SMALL: dict[str, Callable[..., Small]] = {"flux": small_flux, "unet": small_unet}


@functools.cache
def _flux(dtype: torch.dtype, **config: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "in_channels": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 64,
        "axes_dims_rope": (8, 12, 12),
    }
    flux_class: Any = FluxTransformer2DModel
    return nn.Module.to(flux_class(**sizes | config), dtype).requires_grad_(False)


@functools.cache
def _unet(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    unet_class: Any = UNet2DConditionModel
    unet = unet_class(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    use_lean_blocks(unet)
    return nn.Module.to(unet, dtype).requires_grad_(False)


def _flux_inputs(config: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    positions = torch.zeros(16, 3)
    positions[:, 1], positions[:, 2] = torch.arange(16) // 4, torch.arange(16) % 4
    return {
        "hidden_states": noise(2, 16, config.in_channels),
        "encoder_hidden_states": noise(2, 6, config.joint_attention_dim),
        "pooled_projections": noise(2, config.pooled_projection_dim),
        "timestep": torch.tensor([0.2, 0.9]).to(dtype),
        "img_ids": positions,
        "txt_ids": torch.zeros(6, 3),
    }


def _unet_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=generator).to(dtype),
        "timestep": torch.tensor([30, 700]),
        "encoder_hidden_states": torch.randn(2, 9, 64, generator=generator).to(dtype),
    }
