"""LoRA files that are merged into the model before a training: `model.base_weights`, as Kohya's.

Each weight is changed while it is read, in float32, before it is converted or quantized. So there is no second copy of
the model, and what is quantized is the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from engine.adapters.bases import UNKNOWN
from engine.adapters.tools.checkpoint import kohya_layers
from engine.adapters.tools.combine import parts_by_layer, weighted_sum
from engine.adapters.tools.lora_file import read_lora
from engine.config.schema import RunConfig
from engine.errors import ModelError
from engine.families.base import Family, Model
from engine.models.loading import changing_weights
from engine.paths import expanded
from engine.reading import open_file
from engine.text import listing, plural, printable
from engine.types import Log, Recognition

_INTO = "Merge it into a checkpoint, and train on that: lorasmith lora merge FILE --into CHECKPOINT -o NEW.safetensors."
_REST = 2
"""Layers whose ΔW is remembered: the weights of a fused layer follow each other closely."""


class BaseWeights:
    """The files of a run, read; `of_part` is what `load_part` asks for.

    Args:
        merged: the files, each with its strength (`ModelTable.merged`).

    Raises:
        ModelError: a file is unreadable, of another model, or its ΔW cannot be computed from the file alone.
    """

    def __init__(self, merged: list[tuple[str, float]], family: Family) -> None:
        self._family = family
        self._files = [read_lora(expanded(name), hint=_INTO) for name, _ in merged]
        self._strengths = [strength for _, strength in merged]
        for file in self._files:
            if file.base not in (UNKNOWN, family.spec.lora_base):
                raise ModelError(
                    f"model.base_weights: {file.title} is a LoRA for {file.base}, and the model is "
                    f"{family.spec.lora_base}.",
                    "Name LoRA files that were trained on a model of this family.",
                    code="lora-for-other-model",
                )
        self._parts = parts_by_layer([file.layers for file in self._files], self._files, self._strengths)
        self._used: set[str] = set()
        self._change = lru_cache(maxsize=_REST)(self._compute)

    def of_part(self, part: str, module: nn.Module, config: Mapping[str, Any]) -> dict[str, Callable[[], Tensor]]:
        """See `WeightChanges.of_part`."""
        spec = self._family.spec
        if part != spec.denoiser and all(part != encoder.component for encoder in spec.encoders):
            return {}
        changes: dict[str, Callable[[], Tensor]] = {}
        for name, keys in kohya_layers(self._family, part, module, config).items():
            if name not in self._parts:
                continue
            shapes = tuple(tuple(module.get_parameter(key).shape) for key in keys)
            self._require_shape(name, shapes)
            self._used.add(name)
            changes |= {key: partial(self._of_weight, name, shapes, number) for number, key in enumerate(keys)}
        return changes

    def _of_weight(self, name: str, shapes: tuple[tuple[int, ...], ...], number: int) -> Tensor:
        return self._change(name, shapes)[number]

    def _require_shape(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
        layer = self._parts[name][0][0]
        out, *rest = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if layer.matrix_shape != (out, int(torch.Size(rest).numel())):
            raise ModelError(
                f"model.base_weights: {printable(name)} changes a weight of {list(layer.shape)}, and the model's is "
                f"{[out, *rest]}.",
                "The file is for a model of another size.",
                code="lora-wrong-shape",
            )

    def _compute(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        """ΔW of each of diffusers' weights of a layer."""
        with torch.no_grad():
            change = weighted_sum(self._parts[name])
        change = change.reshape(sum(shape[0] for shape in shapes), *shapes[0][1:])
        if self._family.spec.layers.halves_swapped(name):
            change = torch.cat(change.chunk(2)[::-1])
        return torch.split(change, [shape[0] for shape in shapes])

    def report(self, log: Log) -> None:
        """Log what was merged and what was left out; to be called after the model was read.

        Raises:
            ModelError: no layer of a file is in the model.
        """
        for file, strength in zip(self._files, self._strengths, strict=True):
            placed = [name for name in file.layers if name in self._used]
            left_out = [printable(name) for name in file.layers if name not in self._used]
            if not placed:
                raise ModelError(
                    f"model.base_weights: no layer of {file.title} is in this model; it has {listing(left_out, 3)}.",
                    "Name LoRA files that were trained on a model of this family.",
                    code="lora-without-modules",
                )
            log(
                f"Merged into the base: {file.title} at strength {strength:g}, {plural(len(placed), 'layer')}. The new "
                "LoRA belongs to this sum: use both files together."
            )
            if left_out:
                log(f"{file.title}: {plural(len(left_out), 'layer')} left out, which this model does not have: "
                    f"{listing(left_out, 3)}.")  # fmt: skip
            for note in file.notes:
                log(note)

    @property
    def key(self) -> str:
        """SHA-256 over the files and strengths, in hexadecimal, for caches."""
        digest = hashlib.sha256()
        for file, strength in zip(self._files, self._strengths, strict=True):
            with open_file(file.path) as opened:
                digest.update(f"{strength!r} {hashlib.file_digest(opened, 'sha256').hexdigest()} ".encode())
        return digest.hexdigest()


def load_base(family: Family, config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log) -> Model:
    """The model of a run, with its `model.base_weights` in it; see `Family.load`.

    Raises:
        ModelError: see `Family.load` and `BaseWeights`; or no layer of a file is in the model.
    """
    if not config.model.merged:
        return family.load(config, recognition, device, dtype, log)
    weights = BaseWeights(config.model.merged, family)
    with changing_weights(weights):
        model = family.load(config, recognition, device, dtype, log)
    weights.report(log)
    model.merged_key = weights.key
    return model
