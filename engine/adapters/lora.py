"""LoRA layers in a model: put in with peft's layers, named and saved as Kohya names them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from engine.adapters.dropout import add_dropouts
from engine.adapters.fused import fuse
from engine.adapters.module import ADAPTER, LoraModule
from engine.adapters.names import ALPHA, DOWN, UP, by_module
from engine.config.schema import NetworkTable
from engine.errors import ModelError, UsageError
from engine.models.base import LoraTarget
from engine.text import listing

DENOISERS = ("unet", "transformer")
"""Components trained with unet_lr; all others are text encoders."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Size:
    rank: int
    alpha: float


class LoraNetwork:
    """All LoRA layers of a run. Their parameters are float32; the base stays frozen in its own dtype."""

    def __init__(self, modules: Sequence[LoraModule], rates: tuple[float, float], *, folds_alpha: bool = False) -> None:
        self.modules = list(modules)
        self._rates = rates
        self._folds_alpha = folds_alpha

    @classmethod
    def attach(
        cls,
        components: Mapping[str, nn.Module],
        targets: Sequence[LoraTarget],
        *,
        network: NetworkTable,
        rates: tuple[float, float],
        weights: Mapping[str, torch.Tensor] | None = None,
        generator_seed: int = 0,
        folds_alpha: bool = False,
        say: Say,
    ) -> LoraNetwork:
        """Put LoRA layers into the components, in place.

        Args:
            components: the model's trainable parts by name.
            targets: layers that may take one, in Kohya's order; with convolutions when `network.conv_dim` is set or
                when `weights` decide (`network.dim_from_weights`).
            network: ranks, alphas, dropouts, and which parts are trained.
            rates: (UNet, text encoder) learning rates; a part with 0 gets no LoRA.
            weights: a LoRA to start from (`network_weights`, or the adapter of a checkpoint), in Kohya's names.
            generator_seed: seed of the initial values; the global generators are neither used nor moved.
            folds_alpha: see `LoraReader.folds_alpha`.
            say: told about everything that is left out.

        Raises:
            UsageError: nothing would be trained.
            ModelError: `weights` do not fit.
        """
        wanted = _wanted_components(targets, network, rates, say)
        chosen = [target for target in targets if target.component in wanted]
        sizes = _sizes(chosen, network, weights, say)
        chosen = [target for target in chosen if target.kohya_name in sizes]
        modules: dict[str, LoraModule] = {}
        for name in dict.fromkeys(target.component for target in chosen):
            here = [target for target in chosen if target.component == name]
            for module in _inject(components[name], here, sizes):
                modules[module.target.kohya_name] = module
                add_dropouts(module.layers, ADAPTER, network)
        ordered = [modules[target.kohya_name] for target in chosen]
        _initialise(ordered, components, generator_seed)
        result = cls(ordered, rates, folds_alpha=folds_alpha)
        if weights is not None:
            result.load(weights, say)
        return result

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group a component, the text encoder first (as Kohya logs them): params, lr, name."""
        unet_lr, text_encoder_lr = self._rates
        groups: dict[str, dict[str, Any]] = {}
        for module in self.modules:
            name = module.target.component
            rate = unet_lr if name in DENOISERS else text_encoder_lr
            group = groups.setdefault(name, {"params": [], "lr": rate, "name": name})
            group["params"] += module.parameters
        return list(groups.values())

    def parameters(self) -> list[nn.Parameter]:
        """All trained parameters, in the order of the groups."""
        return [parameter for group in self.parameter_groups() for parameter in group["params"]]

    def module_counts(self) -> dict[str, int]:
        """Number of LoRA modules a component."""
        return dict(Counter(module.target.component for module in self.modules))

    def state(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU, float32, in Kohya's names; alpha is 0-dimensional."""
        tensors: dict[str, torch.Tensor] = {}
        for module in self.modules:
            name = module.target.kohya_name
            for part, tensor in ((DOWN, module.down), (UP, module.up)):
                tensors[f"{name}.{part}"] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
            tensors[f"{name}.{ALPHA}"] = torch.tensor(module.alpha, dtype=torch.float32)
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor], say: Say) -> None:
        """Take values and alphas from a LoRA in Kohya's names; what `state` gave comes back exactly.

        A module's alpha is the file's, so that the LoRA begins with the effect that it had.

        Raises:
            ModelError: another format, or a shape that does not fit.
        """
        given = by_module(tensors)
        known = {module.target.kohya_name: module for module in self.modules}
        missing, unexpected = known.keys() - given.keys(), given.keys() - known.keys()
        if not known.keys() & given.keys():
            raise ModelError(
                f"The LoRA to start from has none of the {len(known)} modules of this run; it has "
                f"{listing(sorted(unexpected), 3)}.",
                "It was made for another kind of model, or only for parts that are not trained here.",
            )
        if missing:
            say(f"The LoRA to start from lacks {len(missing)} modules; they start new: {listing(sorted(missing), 3)}.")
        if unexpected:
            say(
                f"{len(unexpected)} modules of the LoRA to start from have no place here and are left out: "
                f"{listing(sorted(unexpected), 3)}."
            )
        changed: Counter[tuple[float, float]] = Counter()
        for name in known:
            if name in given:
                old = known[name].alpha
                known[name].load(given[name])
                if known[name].alpha != old:
                    changed[old, known[name].alpha] += 1
        for (old, new), count in sorted(changed.items()):
            say(f"Alpha {new:g} in place of {old:g} in {count} modules: it is that of the LoRA to start from.")
        misread = self.misread_by_diffusers()
        if misread:
            say(
                f"Alpha differs from module to module: ComfyUI, A1111 and Forge read that, diffusers takes the most "
                f"frequent one for {len(misread)} of them."
            )

    def misread_by_diffusers(self) -> list[LoraModule]:
        """Modules for which diffusers (0.42) does not use the file's alpha.

        In a component whose alphas are not all equal it loses those of attention layers (their names are converted
        wrongly), and since transformers 5.6 all those of the text encoder. A loader that folds alpha loses none.
        """
        modules: list[LoraModule] = []
        if self._folds_alpha:
            return modules
        for name in self.module_counts():
            here = [module for module in self.modules if module.target.component == name]
            first, *others = Counter(module.alpha for module in here).most_common(2)
            tie = bool(others) and others[0][1] == first[1]
            lost = [module for module in here if name not in DENOISERS or "_attn" in module.target.kohya_name]
            modules += [module for module in lost if tie or module.alpha != first[0]]
        return modules

    @torch.no_grad()
    def apply_max_norm(self, limit: float) -> tuple[int, float, float]:
        """Scale down each module whose norm ‖up · down · scale‖ is above `limit` (`scale_weight_norms`).

        ‖U·D‖² is the trace of (UᵀU)(DDᵀ): only rank × rank matrices are made.

        Returns:
            How many were scaled, and the mean and the largest norm after it.
        """
        squares = []
        for module in self.modules:
            down, ups = module.down.flatten(1), [up.flatten(1) for up in module.ups]
            products = sum((up.T @ up for up in ups[1:]), ups[0].T @ ups[0])
            squares.append((products * (down @ down.T)).sum() * module.scale**2)
        norms = torch.stack([square.to(squares[0].device) for square in squares]).clamp(min=0).sqrt().tolist()
        scaled = 0
        for index, module in enumerate(self.modules):
            if norms[index] > limit:
                factor = math.sqrt(limit / norms[index])
                for parameter in module.parameters:
                    parameter.mul_(factor)
                norms[index] = limit
                scaled += 1
        return scaled, sum(norms) / len(norms), max(norms)

    def train(self, mode: bool = True) -> None:
        """Switch the dropouts on or off; a component's own `train` and `eval` do the same."""
        for layer in self._layers():
            layer.train(mode)

    def rely_on_autocast(self, under_autocast: bool) -> None:
        """Under autocast, spare each layer the cast of its input to float32 and back.

        Outside autocast a base in half precision needs that cast: switch it back on there.
        """
        for layer in self._layers():
            layer.cast_input_dtype_enabled = not under_autocast

    def _layers(self) -> Iterator[Any]:
        return (layer for module in self.modules for layer in module.layers)


def _wanted_components(
    targets: Sequence[LoraTarget], network: NetworkTable, rates: tuple[float, float], say: Say
) -> set[str]:
    wanted = set()
    reasons = []
    for name in dict.fromkeys(target.component for target in targets):
        denoiser = name in DENOISERS
        title = {"unet": "the UNet", "transformer": "the transformer"}.get(name, "the text encoder")
        if network.network_train_unet_only and not denoiser:
            reasons.append(f"No LoRA in {title}: network_train_unet_only is set.")
        elif network.network_train_text_encoder_only and denoiser:
            reasons.append(f"No LoRA in {title}: network_train_text_encoder_only is set.")
        elif not rates[0 if denoiser else 1]:
            reasons.append(f"No LoRA in {title}: its learning rate is 0.")
        else:
            wanted.add(name)
    if not wanted:
        raise UsageError(
            " ".join(["Nothing would be trained.", *dict.fromkeys(reasons)]),
            "Raise unet_lr or text_encoder_lr, or unset network_train_unet_only or network_train_text_encoder_only.",
        )
    for reason in dict.fromkeys(reasons):
        say(reason)
    return wanted


def _sizes(
    targets: Sequence[LoraTarget], network: NetworkTable, weights: Mapping[str, torch.Tensor] | None, say: Say
) -> dict[str, _Size]:
    """Rank and alpha of each module by Kohya name; a module that gets no LoRA is absent."""
    if network.dim_from_weights:
        if weights is None:
            raise UsageError("dim_from_weights needs network_weights.", "Name the LoRA whose ranks are to be taken.")
        return _sizes_of_file(targets, weights)
    sizes = {}
    for target in targets:
        if target.kind != "conv3x3":
            sizes[target.kohya_name] = _Size(network.network_dim, network.network_alpha)
        elif network.conv_dim:
            alpha = 1.0 if network.conv_alpha is None else network.conv_alpha
            sizes[target.kohya_name] = _Size(network.conv_dim, alpha)
    return sizes


def _sizes_of_file(targets: Sequence[LoraTarget], weights: Mapping[str, torch.Tensor]) -> dict[str, _Size]:
    sizes = {}
    given = by_module(weights)
    for target in targets:
        parts = given.get(target.kohya_name, {})
        if DOWN in parts:
            rank = int(parts[DOWN].shape[0])
            sizes[target.kohya_name] = _Size(rank, float(parts[ALPHA]) if ALPHA in parts else float(rank))
    if not sizes:
        raise ModelError(
            "The LoRA of dim_from_weights has no module of this model.", f"It has {listing(list(given), 3)}."
        )
    return sizes


def _inject(component: nn.Module, targets: Sequence[LoraTarget], sizes: Mapping[str, _Size]) -> list[LoraModule]:
    """Let peft wrap the layers; new weights stay on the meta device, so that no random number is drawn."""
    component.requires_grad_(False)
    training = component.training
    ranks: dict[int, list[str]] = {}
    alphas: dict[float, list[str]] = {}
    for target in targets:
        size = sizes[target.kohya_name]
        ranks.setdefault(size.rank, []).extend(target.paths)
        alphas.setdefault(size.alpha, []).extend(target.paths)
    config = LoraConfig(
        r=next(iter(ranks)),
        lora_alpha=next(iter(alphas)),  # type: ignore[arg-type]
        rank_pattern={_one_of(paths): rank for rank, paths in list(ranks.items())[1:]},
        alpha_pattern={_one_of(paths): alpha for alpha, paths in list(alphas.items())[1:]},
        target_modules=_one_of([path for target in targets for path in target.paths]),
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, component, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    wrapped = {name: module for name, module in component.named_modules() if hasattr(module, "lora_A")}
    asked = {path for target in targets for path in target.paths}
    assert wrapped.keys() == asked, "peft wrapped other layers than asked for"
    for layer in wrapped.values():
        layer.train(training)
        fuse(layer)
    return [LoraModule(target, tuple(wrapped[path] for path in target.paths)) for target in targets]


def _one_of(paths: Sequence[str]) -> str:
    """A regular expression for exactly these module paths."""
    return "(?:" + "|".join(re.escape(path) for path in paths) + ")"


def _initialise(modules: Sequence[LoraModule], components: Mapping[str, nn.Module], seed: int) -> None:
    """Down Kaiming uniform with a = √5, up zeros, as Kohya's; drawn on the CPU, so the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    # A component computes where its first layer is; the weights of its blocks may wait elsewhere (split mode).
    devices = {name: next(component.parameters()).device for name, component in components.items()}
    for module in modules:
        device = devices[module.target.component]
        values = torch.empty(module.down.shape, dtype=torch.float32)
        nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
        down = nn.Parameter(values.to(device))
        for layer, up in zip(module.layers, module.ups, strict=True):
            layer.lora_A[ADAPTER].weight = down
            layer.lora_B[ADAPTER].weight = nn.Parameter(torch.zeros(up.shape, dtype=torch.float32, device=device))
