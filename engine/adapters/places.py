"""Finds the layers of a loaded model that a file's modules belong to, in any naming."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn

from engine.adapters.formats import Format, place_of
from engine.adapters.naming import addresses
from engine.types import LoraTarget

_TEXT = "text_model_"
_DENOISER = "denoiser"


@dataclass(frozen=True)
class Place:
    """The layers of one module: their outputs, one after the other, are the rows of its ΔW."""

    component: str
    paths: tuple[str, ...]


def places(
    lora: Format, targets: Iterable[LoraTarget], components: Mapping[str, nn.Module], base: str
) -> dict[str, Place]:
    """Module of the file to its layers; a module without layers here is absent.

    Args:
        lora: the file's format.
        targets: `Model.lora_targets` and `Model.norm_targets` with `conv=True`, with Kohya's names.
        components: `Model.trainable`: other layers of the denoiser are matched by their path.
        base: `FamilySpec.lora_base`, whose names count where a name is not one of the model's own.
    """
    targets = list(targets)
    index, by_layer = _index(targets, components), {target.kohya_name: target for target in targets}
    placed = {}
    for name, address in addresses(lora, base).items():
        part, path = place_of(name)
        place = index.get((_part(part), path.removeprefix(_TEXT)))
        target = by_layer.get(address.layer) if address is not None else None
        if place is None and address is not None and target is not None:
            whole = address.members == 1
            rows = slice(None) if whole else slice(address.member, address.member + address.count)
            place = Place(target.component, target.paths[rows])
        if place is not None:
            placed[name] = place
    return placed


def _part(prefix: str) -> str:
    """The first text encoder is "te" in files for models that have one only, "te1" in others."""
    return "te1" if prefix == "te" else prefix


def _index(targets: Iterable[LoraTarget], components: Mapping[str, nn.Module]) -> dict[tuple[str, str], Place]:
    """(part, path with underscores for dots) to layers: first by the paths of layers, then by Kohya's names."""
    by_path: dict[tuple[str, str], Place] = {}
    by_name: dict[tuple[str, str], Place] = {}
    denoisers = set()
    for target in targets:
        prefix, _, rest = target.kohya_name.removeprefix("lora_").partition("_")
        part = _DENOISER if prefix == "unet" else _part(prefix)
        if part == _DENOISER:
            denoisers.add(target.component)
        by_name[part, rest.removeprefix(_TEXT)] = Place(target.component, target.paths)
        for path in target.paths:
            by_path[part, _flat(path)] = Place(target.component, (path,))
    for component in denoisers:
        for path, layer in components[component].named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                by_path.setdefault((_DENOISER, _flat(path)), Place(component, (path,)))
    return {**by_path, **by_name}


def _flat(path: str) -> str:
    return path.replace(".", "_").removeprefix(_TEXT)
