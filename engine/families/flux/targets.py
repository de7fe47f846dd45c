"""Which layers take a LoRA, and their names in Kohya's files: BFL's layers, of which diffusers has some in parts."""

from __future__ import annotations

from torch import nn

from engine.config.flux import IN_LAYERS
from engine.families.flux.names import DOUBLE, ENDS, SINGLE
from engine.families.unet.targets import text_targets
from engine.types import LoraTarget


def lora_targets(text_encoder: nn.Module, transformer: nn.Module) -> list[LoraTarget]:
    """Kohya's modules in Kohya's order: CLIP-L's attention and MLPs, then every linear layer of the blocks."""
    return [*text_targets(text_encoder, "text_encoder", "lora_te1_"), *transformer_targets(transformer)]


def transformer_targets(transformer: nn.Module) -> list[LoraTarget]:
    """19 × 10 + 38 × 3 modules in FLUX.1."""
    targets = []
    for kind, ours, layers in (
        ("double_blocks", "transformer_blocks", DOUBLE),
        ("single_blocks", "single_transformer_blocks", SINGLE),
    ):
        for number in range(len(transformer.get_submodule(ours))):  # type: ignore[arg-type]
            for name, members in layers.items():
                first, *more = (f"{ours}.{number}.{member}" for member in members)
                kohya = f"lora_unet_{kind}_{number}_{name.replace('.', '_')}"
                targets.append(LoraTarget("transformer", first, kohya, "linear", tuple(more)))
    return targets


def in_targets(transformer: nn.Module) -> list[LoraTarget]:
    """The layers before the blocks, which `in_dims` adds; a model without guidance lacks its two."""
    here = [
        LoraTarget("transformer", path, f"lora_unet_{name.replace('.', '_')}", "linear")
        for path, name in ENDS.items()
        if name.startswith(IN_LAYERS)
    ]
    paths = {path for path, _ in transformer.named_modules()}
    return sorted(
        (target for target in here if target.path in paths),
        key=lambda target: [target.kohya_name.startswith(f"lora_unet_{name}") for name in IN_LAYERS].index(True),
    )
