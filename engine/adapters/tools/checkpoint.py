"""The layers of a checkpoint under Kohya's names, and their weights' sources in its files, in every layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.weights import NORMS
from engine.errors import ModelError
from engine.families.base import Family
from engine.families.layer_names import DENOISER
from engine.families.registry import family_named, recognise
from engine.lowmem.classes import has_class
from engine.models.fp8 import dequantize_fp8, scale_of
from engine.models.header import read_header
from engine.models.loading import PartSource, TensorSource, meta_module, open_tensors
from engine.paths import expanded
from engine.text import printable
from engine.types import Recognition


@dataclass(frozen=True)
class Spot:
    """The source of one weight of diffusers' model."""

    file: Path
    source: TensorSource
    shape: tuple[int, ...]
    """The shape in diffusers."""


@dataclass(frozen=True)
class WeightLayer:
    """A layer with a name in Kohya's format."""

    name: str
    component: str
    spots: tuple[Spot, ...]
    """One source, or several where Kohya's layer is several in diffusers, in the order of the rows."""
    usual: bool
    """Whether a LoRA covers it by default: the layers of attention blocks."""
    convolutional: bool
    """Whether a LoRA with `conv_dim` covers it."""
    trainable: bool
    """Whether its component can be trained."""
    swapped: bool
    """See `LayerNames.halves_swapped`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the full weight."""
        return sum(spot.shape[0] for spot in self.spots), *self.spots[0].shape[1:]

    def pieces(self, change: Tensor) -> list[Tensor]:
        """Split a change of Kohya's weight into changes of diffusers' weights."""
        ordered = torch.cat(change.chunk(2)[::-1]) if self.swapped else change
        return list(torch.split(ordered, [spot.shape[0] for spot in self.spots]))

    def joined(self, pieces: list[Tensor]) -> Tensor:
        """The inverse of `pieces`."""
        weight = torch.cat(pieces)
        return torch.cat(weight.chunk(2)[::-1]) if self.swapped else weight


@dataclass(frozen=True)
class Checkpoint:
    """A recognised checkpoint."""

    recognition: Recognition
    base: str
    """The kind of model: "SD 1.5", "SDXL", "FLUX"."""
    layers: dict[str, WeightLayer]
    """By Kohya's name."""
    vectors: dict[str, WeightLayer]
    """Biases of layers, and weights and biases of norm layers: "lora_unet_..._norm1.weight"."""
    files: dict[str, list[Path]]
    """Component to the files of its weights."""


def read_checkpoint(name: str) -> Checkpoint:
    """Recognise a checkpoint from its headers and configurations; no weight is read.

    Raises:
        ModelError: missing, broken, or of an unsupported family.
    """
    recognition = recognise(expanded(name))
    family = family_named(recognition.family)
    sources = family.sources(recognition)
    layers: dict[str, WeightLayer] = {}
    vectors: dict[str, WeightLayer] = {}
    for component, source in sources.items():
        module = meta_module(source.build, source.config)
        layers |= {layer.name: layer for layer in _layers(family, component, source, module)}
        vectors |= {vector.name: vector for vector in _vectors(family, component, source, module)}
    files = {component: list(source.files) for component, source in sources.items()}
    return Checkpoint(recognition, family.spec.lora_base, layers, vectors, files)


def _layers(family: Family, component: str, source: PartSource, module: nn.Module) -> Iterator[WeightLayer]:
    kinds = dict(_kinds(family, module))
    untrained = {encoder.component for encoder in family.spec.encoders if not encoder.is_trainable}
    modules = {f"{path}.weight": layer for path, layer in module.named_modules() if _takes_lora(layer)}
    candidates = source.key_candidates(list(modules))
    file_of = {name: file for file in source.files for name in read_header(file).tensors}
    spots: dict[str, Spot] = {}
    for key, layer in modules.items():
        tensor = next((candidate for candidate in candidates[key] if candidate.name in file_of), None)
        if tensor is None:
            raise ModelError(
                f"{printable(source.files[0])} lacks {printable(candidates[key][0].name)} of its {component}.",
                "Fetch it again, or use another copy of the checkpoint.",
                code="checkpoint-incomplete",
            )
        spots[key] = Spot(file_of[tensor.name], tensor, tuple(layer.weight.shape))
    for name, keys in kohya_layers(family, component, module, source.config).items():
        kind = kinds.get(keys[0].removesuffix(".weight"), "")
        yield WeightLayer(
            name,
            component,
            tuple(spots[key] for key in keys),
            usual=kind == "attention",
            convolutional=kind == "convolution",
            trainable=component not in untrained,
            swapped=family.spec.layers.halves_swapped(name),
        )


def _vectors(family: Family, component: str, source: PartSource, module: nn.Module) -> Iterator[WeightLayer]:
    """The biases of the layers of a component, and its norm layers; those that the files have."""
    paths = kohya_layers(family, component, module, source.config)
    name_of = _namer(family, component, source.config)
    norms = [path for path, layer in module.named_modules() if isinstance(layer, NORMS) and layer.weight is not None]
    keys = {f"{name}.bias": [f"{key.removesuffix('.weight')}.bias" for key in own] for name, own in paths.items()}
    for path in norms:
        keys |= {f"{name_of(f'{path}.weight')[0]}.{end}": [f"{path}.{end}"] for end in ("weight", "bias")}
    parameters = dict(module.named_parameters())
    keys = {name: own for name, own in keys.items() if all(key in parameters for key in own)}
    candidates = source.key_candidates([key for own in keys.values() for key in own])
    file_of = {name: file for file in source.files for name in read_header(file).tensors}
    for name, own in keys.items():
        tensors = [next((tensor for tensor in candidates[key] if tensor.name in file_of), None) for key in own]
        spots = [
            Spot(file_of[tensor.name], tensor, tuple(parameters[key].shape))
            for key, tensor in zip(own, tensors, strict=True)
            if tensor is not None
        ]
        if len(spots) == len(own):
            swapped = family.spec.layers.halves_swapped(name.rpartition(".")[0])
            yield WeightLayer(name, component, tuple(spots), False, False, False, swapped)


def kohya_layers(
    family: Family, component: str, module: nn.Module, config: Mapping[str, Any]
) -> dict[str, tuple[str, ...]]:
    """Kohya's names of the layers of a component, each with the keys of its weights in the order of its rows.

    Args:
        component: the denoiser, or a text encoder of the family.
        config: what the module was built from.
    """
    name_of = _namer(family, component, config)
    rows: dict[str, list[tuple[int, str]]] = {}
    for path, layer in module.named_modules():
        if _takes_lora(layer):
            name, row = name_of(f"{path}.weight")
            rows.setdefault(name, []).append((row, f"{path}.weight"))
    return {name: tuple(key for _, key in sorted(keys, key=lambda entry: entry[0])) for name, keys in rows.items()}


def _takes_lora(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.Conv2d)


def _kinds(family: Family, module: nn.Module) -> Iterator[tuple[str, str]]:
    """Module paths inside the classes that Kohya trains."""
    for kind, classes in (("convolution", family.spec.conv_classes), ("attention", family.spec.lora_classes)):
        for parent_path, parent in module.named_modules():
            if has_class(parent, classes):
                yield from ((f"{parent_path}.{path}", kind) for path, _ in parent.named_modules() if path)


def _namer(family: Family, component: str, config: Mapping[str, Any]) -> Callable[[str], tuple[str, int]]:
    """A function from the key of a weight to (Kohya's name, its first row there)."""
    encoder = next((encoder for encoder in family.spec.encoders if encoder.component == component), None)

    def of_text(key: str) -> tuple[str, int]:
        assert encoder is not None
        path = key.removesuffix(".weight").removeprefix("text_model.").replace(".", "_")
        return encoder.prefix + encoder.level + path, 0

    def of_denoiser(key: str) -> tuple[str, int]:
        path, row = family.kohya_row(key, config)
        return DENOISER + path, row

    return of_denoiser if encoder is None else of_text


def add_to(tensor: Tensor, source: TensorSource, change: Tensor) -> None:
    """Add a change of one of diffusers' weights to the file's tensor that contains it, in place."""
    number, count = source.chunk
    piece = tensor if count == 1 else tensor.chunk(count)[number]
    if source.rows is not None:
        piece = piece[source.rows]
    if source.swapped:
        change = torch.cat(change.chunk(2)[::-1])
    if source.transposed:
        piece = piece.T
    piece += change.reshape(piece.shape)


def weight_of(spot: Spot, handles: Mapping[str, Any]) -> Tensor:
    """One of diffusers' weights in float32; fp8 is dequantised.

    Args:
        handles: tensor names of the checkpoint's files to the open file.
    """
    tensor: Tensor = handles[spot.source.name].get_tensor(spot.source.name)
    name = scale_of(spot.source.name, handles)
    values = tensor.float() if name is None else dequantize_fp8(tensor, handles[name].get_tensor(name))
    return spot.source.of(values).reshape(spot.shape)


@contextmanager
def opened(checkpoint: Checkpoint) -> Iterator[dict[str, dict[str, Any]]]:
    """The open files of a checkpoint: tensor names to handles, by component."""
    with ExitStack() as stack:
        handles = {}
        for component, files in checkpoint.files.items():
            inside = stack.enter_context(open_tensors(files))
            handles[component] = {name: handle for name, (handle, _) in inside.items()}
        yield handles


def layer_weight(layer: WeightLayer, handles: Mapping[str, Mapping[str, Any]]) -> Tensor:
    """The weight of one of Kohya's layers, float32.

    Args:
        handles: as `opened` gives them.
    """
    return layer.joined([weight_of(spot, handles[layer.component]) for spot in layer.spots])
