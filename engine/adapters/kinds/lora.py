"""LoRA, with convolutions LoCon: ΔW = up · down · alpha / r (Hu et al. 2021; LyCORIS 4.1 for convolutions)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from engine.adapters.kinds.base import OTHERS, POPULAR, UIS, AdapterKind, Parts, RoleShapes, first_shape, first_side
from engine.adapters.kinds.formula import SCALAR, Size, has_kernel, kaiming, normal
from engine.adapters.kinds.trainable import LayerKind, TrainableKind
from engine.config.network import FROM_BASE, LYCORIS, NetworkTable
from engine.errors import ModelError
from engine.models.lora_names import ALPHA, DOWN, UP, misread_by_diffusers
from engine.types import LoraTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from engine.adapters.modules import AdapterModule
    from engine.families.base import LoraReader

_BEFORE_DOWN = re.compile(r"[._]lora(?:_linear_layer|\d)?$")
"""Required before `.down.weight`, else the key is a base model's; a digit belongs to the module."""
_SPELLINGS = {"lora_A": ("lora_A.weight", "lora_B.weight"), "down": ("down.weight", "up")}
"""Ends of keys of down and up by style, for the message where one is missing."""


_FIT_RANKS = (
    "Set network_dim and conv_dim to that file's ranks, or set dim_from_weights; another kind of model does not fit at "
    "all."
)
_FIT_DOUBLED = (
    "With init_lora_weights = pissa or olora a file has twice network_dim and conv_dim: set half of its ranks, or "
    "init_lora_weights = default with its ranks; another kind of model does not fit at all."
)


class _DownAndUp(AdapterKind):
    """Base of LoRA and its Tucker form: an inner matrix `down` and an outer one `up`."""

    needed: tuple[str, ...] = ("down", "up")

    def lacking(self, parts: RoleShapes, style: str) -> list[str]:
        """The required tensors that a module lacks, in the spelling of its style."""
        down, up = _SPELLINGS.get(style, (DOWN, UP))
        names = {"down": down, "up": up}
        return [names.get(part, part) for part in self.needed if part not in parts]

    def rank(self, parts: RoleShapes) -> str | None:
        return first_side(first_shape(parts, "down"))

    def inputs(self, parts: RoleShapes) -> int | None:
        down = first_shape(parts, "down")
        return down[1] if len(down) > 1 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        up = first_shape(parts, "up")
        return up[0] if up else None

    def pairs(self, parts: RoleShapes) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [(parts["down"], parts["up"])] if {"down", "up"} <= parts.keys() else []

    def effective_rank(self, parts: Parts) -> int | None:
        return int(parts["down"].shape[0])

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        """The tensors for these rows of ΔW alone (`Formula.rows`)."""
        return {**parts, "up": parts["up"][rows]}


class Lora(_DownAndUp, TrainableKind):
    """Two matrices of low rank. In training they are peft's layers, with a faster step (`engine.adapters.fused`) and
    Kohya's dropouts."""

    name = "LoRA"
    ends: ClassVar[Mapping[str, str]] = {
        **{"lora_down.weight": "down", "lora_up.weight": "up"},
        **{"lora_A.weight": "down", "lora_B.weight": "up", "lora_A.default.weight": "down"},
        **{"lora_B.default.weight": "up", "lora_A.bias": "bias", "lora_B.bias": "bias", "lora_up.bias": "bias"},
        **{"down.weight": "down", "up.weight": "up"},
    }
    styles: tuple[tuple[str, str], ...] = (
        ("lora_down.", "lora_down"),
        ("lora_up.", "lora_down"),
        ("lora_A.", "lora_A"),
        ("lora_B.", "lora_A"),
        (".down.weight", "down"),
        (".up.weight", "down"),
    )
    marks = frozenset({"down", "up"})
    scaled = True
    off_at_zero = True
    readers: tuple[str, ...] = (*POPULAR, *OTHERS)
    diffusers_in_peft_names = True
    factors = frozenset({"down", "up"})
    written: ClassVar[Mapping[str, str]] = {"down": DOWN, "up": UP, "alpha": ALPHA}
    outer = frozenset({"up"})
    can_be_decomposed = True

    def recognises(self, parts: RoleShapes) -> bool:
        return super().recognises(parts) and "mid" not in parts

    def module_of(self, end: str, name: str) -> str | None:
        if end not in ("down.weight", "up.weight"):
            return name
        match = _BEFORE_DOWN.search(name)
        if match is None:
            return None
        return name if name[-1].isdigit() else name[: match.start()]

    def low_rank(self, parts: Parts) -> tuple[Tensor, Tensor] | None:
        return parts["down"].float(), parts["up"].float()

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.is_low_rank

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, *rest = shape
        return {"down": (size.rank, *rest), "up": (out, size.rank, *(1 for _ in rest[1:]))}

    def size_in_file(self, parts: Mapping[str, Tensor]) -> Size | None:
        if DOWN not in parts:
            return None
        rank = int(parts[DOWN].shape[0])
        return Size(rank, float(parts[ALPHA]) if ALPHA in parts else float(rank))

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Down Kaiming uniform with a = √5, up zeros, as in Kohya's scripts, until other values take their place; with
        "gaussian" and "orthogonal" as in peft."""
        import torch

        shapes, start = self.shapes(shape, size), size.form.init_lora_weights
        if start == "orthogonal":
            return _orthogonal(shapes, generator)
        is_normal = start == "gaussian"
        down = normal(shapes["down"], 1 / size.rank, generator) if is_normal else kaiming(shapes["down"], generator)
        return {"down": down, "up": torch.zeros(shapes["up"], dtype=torch.float32)}

    def inject(
        self, component: nn.Module, targets: Sequence[LoraTarget], sizes: Mapping[str, Size], network: NetworkTable
    ) -> list[AdapterModule]:
        from engine.adapters.doubled import DoubledLoraModule
        from engine.adapters.lora_layers import inject

        of_base = DoubledLoraModule if network.initialisation in FROM_BASE else None
        return list(inject(self, component, targets, sizes, network, of_base))

    def count(
        self, name: str, shape: tuple[int, ...], layer: LayerKind, network: NetworkTable, *, bias: bool = False
    ) -> int:
        return super().count(name, shape, layer, network, bias=bias) * network.rank_factor

    def initialise(self, modules: Sequence[AdapterModule], devices: Mapping[str, torch.device], seed: int) -> None:
        """All from one generator, in their order, so that seeds give the same values as in earlier versions."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        for module in modules:
            module.initialise(generator, devices[module.target.component])

    def check_start(self, name: str, shapes: Mapping[str, tuple[int, ...]], network: NetworkTable) -> None:
        super().check_start(name, shapes, network.model_copy(update={"dim_from_weights": True}))
        down, up = shapes[DOWN], shapes[UP]
        rank = network.conv_rank if down[2:] not in ((), (1, 1)) else network.network_dim
        rank = down[0] if network.dim_from_weights or rank is None else rank * network.rank_factor
        for part, actual, expected in ((DOWN, down, (rank, *down[1:])), (UP, up, (*up[:1], rank, *up[2:]))):
            if actual != expected:
                raise ModelError(
                    f"{name}.{part} of the LoRA to start from has the shape {list(actual)}, here it is "
                    f"{list(expected)}.",
                    _FIT_RANKS if network.rank_factor == 1 else _FIT_DOUBLED,
                    code="lora-wrong-shape",
                )

    def misread_by_diffusers(self, modules: Sequence[AdapterModule]) -> list[AdapterModule]:
        misread: list[AdapterModule] = []
        for component in dict.fromkeys(module.target.component for module in modules):
            here = {module.target.kohya_name: module for module in modules if module.target.component == component}
            alphas = {name: module.alpha for name, module in here.items()}
            denoiser = next(iter(here.values())).target.is_denoiser
            misread += [here[name] for name in misread_by_diffusers(alphas, denoiser=denoiser)]
        return misread

    def network_args(self, network: NetworkTable) -> dict[str, Any]:
        more = _first_values(network)
        network = network.in_file
        if network.network_module == LYCORIS:
            return {**super().network_args(network), **more}
        arguments = {
            "conv_dim": network.conv_dim,
            "conv_alpha": network.conv_alpha if network.conv_dim else None,
            "rank_dropout": network.rank_dropout or None,
            "module_dropout": network.module_dropout or None,
        }
        values: dict[str, Any] = {key: f"{value:g}" for key, value in arguments.items() if value is not None}
        if values and not network.dim_from_weights:
            # Kohya's scripts pass network_dropout on inside network_args, and so write it here too
            values["dropout"] = network.network_dropout or None
        return {**values, **more}

    def read_back(
        self,
        twins: Mapping[str, nn.Module],
        tensors: Mapping[str, Tensor],
        modules: Sequence[AdapterModule],
        reader: LoraReader,
    ) -> None:
        """Read it with diffusers' own loader."""
        from engine.adapters.lora_check import read_back

        misread = [] if reader.folds_alpha else self.misread_by_diffusers(modules)
        read_back(twins, tensors, modules, misread, reader)

    def round_to(self, layer: Any, dtype: torch.dtype) -> None:
        from engine.adapters.lora_layers import round_to

        round_to(layer, dtype)


def _orthogonal(shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Down and up random in two halves of the ranks that are orthogonal to each other, so that their product is 0 up to
    rounding and none of them is; a rank without a partner has the usual values."""
    import torch

    (rank, *rest), (outputs, *_) = shapes["down"], shapes["up"]
    half, inputs = rank // 2, prod(rest)
    mixed, _ = torch.linalg.qr(torch.randn(2 * half, 2 * half, generator=generator))
    down = torch.randn(inputs, half, generator=generator) @ mixed[0::2] / 10
    up = torch.randn(outputs, half, generator=generator) @ mixed[1::2] / 10
    values = {"down": kaiming(shapes["down"], generator), "up": torch.zeros(shapes["up"])}
    values["down"][: 2 * half] = down.T.reshape(2 * half, *rest)
    values["up"].flatten(1)[:, : 2 * half] = up
    return values


def _first_values(network: NetworkTable) -> dict[str, str]:
    """Settings of the training that a file does not show, for `ss_network_args`."""
    values = {} if network.initialisation == "default" else {"init_lora_weights": network.initialisation}
    if network.tlora_min_rank is None:
        return {**values}
    return {**values, "tlora_min_rank": str(network.tlora_min_rank), "tlora_alpha": f"{network.tlora_alpha:g}"}


class Tucker(_DownAndUp, TrainableKind):
    """A convolution's LoRA in three matrices: ΔW[o, i, h, w] = Σ up[o, a] · mid[a, b, h, w] · down[b, i].

    In training also a plain LoRA with a trained scalar, and on the other layers of a run with Tucker decomposition.
    """

    name = "LoRA with Tucker decomposition"
    ends: ClassVar[Mapping[str, str]] = {"lora_mid.weight": "mid"}
    marks = frozenset({"mid"})
    needed = ("down", "up", "mid")
    scaled = True
    off_at_zero = True
    readers = (*UIS, "LyCORIS")
    factors = frozenset(needed)
    written: ClassVar[Mapping[str, str]] = {"down": DOWN, "up": UP, "mid": "lora_mid.weight", "alpha": ALPHA}
    outer = frozenset({"up"})
    scaled_by_scalar = outer
    can_be_decomposed = True
    also = frozenset({Lora.name})

    def low_rank(self, parts: Parts) -> tuple[Tensor, Tensor] | None:
        """The core is multiplied into down, which changes only the size."""
        import torch

        down, up = parts["down"].float(), parts["up"].float()
        if "mid" in parts:
            down = torch.einsum("abhw,bi->aihw", parts["mid"].float(), down.flatten(1))
        return down, up

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo in ("lora", "locon") and not network.is_low_rank

    def trained_name(self, network: NetworkTable) -> str:
        return self.name if network.use_tucker else Lora.name

    def size_in_file(self, parts: Mapping[str, Tensor]) -> Size | None:
        size = Lora().size_in_file(parts)
        if size is None:
            return None
        ends = {end: role for role, end in self.written.items() if role != "alpha"}
        shapes = tuple((ends[end], tuple(part.shape)) for end, part in parts.items() if end in ends)
        return replace(size, file_shapes=shapes)

    def check_start(self, name: str, shapes: Mapping[str, tuple[int, ...]], network: NetworkTable) -> None:
        Lora().check_start(name, shapes, network.model_copy(update={"dim_from_weights": True}))

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, *rest = shape
        rank, ones = size.rank, [1] * len(rest[1:])
        if not (size.form.use_tucker and has_kernel(shape)):
            return {"down": (rank, *rest), "up": (out, rank, *ones)}
        return {"down": (rank, rest[0], *ones), "up": (out, rank, *ones), "mid": (rank, rank, *rest[1:])}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Kaiming uniform, up zeros. With a scalar that is 0 instead."""
        import torch

        scalar = size.form.use_scalar
        values = {
            role: torch.zeros(sides) if role == "up" and not scalar else kaiming(sides, generator)
            for role, sides in self.shapes(shape, size).items()
        }
        return {**values, SCALAR: torch.zeros(())} if scalar else values
