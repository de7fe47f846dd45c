"""The tensors of a LoRA file in the naming that a run asks for (`saving.key_format`), and the metadata that go with it.

* kohya: `lora_unet_….lora_down.weight`, `.lora_up.weight`, `.alpha`.
* comfy: the same tensors under ComfyUI's own names: `diffusion_model.…`, `text_encoders.clip_l.transformer.…`.
* diffusers: peft's names, `unet.….lora_A.weight` or `transformer.…`. A fused layer of Kohya's is several: each has the
  same down matrix and its rows of up. Alphas are where diffusers reads them: tensors, or the metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.adapters.lora_layers import LoraModule
from engine.adapters.naming import comfy_name
from engine.adapters.network import AdapterNetwork
from engine.adapters.peft_settings import KEY, as_metadata, config_of
from engine.config.values import KeyFormat
from engine.families.spec import FamilySpec
from engine.models.lora_names import ALPHA

ALPHA_FORMAT = "lorasmith.alpha_format"
"""Key of the metadata with the number format of alphas, for namings without tensors for them."""


@dataclass(frozen=True)
class Piece:
    """A layer of diffusers with its LoRA."""

    component: str
    path: str
    """The path in the component, with the level `text_model` of CLIP's text encoders."""
    down: Tensor
    up: Tensor
    alpha: float


def file_tensors(
    network: AdapterNetwork, spec: FamilySpec, key_format: KeyFormat
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, float32 on the CPU, and metadata of a file of the network as it is now.

    Args:
        spec: of the model's family.
    """
    if key_format == "kohya":
        return network.state(), {}
    if key_format == "comfy":
        state = network.state()
        kohya = [module.target.kohya_name for module in network.modules]
        names = {name: comfy_name(name, spec.lora_base) or name for name in kohya}
        return {f"{names[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}, {}
    pieces: list[Piece] = []
    for module in network.modules:
        assert isinstance(module, LoraModule), "`check_key_format` refuses other kinds"
        target = module.target
        has_level = any(e.component == target.component and e.level for e in spec.encoders)
        for path, (down, up, alpha) in zip(target.paths, module.by_layer(), strict=True):
            full = f"text_model.{path.removeprefix('text_model.')}" if has_level else path
            pieces.append(Piece(target.component, full, down, up, alpha))
    return in_diffusers_names(pieces, alphas_in_file=spec.alphas_in_diffusers_files)


def in_diffusers_names(
    pieces: Sequence[Piece], *, alphas_in_file: bool, alpha_format: str = "F32"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file in diffusers' names.

    Args:
        alphas_in_file: `FamilySpec.alphas_in_diffusers_files`.
        alpha_format: safetensors' name of the number format of alphas in Kohya's names.
    """
    tensors: dict[str, Tensor] = {}
    for piece in pieces:
        name = f"{piece.component}.{piece.path}"
        tensors |= {f"{name}.lora_A.weight": piece.down, f"{name}.lora_B.weight": piece.up}
        if alphas_in_file:
            tensors[f"{name}.{ALPHA}"] = alpha_tensor(piece.alpha, piece.down.dtype)
    metadata = {"format": "pt"}
    if not alphas_in_file:
        metadata |= {KEY: as_metadata(peft_configs(pieces)), ALPHA_FORMAT: alpha_format}
    return tensors, metadata


def peft_configs(pieces: Iterable[Piece]) -> Mapping[str, dict[str, Any]]:
    """`LoraConfig` of each component; without the level `text_model`, since peft compares ends of names."""
    components: dict[str, dict[str, Piece]] = {}
    for piece in pieces:
        components.setdefault(piece.component, {})[piece.path.removeprefix("text_model.")] = piece
    return {
        component: config_of(
            {path: len(piece.down) for path, piece in here.items()}, {path: piece.alpha for path, piece in here.items()}
        )
        for component, here in components.items()
    }


def alpha_tensor(alpha: float, dtype: torch.dtype) -> Tensor:
    """Alpha [] in a number format, or in float32 where only that is exact."""
    exact, cast = torch.tensor(alpha), torch.tensor(alpha).to(dtype)
    return cast if cast.float() == exact else exact
