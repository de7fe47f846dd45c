"""The adapters of a run: attached to the model, saved and loaded in Kohya's names. Independent of the kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from engine.adapters.flat import FlatParameters
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.registry import companion
from engine.adapters.kinds.trainable import TrainableKind
from engine.adapters.modules import AdapterModule
from engine.adapters.selection import Selection
from engine.config.network import NetworkTable
from engine.config.rates import RateGroup
from engine.errors import ModelError, UsageError
from engine.models.lora_names import by_module
from engine.text import listing
from engine.types import Log, LoraTarget


class AdapterNetwork:
    """All adapters of a run. Their parameters are float32; the base stays frozen in its own dtype."""

    def __init__(
        self,
        kind: TrainableKind,
        modules: Sequence[AdapterModule],
        selection: Selection,
        *,
        folds_alpha: bool = False,
    ) -> None:
        self.kind = kind
        """Of the modules on linear layers and convolutions."""
        self.modules = list(modules)
        self.selection = selection
        self._folds_alpha = folds_alpha
        self._masks = [mask for mask in dict.fromkeys(module.rank_mask for module in modules) if mask is not None]

    @classmethod
    def attach(
        cls,
        kind: TrainableKind,
        components: Mapping[str, nn.Module],
        targets: Sequence[LoraTarget],
        *,
        network: NetworkTable,
        selection: Selection | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
        generator_seed: int = 0,
        folds_alpha: bool = False,
        log: Log,
    ) -> AdapterNetwork:
        """Attach adapters to the components, in place.

        Args:
            components: the model's trainable parts by name.
            targets: layers to be trained, in Kohya's order; with convolutions where
                `TrainableKind.takes_convolutions`.
            network: the kind's settings, dropouts.
            selection: the choice of the targets, with ranks and groups of their own.
            weights: a file to start from (`network_weights`), in Kohya's names.
            generator_seed: seed of the initial values; the global generators are not used.
            folds_alpha: see `LoraReader.folds_alpha`.
            log: called for everything that is left out.

        Raises:
            ModelError: `weights` do not fit.
        """
        if network.dim_from_weights and weights is None:
            raise UsageError(
                "dim_from_weights needs network_weights.",
                "Name the LoRA whose ranks are used.",
                code="dim-from-weights-without-file",
            )
        by_kind = _by_kind(kind, targets)
        selection = selection or Selection()
        sizes = _sizes(by_kind, network, selection, weights)
        chosen = [target for target in targets if target.kohya_name in sizes]
        if not chosen:
            raise UsageError(
                f"Nothing would be trained: no layer of this model takes the kind {kind.name}.",
                "Choose another network.algo.",
                code="nothing-trained",
            )
        modules = _inject(by_kind, components, chosen, sizes, network)
        # A component computes on its first layer's device; the weights of its blocks may be elsewhere (split mode).
        devices = {name: next(component.parameters()).device for name, component in components.items()}
        result = cls(kind, modules, selection, folds_alpha=folds_alpha)
        for each in by_kind:
            each.initialise(result.modules_of(each), devices, generator_seed)
        if weights is not None:
            result.load(weights, log)
        if weights is not None or not result.selection.is_usual:
            result.note_misread(log)
        return result

    @property
    def kinds(self) -> list[TrainableKind]:
        """The kinds of its modules, each once."""
        return [self.kind, *([companion()] if any(_is_norm(module) for module in self.modules) else [])]

    def modules_of(self, kind: TrainableKind) -> list[AdapterModule]:
        """Its modules of a kind."""
        return [module for module in self.modules if _is_norm(module) == kind.is_companion]

    def group_of(self, module: AdapterModule) -> RateGroup:
        """The group of a module's learning rate, without LoRA+."""
        choice = self.selection.by_name.get(module.target.kohya_name)
        return RateGroup(module.target.component) if choice is None else choice.group

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters: component by component, each in the order of its modules."""
        by_component: dict[str, list[nn.Parameter]] = {}
        for module in self.modules:
            by_component.setdefault(module.target.component, []).extend(module.parameters)
        return [parameter for parameters in by_component.values() for parameter in parameters]

    def constants(self) -> list[nn.Parameter]:
        """`AdapterModule.constants` of all modules."""
        return [constant for module in self.modules for constant in module.constants]

    def use_flat(self, flat: FlatParameters) -> list[nn.Parameter]:
        """Let the layers compute from the flat parameters where they can; returns the parameters of which only slots
        are used."""
        own = [module for module in self.modules if all(parameter in flat for parameter in module.parameters)]
        return [parameter for module in own for parameter in module.use_flat(flat)]

    def follow(self, timesteps: torch.Tensor) -> None:
        """Set the timesteps [B] of the batch that is trained next, 0 to 1000, for T-LoRA's masks."""
        for mask in self._masks:
            mask.follow(timesteps)

    def module_counts(self) -> dict[str, int]:
        """Number of modules by component."""
        return dict(Counter(module.target.component for module in self.modules))

    def state(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU, float32, in Kohya's names."""
        return {
            f"{module.target.kohya_name}.{end}": tensor.to("cpu", torch.float32, copy=True).contiguous()
            for module in self.modules
            for end, tensor in module.state().items()
        }

    def load(self, tensors: Mapping[str, torch.Tensor], log: Log) -> None:
        """Load values and alphas from a LoRA in Kohya's names; restores the result of `state` exactly.

        A module's alpha is the file's, so that the LoRA starts with its old effect.

        Raises:
            ModelError: another format, or a shape that does not fit.
        """
        ends = [end for kind in self.kinds for end in kind.written.values()]
        in_file = by_module(tensors, ends)
        modules = {module.target.kohya_name: module for module in self.modules}
        missing, unexpected = modules.keys() - in_file.keys(), in_file.keys() - modules.keys()
        if not modules.keys() & in_file.keys():
            raise ModelError(
                f"The LoRA to start from has none of the {len(modules)} modules of this run; it has "
                f"{listing(sorted(unexpected), 3)}.",
                "It was made for another kind of model, or only for parts that are not trained here.",
                code="lora-without-modules",
            )
        if missing:
            log(f"The LoRA to start from lacks {len(missing)} modules; they start new: {listing(sorted(missing), 3)}.")
        if unexpected:
            log(
                f"{len(unexpected)} modules of the LoRA to start from do not exist in this run and are skipped: "
                f"{listing(sorted(unexpected), 3)}."
            )
        changed: Counter[tuple[float, float]] = Counter()
        for name, module in modules.items():
            if name in in_file:
                old = module.alpha
                module.load(in_file[name])
                if module.alpha != old:
                    changed[old, module.alpha] += 1
        for (old, new), count in sorted(changed.items()):
            log(f"Alpha {new:g} instead of {old:g} in {count} modules: it is that of the LoRA to start from.")

    def note_misread(self, log: Log) -> None:
        """Say where diffusers gives modules another strength than other readers do."""
        misread = self.misread_by_diffusers()
        if misread:
            log(
                f"Alpha differs from module to module: ComfyUI, A1111 and Forge read that, diffusers uses the most "
                f"frequent one for {len(misread)} of them."
            )

    def misread_by_diffusers(self) -> list[AdapterModule]:
        """Modules for which diffusers ignores the file's alpha; none where the loader folds alpha."""
        return [] if self._folds_alpha else self.kind.misread_by_diffusers(self.modules_of(self.kind))

    @torch.no_grad()
    def apply_max_norm(self, limit: float) -> tuple[int, float, float]:
        """Scale down each module whose norm ‖ΔW‖ is above `limit` (`scale_weight_norms`).

        Returns:
            How many were scaled, and the mean and the largest norm afterwards.
        """
        squares = [module.squared_norm() for module in self.modules]
        norms = torch.stack([square.to(squares[0].device) for square in squares]).clamp(min=0).sqrt().tolist()
        scaled = 0
        for index, module in enumerate(self.modules):
            if norms[index] > limit:
                module.shrink(limit / norms[index])
                norms[index] = limit
                scaled += 1
        return scaled, sum(norms) / len(norms), max(norms)

    def round_to(self, components: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
        """Round the adapters in twins of the components that it is in, as a file of this number format does."""
        for kind in self.kinds:
            for module in self.modules_of(kind):
                for path in module.target.paths:
                    kind.round_to(components[module.target.component].get_submodule(path), dtype)

    def train(self, mode: bool = True) -> None:
        """Switch the dropouts on or off; a component's own `train` and `eval` do the same."""
        for layer in self._layers():
            layer.train(mode)

    def rely_on_autocast(self, under_autocast: bool) -> None:
        """Let LoRAs on a base in half precision compute in its number format, by autocast, and not in float32."""
        for layer in self._layers():
            layer.cast_input_dtype_enabled = not under_autocast

    def _layers(self) -> Iterator[Any]:
        return (layer for module in self.modules for layer in module.layers)


def _by_kind(kind: TrainableKind, targets: Sequence[LoraTarget]) -> dict[TrainableKind, list[LoraTarget]]:
    """The targets of `kind`, and of its companion where norm layers are among them."""
    norms = [target for target in targets if target.kind == "norm"]
    others = [target for target in targets if target.kind != "norm"]
    return {kind: others, **({companion(): norms} if norms else {})}


def _sizes(
    by_kind: Mapping[TrainableKind, Sequence[LoraTarget]],
    network: NetworkTable,
    selection: Selection,
    weights: Mapping[str, torch.Tensor] | None,
) -> dict[str, Size]:
    """Sizes of the modules to be attached, by Kohya's names.

    Raises:
        ModelError: `weights` decide the sizes, and have no module of this model.
    """
    ends = [end for kind in by_kind for end in kind.written.values()]
    start = None if weights is None else by_module(weights, ends)
    tables = {name: choice.table(network) for name, choice in selection.by_name.items()}
    sizes: dict[str, Size] = {}
    for kind, targets in by_kind.items():
        sizes |= kind.sizes(targets, network, start, tables)
    if start is not None and not sizes:
        raise ModelError(
            "The LoRA of dim_from_weights has no module of this model.",
            f"It has {listing(list(start), 3)}.",
            code="lora-without-modules",
        )
    return sizes


def _inject(
    by_kind: Mapping[TrainableKind, Sequence[LoraTarget]],
    components: Mapping[str, nn.Module],
    chosen: Sequence[LoraTarget],
    sizes: Mapping[str, Size],
    network: NetworkTable,
) -> list[AdapterModule]:
    """Put modules without values into the components, in place; in the order of `chosen`."""
    modules: dict[str, AdapterModule] = {}
    for name in dict.fromkeys(target.component for target in chosen):
        for kind, targets in by_kind.items():
            here = [target for target in targets if target.component == name and target.kohya_name in sizes]
            for module in kind.inject(components[name], here, sizes, network) if here else ():
                modules[module.target.kohya_name] = module
    return [modules[target.kohya_name] for target in chosen]


def _is_norm(module: AdapterModule) -> bool:
    return module.target.kind == "norm"
