"""LoRAs in diffusers' and peft's format (`transformer.….lora_A.weight`), turned into Kohya's modules.

Where Kohya's layer is several in diffusers (FLUX's query, key, value), their LoRAs become one: the down matrices one
below the other, the up matrices a block diagonal. The ranks add up; with Kohya's factor alpha / rank, alpha must
grow alike, or the LoRA would become as many times weaker (sd-scripts #2204).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from engine.adapters.names import ALPHA, DOWN, UP
from engine.errors import ModelError
from engine.models.base import LoraTarget, Say
from engine.reading import parse_json
from engine.text import listing

_KEY = re.compile(r"(transformer|text_encoder)\.(?:text_model\.)?(.+)\.(lora_A|lora_B)(?:\.default)?\.weight")
_ALPHA = re.compile(r"(transformer|text_encoder)\.(?:text_model\.)?(.+)\.alpha")
_SETTINGS = "lora_adapter_metadata"
"""Key of a file's metadata where diffusers keeps what peft was set to: a JSON table with "transformer.lora_alpha"."""


def to_kohya(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    components: Mapping[str, nn.Module],
    targets: Sequence[LoraTarget],
    say: Say,
) -> dict[str, torch.Tensor]:
    """The file in Kohya's names, with the effect that it has in diffusers.

    Args:
        tensors: of the file: down [r, in], up [out, r]; alpha where it has one, else as in the metadata, else the rank.
        components: the model's trainable parts by name.
        targets: the layers that may take a LoRA; modules of others are left out, which is said. A layer of a group
            that has none in the file gets rows of zeros.

    Raises:
        ModelError: no module has a place here, or one is incomplete.
    """
    pairs = _pairs(tensors, metadata)
    found: dict[str, torch.Tensor] = {}
    used: set[tuple[str, str]] = set()
    for target in targets:
        here = [(target.component, path.removeprefix("text_model.")) for path in target.paths]
        if any(place in pairs for place in here):
            used.update(here)
            component = components[target.component]
            widths = [int(component.get_submodule(path).out_features) for path in target.paths]  # type: ignore[arg-type]
            down, up, scale = merged([pairs.get(place) for place in here], widths)
            name = target.kohya_name
            found |= {f"{name}.{DOWN}": down, f"{name}.{UP}": up, f"{name}.{ALPHA}": torch.tensor(scale * len(down))}
    unknown = sorted(".".join(place) for place in pairs.keys() - used)
    if not found:
        raise ModelError(
            f"The LoRA to start from has no module of this model; it has {listing(unknown, 3)}.",
            "It was made for another kind of model.",
        )
    if unknown:
        say(
            f"{len(unknown)} modules of the LoRA to start from have no place here and are left out: "
            f"{listing(unknown, 3)}."
        )
    return found


_Pair = tuple[torch.Tensor, torch.Tensor, float]
"""Down, up, and the factor on their product: alpha / rank."""


def _pairs(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[tuple[str, str], _Pair]:
    settings = _settings(metadata)
    halves: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if match := _KEY.fullmatch(key):
            halves.setdefault((match[1], match[2]), {})[match[3]] = tensor.float()
        elif match := _ALPHA.fullmatch(key):
            halves.setdefault((match[1], match[2]), {})[ALPHA] = tensor
        else:
            raise ModelError(f"The LoRA to start from has the key {key}, which is none of diffusers' format.")
    pairs = {}
    for place, parts in halves.items():
        if "lora_A" not in parts or "lora_B" not in parts:
            raise ModelError(f"The LoRA to start from is incomplete: {'.'.join(place)} lacks one of its two matrices.")
        rank = len(parts["lora_A"])
        alpha = float(parts[ALPHA]) if ALPHA in parts else settings.get(place[0], float(rank))
        pairs[place] = (parts["lora_A"], parts["lora_B"], alpha / rank)
    return pairs


def _settings(metadata: Mapping[str, str]) -> dict[str, float]:
    """Component to the alpha that peft was set to, where the file tells it."""
    try:
        table = parse_json(metadata.get(_SETTINGS, "{}"))
        found = {part: table.get(f"{part}.lora_alpha") for part in ("transformer", "text_encoder")}
        return {part: float(alpha) for part, alpha in found.items() if alpha is not None}
    except (ValueError, TypeError, AttributeError):
        return {}


def merged(pairs: Sequence[_Pair | None], widths: Sequence[int]) -> _Pair:
    """The LoRAs of layers with the same input as one of the layer that has all their outputs.

    Args:
        pairs: down [r, in], up [out, r] and alpha / rank of each, in the order of the rows; None: no LoRA.
        widths: the outputs of each layer.

    Returns:
        down [R, in], up [sum of out, R] and alpha / R. R is the sum of the ranks, and up a block diagonal; where all
        share one down matrix, R is its rank. For n LoRAs of equal rank and alpha: alpha' = n · alpha.
    """
    given = [pair for pair in pairs if pair is not None]
    first, _, scale = given[0]
    shared = all(down.shape == first.shape and torch.equal(down, first) for down, _, _ in given)
    ups = []
    for pair, width in zip(pairs, widths, strict=True):
        if pair is None:
            ups.append(first.new_zeros(width, len(first) if shared else 0))
        else:  # the module has one factor: what another layer's differs by goes into its up matrix
            ups.append(pair[1] if pair[2] == scale else pair[1] * (pair[2] / scale))
    if shared:
        return first, torch.cat(ups), scale
    diagonal: torch.Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return torch.cat([down for down, _, _ in given]), diagonal, scale
