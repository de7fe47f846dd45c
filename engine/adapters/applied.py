"""LoRA files applied to a loaded model, each at a strength that can be changed at any time.

The model's weights are not changed: each layer gets a hook that adds the files' contribution to its output. So a
strength of 0 is the base itself, the base may be quantised or in split mode, and nothing has to be subtracted. A plain
LoRA is added in the order of peft's own forward, in float32: at strength 1 the result is the trainer's, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from engine.adapters.changes import HookedLayer, changes_of
from engine.adapters.formats import Format
from engine.adapters.kinds.registry import kind_named
from engine.adapters.places import Place, places
from engine.adapters.stated_alphas import stated_alphas
from engine.adapters.usable import check_usable
from engine.errors import ModelError
from engine.families.base import Model
from engine.models.header import read_header
from engine.text import listing, printable
from engine.types import Log


class AppliedLoras:
    """Applies files to `model`, all at strength 0 until `set_strengths`.

    Args:
        base: `FamilySpec.lora_base`: a file for another kind of model is refused.
        log: called with the modules that have no layer in the model.

    Raises:
        ModelError: a file is unusable here (`check_usable`), or its shapes are those of another model.
    """

    def __init__(self, model: Model, files: Sequence[Path], base: str, log: Log) -> None:
        self._strengths = [0.0] * len(files)
        self._layers: dict[tuple[str, str], HookedLayer] = {}
        targets = [*model.lora_targets(conv=True), *model.outer_targets(), *model.norm_targets(conv=True)]
        for number, file in enumerate(files):
            lora = check_usable(file, base, log)
            placed = places(lora, targets, model.trainable, base)
            if not placed:
                raise ModelError(
                    f"{printable(file)} has no module of this model; it has {listing(sorted(lora.modules), 3)}.",
                    "It was made for another kind of model: name the one that it was trained on with --model.",
                    code="lora-without-modules",
                )
            unplaced = [printable(name) for name in lora.modules if name not in placed]
            if unplaced:
                log(f"{len(unplaced)} modules of {printable(file.name)} have no layer in this model and are skipped: "
                    f"{listing(unplaced, 3)}.")  # fmt: skip
            self._add(model, number, file, lora, placed)
        self._handles = [layer.module.register_forward_hook(layer.hook) for layer in self._layers.values()]

    def set_strengths(self, strengths: Iterable[float]) -> None:
        """One for each file; 0 switches a file off."""
        self._strengths[:] = strengths

    def remove(self) -> None:
        """Remove the hooks; the model is as before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _add(self, model: Model, number: int, file: Path, lora: Format, placed: dict[str, Place]) -> None:
        header, tensors = read_header(file), load_file(file)
        shapes = header.shapes
        alphas = stated_alphas(file, lora, shapes, {"": (header.metadata, file)})
        for name, place in placed.items():
            module = lora.modules[name]
            parts = {role: tensors[key].float() for role, key in module.parts.items()}
            if name in alphas:
                parts["alpha"] = torch.tensor(alphas[name], dtype=torch.float64)
            layers = [model.trainable[place.component].get_submodule(path) for path in place.paths]
            changes = changes_of(kind_named(module.kind(shapes)), parts, layers)
            if changes is None:
                raise ModelError(
                    f"{printable(file)}: the shapes of {printable(name)} are not those of the layer in this model.",
                    "It was made for another model: name the one that it was trained on with --model.",
                    code="lora-of-other-size",
                )
            for path, layer, change in zip(place.paths, layers, changes, strict=True):
                key = (place.component, path)
                self._layers.setdefault(key, HookedLayer(layer, self._strengths)).changes.append((number, change))
