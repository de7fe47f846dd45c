"""Converts LoRAs in diffusers' and peft's format (`transformer.….lora_A.weight`) to Kohya's modules.

Where Kohya's layer is several in diffusers (FLUX's query, key, value), their LoRAs become one: the down matrices
stacked, the up matrices a block diagonal. The ranks add up; with Kohya's factor alpha / rank, alpha must grow by the
same factor, or the LoRA becomes that many times weaker (sd-scripts #2204).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from engine.errors import ModelError
from engine.models.lora_names import ALPHA, DOWN, UP
from engine.reading import parse_json
from engine.text import listing
from engine.types import Log, LoraTarget

_KEY = re.compile(r"(transformer|text_encoder)\.(?:text_model\.)?(.+)\.(lora_A|lora_B)(?:\.default)?\.weight")
_ALPHA = re.compile(r"(transformer|text_encoder)\.(?:text_model\.)?(.+)\.alpha")
_SETTINGS = "lora_adapter_metadata"
"""Key of a file's metadata with peft's settings, written by diffusers: a JSON table with "transformer.lora_alpha"."""
_PARTS = ("transformer", "unet", "text_encoder", "text_encoder_2")


def to_kohya(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    components: Mapping[str, nn.Module],
    targets: Sequence[LoraTarget],
    log: Log,
) -> dict[str, torch.Tensor]:
    """The file in Kohya's names, with the same effect as in diffusers.

    Args:
        tensors: of the file: down [r, in], up [out, r]; alpha where it has one, else as in the metadata, else the rank.
        components: the model's trainable parts by name.
        targets: the layers that may have a LoRA; modules of other layers are skipped, which is logged. A layer of a
            group without a LoRA in the file gets rows of zeros.

    Raises:
        ModelError: no module belongs to this model, or one is incomplete.
    """
    pairs = _pairs(tensors, metadata)
    converted: dict[str, torch.Tensor] = {}
    used: set[tuple[str, str]] = set()
    for target in targets:
        here = [(target.component, path.removeprefix("text_model.")) for path in target.paths]
        if any(place in pairs for place in here):
            used.update(here)
            component = components[target.component]
            widths = [int(component.get_submodule(path).out_features) for path in target.paths]  # type: ignore[arg-type]
            down, up, scale = merge_pairs([pairs.get(place) for place in here], widths)
            name = target.kohya_name
            converted |= {
                f"{name}.{DOWN}": down,
                f"{name}.{UP}": up,
                f"{name}.{ALPHA}": torch.tensor(scale * len(down)),
            }
    unknown = sorted(".".join(place) for place in pairs.keys() - used)
    if not converted:
        raise ModelError(
            f"The LoRA to start from has no module of this model; it has {listing(unknown, 3)}.",
            "It was made for another kind of model.",
            code="lora-without-modules",
        )
    if unknown:
        log(
            f"{len(unknown)} modules of the LoRA to start from do not exist in this model and are skipped: "
            f"{listing(unknown, 3)}."
        )
    return converted


_Pair = tuple[torch.Tensor, torch.Tensor, float]
"""Down, up, and the factor on their product: alpha / rank."""


def _pairs(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[tuple[str, str], _Pair]:
    settings = stated_alphas(metadata)
    halves: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        if match := _KEY.fullmatch(key):
            halves.setdefault((match[1], match[2]), {})[match[3]] = tensor.float()
        elif match := _ALPHA.fullmatch(key):
            halves.setdefault((match[1], match[2]), {})[ALPHA] = tensor
        else:
            raise ModelError(
                f"The LoRA to start from has the key {key}, which is not in diffusers' format.", code="lora-unknown-key"
            )
    pairs = {}
    for place, parts in halves.items():
        if "lora_A" not in parts or "lora_B" not in parts:
            raise ModelError(
                f"The LoRA to start from is incomplete: {'.'.join(place)} lacks one of its two matrices.",
                code="lora-incomplete",
            )
        rank = len(parts["lora_A"])
        alpha = float(parts[ALPHA]) if ALPHA in parts else settings.get(place[0], float(rank))
        pairs[place] = (parts["lora_A"], parts["lora_B"], alpha / rank)
    return pairs


def stated_alphas(metadata: Mapping[str, str]) -> dict[str, float]:
    """Component to peft's alpha, where the metadata have it."""
    try:
        table = parse_json(metadata.get(_SETTINGS, "{}"))
        alphas = {part: table.get(f"{part}.lora_alpha") for part in _PARTS}
        return {part: float(alpha) for part, alpha in alphas.items() if alpha is not None}
    except (ValueError, TypeError, AttributeError):
        return {}


def merge_pairs(pairs: Sequence[_Pair | None], widths: Sequence[int]) -> _Pair:
    """Merge the LoRAs of layers with the same input into one of the joined layer.

    Args:
        pairs: down [r, in], up [out, r] and alpha / rank of each, in the order of the rows; None: no LoRA.
        widths: the outputs of each layer.

    Returns:
        down [R, in], up [sum of out, R] and alpha / R. R is the sum of the ranks, and up a block diagonal; where all
        share one down matrix, R is its rank. For n LoRAs of equal rank and alpha: alpha' = n · alpha.
    """
    present = [pair for pair in pairs if pair is not None]
    first, _, scale = present[0]
    shared = all(down.shape == first.shape and torch.equal(down, first) for down, _, _ in present)
    ups = []
    for pair, width in zip(pairs, widths, strict=True):
        if pair is None:
            ups.append(first.new_zeros(width, len(first) if shared else 0))
        else:  # the module has one factor: a layer's differing factor goes into its up matrix
            ups.append(pair[1] if pair[2] == scale else pair[1] * (pair[2] / scale))
    if shared:
        return first, torch.cat(ups), scale
    diagonal: torch.Tensor = torch.block_diag(*ups)  # type: ignore[no-untyped-call]
    return torch.cat([down for down, _, _ in present]), diagonal, scale
