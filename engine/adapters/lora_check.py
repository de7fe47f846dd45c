"""Reads a saved LoRA back with diffusers' loader and checks that each module has its values and scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from engine.adapters.lora_layers import LoraModule
from engine.adapters.modules import AdapterModule
from engine.adapters.precision import EPSILON
from engine.adapters.twins import failure
from engine.families.base import LoraReader
from engine.models.lora_names import ALPHA, DOWN, UP
from engine.text import listing

_VERIFY = "verify"


def read_back(
    twins: Mapping[str, nn.Module],
    tensors: Mapping[str, torch.Tensor],
    modules: Sequence[AdapterModule],
    misread: Sequence[AdapterModule],
    reader: LoraReader,
) -> None:
    """`TrainableKind.read_back` of a LoRA, by diffusers' loader.

    Args:
        misread: modules for which diffusers ignores the file's alpha.
    """
    try:
        reader.load(twins, tensors, _VERIFY)
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise failure(f"diffusers' load_lora_weights refuses it ({error})") from error
    loras = [module for module in modules if isinstance(module, LoraModule)]
    _check_loaded(twins, tensors, loras, [module for module in loras if module in misread], folded=reader.folds_alpha)


def _check_loaded(
    loaded: Mapping[str, nn.Module],
    tensors: Mapping[str, torch.Tensor],
    modules: Sequence[LoraModule],
    misread: Sequence[LoraModule],
    *,
    folded: bool,
) -> None:
    """Check that each module is on its layers with its values and its scale, and that no other layer has one."""
    layers = {
        (component, path): layer
        for component, twin in loaded.items()
        for path, layer in twin.named_modules()
        if _VERIFY in getattr(layer, "lora_A", ())
    }
    expected = {(module.target.component, path) for module in modules for path in module.target.paths}
    if layers.keys() != expected:
        missing = sorted(".".join(key) for key in expected - layers.keys())
        unexpected = sorted(".".join(key) for key in layers.keys() - expected)
        raise failure(
            f"loaded by diffusers, it lacks {listing(missing, 3) or 'nothing'} and also changes "
            f"{listing(unexpected, 3) or 'nothing'}",
        )
    for module in misread:
        layers[module.target.component, module.target.path].scaling[_VERIFY] = module.scale
    wrong = []
    for module in modules:
        loaded_layers = [layers[module.target.component, path] for path in module.target.paths]
        matches = _matches_folded if folded else _matches
        if not matches(module, loaded_layers, tensors):
            wrong.append(f"{module.target.component}.{module.target.path}")
    if wrong:
        raise failure(f"{len(wrong)} modules differ from the adapter in memory: {listing(wrong, 3)}")
    _in_float32(loaded)


def _in_float32(loaded: Mapping[str, nn.Module]) -> None:
    """Cast the loaded matrices, whose values are checked by now, so that the forward does not overflow in the file's
    number format. peft puts them on the device of the base's weight, which may be the host (split mode)."""
    for twin in loaded.values():
        device = next(twin.parameters()).device
        layers: list[Any] = [layer for layer in twin.modules() if _VERIFY in getattr(layer, "lora_A", ())]
        for layer in layers:
            layer.lora_A[_VERIFY].to(device, torch.float32)
            layer.lora_B[_VERIFY].to(device, torch.float32)


def _matches(module: LoraModule, layers: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the module's only layer has the file's matrices and the module's scale."""
    (layer,) = layers
    for part, theirs in ((DOWN, layer.lora_A[_VERIFY].weight), (UP, layer.lora_B[_VERIFY].weight)):
        stored = tensors[f"{module.target.kohya_name}.{part}"]
        if not torch.equal(theirs.detach().to("cpu", torch.float32), stored.to(theirs.dtype).float()):
            return False
    alpha = tensors[f"{module.target.kohya_name}.{ALPHA}"]
    return bool(abs(layer.scaling[_VERIFY] - module.scale) <= abs(module.scale) * EPSILON[alpha.dtype])


def _matches_folded(module: LoraModule, layers: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether each layer of the module has the file's down matrix and its rows of the up matrix, with the scale spread
    over both; or, where the up matrix is block-diagonal, its block of ranks only."""
    down, up = (tensors[f"{module.target.kohya_name}.{part}"].float() for part in (DOWN, UP))
    rows = torch.split(up, [len(half) for half in module.ups])
    for index, (layer, mine) in enumerate(zip(layers, rows, strict=True)):
        theirs_down, theirs_up = (
            half[_VERIFY].weight.detach().to("cpu", torch.float32) for half in (layer.lora_A, layer.lora_B)
        )
        rank = len(theirs_down)
        block = slice(None) if rank == len(down) else slice(index * rank, (index + 1) * rank)
        if mine.count_nonzero() != mine[:, block].count_nonzero():
            return False
        kinds = {layer.lora_A[_VERIFY].weight.dtype, tensors[f"{module.target.kohya_name}.{DOWN}"].dtype}
        rounding = 2 * max(EPSILON[kind] for kind in kinds)
        factors = [_factor(theirs_down, down[block], rounding), _factor(theirs_up, mine[:, block], rounding)]
        if None in factors:
            return False
        scale = math.prod(factor for factor in factors if factor is not None) * layer.scaling[_VERIFY]
        if mine.any() and abs(scale - module.scale) > 2 * rounding * abs(module.scale):
            return False
    return True


def _factor(theirs: torch.Tensor, stored: torch.Tensor, rounding: float) -> float | None:
    """The factor between `stored` and `theirs`; None where they are not proportional."""
    if theirs.shape != stored.shape:
        return None
    largest = stored.abs().max()
    factor = (
        float(theirs.flatten()[stored.abs().argmax()] / stored.flatten()[stored.abs().argmax()]) if largest else 1.0
    )
    return factor if (theirs - stored * factor).abs().max() <= rounding * abs(factor) * largest else None
