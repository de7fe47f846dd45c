"""What Python, dispatch and autograd cost a step: SDXL's UNet with all its layers, so narrow that kernels cost little.

Three sides take turns in one process: the trainer's step (forward, backward, clipping, AdamW) with a LoRA in every
layer of the transformer blocks, a plain loop of diffusers and peft with the same layers, and the bare UNet forward and
backward to its input. Counted is the CPU time of this process, on one thread, in float32; printed are medians.

    python benchmarks/host_time.py [--turns 9] [--checkpointing]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RANK, SEED = 4, 0
WIDTHS = (32, 64, 128)
"""Of the UNet's levels; 320, 640 and 1280 in SDXL."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--checkpointing", action="store_true")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    sides = {"base": base(options.checkpointing), "ours": ours(options.checkpointing),
             "plain": plain(options.checkpointing)}  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(options.turns + 2):
        for name, step in sides.items():
            gc.collect()
            started = time.process_time()
            step()
            if turn >= 2:
                seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("| side | CPU time of a step | to the bare UNet |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median * 1000:.0f} ms | {median / medians['base']:.2f} |")


def unet(*, lean: bool) -> Any:
    """SDXL's UNet at these widths, with random weights.

    Args:
        lean: with the trainer's blocks, not those of diffusers.
    """
    import torch
    from diffusers import UNet2DConditionModel

    from engine.families.unet.parts import build_unet
    from engine.models.files import read_json
    from engine.paths import ASSETS

    config = read_json(ASSETS / "sdxl" / "unet" / "config.json")
    config |= {
        "block_out_channels": WIDTHS, "attention_head_dim": [1, 2, 4], "cross_attention_dim": 32, "norm_num_groups": 8,
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 6 * 8 + 16,
    }  # fmt: skip
    torch.manual_seed(SEED)
    with torch.device("cpu"):
        denoiser = build_unet(config) if lean else UNet2DConditionModel.from_config(config)
    return denoiser.requires_grad_(False).train()


def loss_of(denoiser: Any, *, to_input: bool = False) -> Any:
    """The mean squared output at fixed inputs."""
    import torch

    draws = torch.Generator().manual_seed(SEED)
    noisy = torch.randn(1, 4, 8, 8, generator=draws).requires_grad_(to_input)
    added = {"text_embeds": torch.randn(1, 16, generator=draws), "time_ids": torch.ones(1, 6)}
    text = torch.randn(1, 77, 32, generator=draws)
    output = denoiser(noisy, torch.tensor([500]), encoder_hidden_states=text, added_cond_kwargs=added)
    return output.sample.square().mean()


def base(checkpointing: bool) -> Callable[[], None]:
    """Forward, and backward to the input, of diffusers' UNet without an adapter."""
    denoiser = unet(lean=False)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    return lambda: loss_of(denoiser, to_input=True).backward()


def targets(denoiser: Any) -> list[str]:
    """Paths of the linear layers of the transformer blocks."""
    from torch import nn

    return [path for path, layer in denoiser.named_modules() if isinstance(layer, nn.Linear) and "attentions" in path]


def ours(checkpointing: bool) -> Callable[[], None]:
    """The trainer's parts, without its reading of images and writing of events."""
    import torch

    from engine.adapters.kinds.lora import Lora
    from engine.adapters.network import AdapterNetwork
    from engine.config import RunConfig
    from engine.lowmem.checkpointing import recompute
    from engine.training.flat_update import update_layout
    from engine.training.optimizers import build_optimizer
    from engine.types import LoraTarget

    denoiser = unet(lean=True)
    if checkpointing:
        denoiser.enable_gradient_checkpointing(recompute)
    config = RunConfig().changed(network={"network_dim": RANK, "network_alpha": RANK})
    places = [LoraTarget("unet", path, "lora_unet_" + path.replace(".", "_"), "linear") for path in targets(denoiser)]
    network = AdapterNetwork.attach(
        Lora(), {"unet": denoiser}, places, network=config.network, generator_seed=SEED, log=lambda _: None
    )
    network.train()
    layout = update_layout(network, config, torch.float32)
    optimizer = build_optimizer("AdamW", [], layout.groups).optimizer

    def step() -> None:
        with layout.step:
            loss_of(denoiser).backward()
            layout.collect()
        torch.nn.utils.clip_grad_norm_(layout.holders, 1.0)
        optimizer.step()
        layout.clear()

    return step


def plain(checkpointing: bool) -> Callable[[], None]:
    """What a person writes with diffusers and peft."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    denoiser = unet(lean=False)
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets(denoiser)), denoiser)
    parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        loss_of(denoiser).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
