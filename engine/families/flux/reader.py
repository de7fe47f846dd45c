"""How diffusers reads a LoRA for FLUX.1, and a small forward pass; for the check of a saved file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from torch import Tensor, nn
from typing_extensions import override

from engine.families.base import LoraReader
from engine.families.flux.packing import positions
from engine.families.flux.targets import in_targets, transformer_targets
from engine.models.adapted import is_adapted
from engine.models.lora_names import ALPHA, DOWN, UP, by_module

_WIDTH = 3072
"""The only width of a transformer whose single blocks diffusers' converter can split."""


class _Loader(FluxLoraLoaderMixin):
    """The part of a pipeline that diffusers' `load_lora_weights` works on."""

    hf_device_map = None
    _lora_scale = 1.0

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        self.components = components
        self.transformer = components["transformer"]
        self.text_encoder = components.get("text_encoder")

    # Disabled: both are for LoRAs of FLUX's Control models, and read a layer's sizes from its weight, which nf4 packs.

    @classmethod
    def _maybe_expand_transformer_param_shape_or_error_(cls, *_: Any, **__: Any) -> bool:
        return False

    @classmethod
    def _maybe_expand_lora_state_dict(cls, transformer: Any, lora_state_dict: dict[str, Any]) -> dict[str, Any]:
        return lora_state_dict


class FluxReader(LoraReader):
    """diffusers' converter splits fused matrices and folds alpha into them."""

    folds_alpha = True

    @override
    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], adapter_name: str) -> None:
        """For small transformers the matrices are split here."""
        transformer: Any = components["transformer"]
        tensors_to_load = dict(tensors)
        if transformer.inner_dim != _WIDTH:
            tensors_to_load = _split_fused(transformer, tensors_to_load)
        _Loader(components).load_lora_weights(tensors_to_load, adapter_name=adapter_name)

    @override
    def load_file(self, components: Mapping[str, nn.Module], path: Path, adapter_name: str) -> None:
        _Loader(components).load_lora_weights(str(path), adapter_name=adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> Tensor:
        """Fixed patches, timestep 500, fixed text; through CLIP only when that has a LoRA."""
        transformer: Any = components["transformer"].eval()
        config, parameter = transformer.config, next(transformer.parameters())
        generator = torch.Generator().manual_seed(0)
        patches = torch.randn(1, 4, config.in_channels, generator=generator)
        states = torch.randn(1, 8, config.joint_attention_dim, generator=generator)
        encoder: Any = components.get("text_encoder")
        if encoder is not None and any(map(is_adapted, encoder.modules())):
            tokens = torch.arange(min(8, encoder.config.max_position_embeddings, encoder.config.vocab_size))[None]
            pooled = encoder.eval()(tokens.to(next(encoder.parameters()).device)).pooler_output
        else:
            pooled = torch.randn(1, config.pooled_projection_dim, generator=generator)
        device, dtype = parameter.device, parameter.dtype
        output: Tensor = transformer(
            hidden_states=patches.to(device, dtype),
            encoder_hidden_states=states.to(device, dtype),
            pooled_projections=pooled.to(device, dtype),
            timestep=torch.tensor([0.5], device=device),
            guidance=torch.tensor([1.0], device=device) if config.guidance_embeds else None,
            img_ids=positions(4, 4, device),
            txt_ids=torch.zeros(8, 3, device=device),
            return_dict=False,
        )[0]
        return output.float()


def _split_fused(transformer: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file as diffusers' converter would give it, for a transformer of any width: alpha / rank in the down
    matrices, each layer with its rows of the up matrices."""
    every = [*transformer_targets(transformer), *in_targets(transformer)]
    targets = {target.kohya_name: target for target in every}
    split: dict[str, Tensor] = {}
    for name, parts in by_module(tensors).items():
        target = targets.get(name)
        down, up, scale = parts[DOWN], parts[UP], float(parts[ALPHA]) / len(parts[DOWN])
        if target is None:
            path = name.removeprefix("lora_te1_").replace("text_model_encoder_layers_", "text_model.encoder.layers.")
            for word in ("self_attn", "mlp"):
                path = path.replace(f"_{word}_", f".{word}.")
            split |= {f"text_encoder.{path}.lora_A.weight": down * scale, f"text_encoder.{path}.lora_B.weight": up}
            continue
        layers: list[Any] = [transformer.get_submodule(path) for path in target.paths]
        for path, rows in zip(target.paths, torch.split(up, [layer.out_features for layer in layers]), strict=True):
            split |= {f"transformer.{path}.lora_A.weight": down * scale, f"transformer.{path}.lora_B.weight": rows}
    return split
