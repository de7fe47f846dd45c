"""The layers of a checkpoint that can get an adapter: from its headers, or without files from Kohya's table.

For estimates, maps and checks before the start; a run itself asks the loaded model. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from engine.families.base import Family
from engine.families.layer_names import DENOISER, dotted
from engine.families.spec import FamilySpec, TextEncoder
from engine.types import LoraTarget, Recognition


@dataclass(frozen=True)
class ListedLayer:
    """One layer, as Kohya's files have it."""

    target: LoraTarget
    shape: tuple[int, ...]
    """Of its weight, [out, in] or [out, in, k, k]; empty where no file has it."""
    bias: bool = False


def listed_layers(family: Family, recognition: Recognition) -> list[ListedLayer]:
    """Every layer that Kohya's table of the family knows, in each part that can be trained, the text encoders first;
    those of convolution blocks and outside the blocks too."""
    spec = family.spec
    shapes: dict[str, tuple[int, ...]] = {}
    biases: set[str] = set()
    encoders = {encoder.component: encoder for encoder in spec.encoders if encoder.is_trainable}
    if recognition.layout != "configurations":
        for component, path, shape, bias in family.weights(recognition):
            name = _name(spec, encoders, component, path)
            if name is not None and _is_listed(spec, name):
                rows = shapes[name][0] if name in shapes else 0
                shapes[name] = (rows + shape[0], *shape[1:])
                biases |= {name} if bias else set()
    prefixes = [*(encoder.prefix for encoder in encoders.values()), DENOISER]
    for prefix in prefixes:  # a part in no file of the checkpoint
        if not any(name.startswith(prefix) for name in shapes):
            shapes |= dict.fromkeys((name for name in _table(spec) if name.startswith(prefix)), ())
    order = {prefix: place for place, prefix in enumerate(prefixes)}
    names = sorted(shapes, key=lambda name: next(order[prefix] for prefix in prefixes if name.startswith(prefix)))
    layers = (layer_named(spec, name, shapes[name]) for name in names)
    return [replace(layer, bias=layer.target.kohya_name in biases) for layer in layers if layer is not None]


def _table(spec: FamilySpec) -> Iterator[str]:
    table = spec.layers.table
    yield from (name for names in table.attention.values() for name in names)
    yield from (name for name in (*table.convolutions, *table.outside) if _is_listed(spec, name))


def _is_listed(spec: FamilySpec, name: str) -> bool:
    """Whether a layer can be trained: outside the blocks those of the denoiser only."""
    return name.startswith(DENOISER) or name not in spec.layers.table.outside


def _name(spec: FamilySpec, encoders: dict[str, TextEncoder], component: str, path: str) -> str | None:
    """Kohya's name of the layer of a weight; None for a weight of another kind."""
    if component == spec.denoiser:
        address = spec.layers.address(path.replace(".", "_"))
        if address is None or address.layer in spec.layers.table.names:
            return None if address is None else address.layer
        paths = spec.layers.paths(address.layer) or ("",)
        ours = DENOISER + paths[0].replace(".", "_")  # outside the blocks a layer may have several names
        return ours if ours in spec.layers.table.outside else address.layer
    encoder = encoders.get(component)
    if encoder is None:
        return None
    name = encoder.prefix + encoder.level + path.removeprefix("text_model.").replace(".", "_")
    return name if name in spec.layers.table.names else None


def layer_named(spec: FamilySpec, name: str, shape: tuple[int, ...] = ()) -> ListedLayer | None:
    """The layer with one of the names that files have for it; None where the family has none.

    Args:
        shape: of its weight, or of a matrix with the same kernel.
    """
    if name.startswith(DENOISER):
        address = spec.layers.address(name.removeprefix(DENOISER))
        name = name if address is None else address.layer
        component, paths = spec.denoiser, spec.layers.paths(name)
    else:
        encoder = next((encoder for encoder in spec.encoders if name.startswith(encoder.prefix)), None)
        if encoder is None:
            return None
        path = dotted(name.removeprefix(encoder.prefix).removeprefix(encoder.level), encoder.words)
        component, paths = encoder.component, None if path is None else (path,)
    if paths is None:
        return None
    kind = _kind(spec, paths[0], shape)
    return ListedLayer(LoraTarget(component, paths[0], name, kind, paths[1:]), shape)


def _kind(spec: FamilySpec, path: str, shape: tuple[int, ...]) -> Literal["linear", "conv1x1", "conv3x3"]:
    if shape:
        return "linear" if len(shape) == 2 else "conv1x1" if shape[2:] == (1, 1) else "conv3x3"
    return "conv3x3" if re.search(spec.wide, path) else "linear"
