"""The tensors of a LoRA file in any naming, as the run's own in Kohya's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.adapters.formats import Format, in_kohya_names, recognise_format
from engine.adapters.joined import Pair, merge_parts
from engine.adapters.keys import Module
from engine.adapters.kinds.registry import companion
from engine.adapters.kinds.trainable import TrainableKind
from engine.adapters.places import Place, places
from engine.adapters.start import is_in_kohyas_format
from engine.adapters.stated_alphas import stated_alphas
from engine.adapters.weights import shape_of
from engine.errors import ModelError
from engine.models.header import read_header
from engine.text import listing, printable
from engine.types import Log, LoraTarget

_ALPHA = "alpha"


def start_tensors(
    path: Path,
    kind: TrainableKind,
    base: str,
    targets: Sequence[LoraTarget],
    components: Mapping[str, nn.Module],
    log: Log,
) -> dict[str, Tensor]:
    """The file in Kohya's names, with the same effect as in the programs that its names are of.

    Where Kohya's layer is several layers here (FLUX's query, key, value), their LoRAs become one. Alphas that are no
    tensors follow the rule of the naming: the file's metadata or adapter_config.json, else the rank.

    Args:
        path: checked by `check_start`.
        kind: what the run trains; norm layers have theirs.
        base: `FamilySpec.lora_base`.
        targets: the layers that may have a LoRA. A layer of a group without a LoRA in the file gets rows of zeros.
        components: the model's trainable parts by name.
        log: called with the modules that the model does not have, which are skipped.

    Raises:
        ModelError: no module belongs to this model, or a shape is another one.
    """
    header = read_header(path)
    lora = recognise_format(header.shapes, header.metadata)
    assert lora is not None, "`check_start` refuses other files"
    tensors = load_file(path)
    if is_in_kohyas_format(lora, kind):
        return in_kohya_names(tensors, lora, targets)
    alphas = stated_alphas(path, lora, header.shapes, {"": (header.metadata, path)})
    result = _Collected(lora, kind, tensors, alphas)
    owners = {(target.component, path): target for target in targets for path in target.paths}
    for name, place in places(lora, targets, components, base).items():
        if target := owners.get((place.component, place.paths[0])):
            result.add(name, place, target)
    unknown = [printable(name) for name in lora.modules if name not in result.used]
    if not result.used:
        raise ModelError(
            f"The LoRA to start from has no module of this model; it has {listing(sorted(unknown), 3)}.",
            "It was made for another kind of model.",
            code="lora-without-modules",
        )
    if unknown:
        log(
            f"{len(unknown)} modules of the LoRA to start from do not exist in this run and are skipped: "
            f"{listing(sorted(unknown), 3)}."
        )
    return result.tensors(components)


class _Collected:
    """The modules of a file by the run's layers."""

    def __init__(
        self, lora: Format, kind: TrainableKind, tensors: Mapping[str, Tensor], alphas: Mapping[str, float]
    ) -> None:
        self._lora, self._kind, self._tensors, self._alphas = lora, kind, tensors, alphas
        self._complete: dict[str, dict[str, Tensor]] = {}
        self._parts: dict[str, tuple[LoraTarget, dict[int, tuple[int, Pair]], list[Tensor]]] = {}
        self.used: set[str] = set()
        """Modules that have a layer in the model."""

    def add(self, name: str, place: Place, target: LoraTarget) -> None:
        """Add a module of the file.

        Args:
            target: that the layers of `place` belong to.
        """
        module, number = self._lora.modules[name], target.paths.index(place.paths[0])
        self.used.add(name)
        if len(place.paths) == len(target.paths):
            taken = target.kohya_name in self._complete.keys() | self._parts.keys()
            self._complete[target.kohya_name] = self._renamed(name, module)
        else:
            _, parts, alphas = self._parts.setdefault(target.kohya_name, (target, {}, []))
            taken = number in parts or target.kohya_name in self._complete
            parts[number] = (len(place.paths), self._pair(name, module))
            alphas += [self._tensors[module.parts[_ALPHA]]] if _ALPHA in module.parts else []
        if taken:
            raise ModelError(
                f"The LoRA to start from has {target.kohya_name} twice, in two namings.",
                "Use another copy.",
                code="lora-layer-twice",
            )

    def tensors(self, components: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """All tensors in Kohya's names."""
        result = {f"{layer}.{end}": part for layer, parts in self._complete.items() for end, part in parts.items()}
        for layer, (target, parts, alphas) in self._parts.items():
            component = components[target.component]
            layers = [component.get_submodule(path) for path in target.paths]
            widths = [shape_of(getattr(layer, "base_layer", layer))[0] for layer in layers]
            try:
                down, up, scale = merge_parts(parts, widths, keeps_apart=target.is_split)
            except RuntimeError as error:
                raise ModelError(
                    f"The parts of {layer} in the LoRA to start from do not fit this model: {error}.",
                    "It was made for another kind of model.",
                    code="lora-wrong-shape",
                ) from error
            dtype = alphas[0].dtype if alphas else torch.float32
            joined = {"down": down, "up": up, _ALPHA: torch.tensor(scale * len(down), dtype=dtype)}
            result |= {f"{layer}.{self._kind.written[role]}": tensor for role, tensor in joined.items()}
        return result

    def _renamed(self, name: str, module: Module) -> dict[str, Tensor]:
        """A module's tensors by the ends of keys, with an alpha where the file or its settings have one."""
        norm = companion()
        kind = self._kind if norm.marks.isdisjoint(module.parts) else norm
        parts = {role: self._tensors[key] for role, key in module.parts.items() if role in kind.written}
        if "scale" in module.parts or (_ALPHA not in parts and name in self._alphas):
            parts[_ALPHA] = torch.tensor(self._alpha(name, module), dtype=torch.float32)
        return {kind.written[role]: part for role, part in parts.items()}

    def _pair(self, name: str, module: Module) -> Pair:
        down, up = self._tensors[module.parts["down"]], self._tensors[module.parts["up"]]
        return down, up, self._alpha(name, module) / len(down)

    def _alpha(self, name: str, module: Module) -> float:
        own = {role: self._tensors[key] for role, key in module.parts.items()}
        rank = float(self._kind.effective_rank(own) or 1)
        if "scale" in module.parts:  # A1111 uses it instead of alpha / rank
            return float(self._tensors[module.parts["scale"]]) * rank
        return float(self._tensors[module.parts[_ALPHA]]) if _ALPHA in module.parts else self._alphas.get(name, rank)
