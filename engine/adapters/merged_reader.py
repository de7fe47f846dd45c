"""Reads a saved adapter as other programs do: by the ends of its keys, each module merged into its layer's weight.

It shares no formula with the training (`engine.adapters.kinds`), so that a file in which the two differ is noticed.
Formulas: ComfyUI's `comfy/weight_adapter`; for what it does not read, (IA)³ and the factors of an OFT, A1111's
`extensions-builtin/Lora`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.twins import failure
from engine.adapters.weights import NORMS, apply_norm, apply_weight, joined_weight, shape_of
from engine.types import LoraTarget

Parts = Mapping[str, Tensor]
"""The tensors of a module by the ends of their keys, float32."""


def read_back(components: Mapping[str, nn.Module], tensors: Parts, targets: Sequence[LoraTarget]) -> None:
    """Apply a file in Kohya's names to components, in place: each layer computes with its merged weight in float32.

    Args:
        tensors: the file's, by key.
        targets: the layers that the file is for.

    Raises:
        TrainingError: a module does not fit its layers, or is of a kind that no program reads.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, end = key.partition(".")
        modules.setdefault(name, {})[end] = tensor
    for target in targets:
        layers = [components[target.component].get_submodule(path) for path in target.paths]
        parts = modules.get(target.kohya_name, {})
        start = 0
        for layer in layers:
            rows = slice(start, start + shape_of(layer)[0])
            start = rows.stop
            layer.register_forward_hook(_Merged(target.kohya_name, layers, rows, parts))


def knows(keys: Iterable[str]) -> bool:
    """Whether the modules of a file with these keys are of kinds that are read here."""
    ends: dict[str, set[str]] = {}
    for key in keys:
        name, _, end = key.partition(".")
        ends.setdefault(name, set()).add(end)
    return all(own & (_MERGES.keys() | {"diff_b", "w_norm"}) for own in ends.values())


class _Merged:
    """A hook that replaces the output of a layer by that with the merged weight, which is computed anew each time.

    Args:
        layers: of the module; their rows, stacked, are those of the weight that the file is for.
        rows: those of the hooked layer.
    """

    def __init__(self, name: str, layers: Sequence[nn.Module], rows: slice, parts: Parts) -> None:
        self._name, self._layers, self._rows, self._parts = name, layers, rows, parts

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0].float()
        parts = {end: tensor.to(x.device, torch.float32) for end, tensor in self._parts.items()}
        bias = _joined_bias(self._layers)
        try:
            if isinstance(layer, NORMS):
                weight = layer.weight.float() + parts["w_norm"]
                return apply_norm(layer, x, weight, layer.bias.float() + parts["b_norm"]).to(output.dtype)
            weight = merged(joined_weight(self._layers).to(x.device), parts)
        except (RuntimeError, KeyError, IndexError) as error:
            raise failure(f"the tensors of {self._name} do not fit the layer ({error})") from error
        if "diff_b" in parts:
            bias = parts["diff_b"] if bias is None else bias + parts["diff_b"]
        result = apply_weight(layer, x, weight[self._rows])
        if bias is not None:
            own = bias[self._rows]
            result = result + (own if isinstance(layer, nn.Linear) else own.reshape(1, -1, 1, 1))
        return result.to(output.dtype)


def _joined_bias(layers: Sequence[Any]) -> Tensor | None:
    biases = [layer.bias for layer in layers]
    if all(bias is None for bias in biases):
        return None
    filled = [
        torch.zeros(shape_of(layer)[0], device=layer.weight.device) if layer.bias is None else layer.bias.float()
        for layer in layers
    ]
    return torch.cat(filled)


def merged(weight: Tensor, parts: Parts) -> Tensor:
    """The weight with a module of a file in it, at strength 1.

    Args:
        weight: [out, in] or [out, in, k, k] float32; not changed.

    Raises:
        KeyError: no known kind, or a tensor is missing.
        RuntimeError: the shapes do not fit.
    """
    for end, merge in _MERGES.items():
        if end in parts:
            result = merge(weight, parts)
            return _decomposed(result, parts["dora_scale"]) if "dora_scale" in parts else result
    if "diff_b" in parts:
        return weight
    raise KeyError(f"none of {', '.join(parts) or 'no tensors'} is known")


def _decomposed(weight: Tensor, norms: Tensor) -> Tensor:
    """ComfyUI's formula for norms of inputs; of outputs LyCORIS', as ComfyUI divides by the norms of the base."""
    ones = [1] * (weight.ndim - 2)
    by_outputs = norms.shape[0] == weight.shape[0] != 1
    rows = weight if by_outputs else weight.transpose(0, 1)
    actual: Tensor = rows.reshape(len(rows), -1).norm(dim=1)
    shape = (-1, 1, *ones) if by_outputs else (1, -1, *ones)
    return weight * norms.reshape(shape) / actual.reshape(shape)


def _lora(weight: Tensor, parts: Parts) -> Tensor:
    up, down = parts["lora_up.weight"], parts["lora_down.weight"]
    scale = float(parts["alpha"]) / down.shape[0] if "alpha" in parts else 1.0
    if "lora_mid.weight" in parts:
        core = parts["lora_mid.weight"]
        shape = (down.shape[1], down.shape[0], *core.shape[2:])
        flat = torch.mm(down.transpose(0, 1).flatten(1), core.transpose(0, 1).flatten(1))
        down = flat.reshape(shape).transpose(0, 1)
    return weight + scale * torch.mm(up.flatten(1), down.flatten(1)).reshape(weight.shape)


def _loha(weight: Tensor, parts: Parts) -> Tensor:
    halves = []
    for half in "12":
        a, b = parts[f"hada_w{half}_a"], parts[f"hada_w{half}_b"]
        core = parts.get(f"hada_t{half}")
        halves.append(torch.mm(a, b) if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    scale = float(parts["alpha"]) / parts["hada_w1_b"].shape[0] if "alpha" in parts else 1.0
    return weight + scale * (halves[0] * halves[1]).reshape(weight.shape)


def _lokr(weight: Tensor, parts: Parts) -> Tensor:
    rank, matrices = None, []
    for half in "12":
        if f"lokr_w{half}" in parts:
            matrices.append(parts[f"lokr_w{half}"])
            continue
        a, b = parts[f"lokr_w{half}_a"], parts[f"lokr_w{half}_b"]
        rank, core = b.shape[0], parts.get(f"lokr_t{half}")
        matrices.append(torch.mm(a, b) if core is None else torch.einsum("ijkl,jr,ip->prkl", core, b, a))
    first, second = matrices
    if second.ndim == 4:
        first = first[..., None, None]
    scale = float(parts["alpha"]) / rank if rank is not None and "alpha" in parts else 1.0
    return weight + scale * torch.kron(first, second.contiguous()).reshape(weight.shape)


def _glora(weight: Tensor, parts: Parts) -> Tensor:
    a1, a2, b1, b2 = (parts[f"{end}.weight"].flatten(1) for end in ("a1", "a2", "b1", "b2"))
    scale = float(parts["alpha"]) / a2.shape[0] if "alpha" in parts else 1.0
    through = torch.einsum("oi...,ij->oj...", torch.einsum("oi...,ij->oj...", weight, a1), a2)
    return weight + scale * (through + torch.mm(b1, b2).reshape(weight.shape))


def _rotations(parts: Parts) -> Tensor:
    blocks = parts["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    limit, norm = float(parts.get("alpha", torch.zeros(()))), skew.norm() + 1e-8
    if limit > 0 and norm > limit:
        skew = skew * limit / norm
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    return (eye + skew) @ (eye - skew).inverse()


def _oft(weight: Tensor, parts: Parts) -> Tensor:
    rotations = _rotations(parts)
    if rotations.ndim == 3:
        blocks = weight.view(*rotations.shape[:2], *weight.shape[1:])
        result = weight + torch.einsum(
            "knm,kn...->km...", rotations - torch.eye(rotations.shape[-1], device=weight.device), blocks
        ).reshape(weight.shape)
    else:
        result = _butterfly(weight, rotations)
    rescale = parts.get("rescale")
    return result if rescale is None else result * rescale.reshape(-1, *(1 for _ in weight.shape[1:]))


def _butterfly(weight: Tensor, rotations: Tensor) -> Tensor:
    size = rotations.shape[-1]
    for number, rotation in enumerate(rotations):
        stride = 2**number * (size // 2)
        rest = weight.shape[1:]
        mixed = weight.reshape(-1, 2, stride, *rest).transpose(1, 2).reshape(-1, size, *rest)
        mixed = torch.einsum("bij,bj...->bi...", rotation, mixed)
        weight = mixed.reshape(-1, stride, 2, *rest).transpose(1, 2).flatten(0, 2)
    return weight


def _ia3(weight: Tensor, parts: Parts) -> Tensor:
    factors = parts["weight"].flatten()
    if bool(parts["on_input"]):
        return weight + weight * factors.reshape(1, -1, *(1 for _ in weight.shape[2:]))
    return weight + weight * factors.reshape(-1, *(1 for _ in weight.shape[1:]))


_MERGES: Mapping[str, Callable[[Tensor, Parts], Tensor]] = {
    "lora_up.weight": _lora,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
    "a1.weight": _glora,
    "oft_blocks": _oft,
    "on_input": _ia3,
    "diff": lambda weight, parts: weight + parts["diff"].reshape(weight.shape),
}
"""A key by which a kind is recognised, and its formula."""
