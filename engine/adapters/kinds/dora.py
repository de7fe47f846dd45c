"""DoRA: any kind with the norms of the merged weight's rows, or columns, stored separately (Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.adapters.kinds.base import A1111, UIS, AdapterKind, Parts, RoleShapes, Weight
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAGNITUDE = "magnitude"
ENDS = dict.fromkeys(
    (
        *("dora_scale", "magnitude", "lora_magnitude_vector", "lora_magnitude_vector.weight"),
        *("lora_magnitude_vector.default", "lora_magnitude_vector.default.weight"),
    ),
    MAGNITUDE,
)
_READERS = (*UIS, "LyCORIS", "OneTrainer")
_BY_OUTPUTS = "not exactly: it divides by the norms of the base's own weights, as wd_on_output is set"
_NOT_BY_OUTPUTS = "it reads norms of inputs only: switch wd_on_output off"


class Decomposed(AdapterKind):
    """A kind with DoRA's weight decomposition.

    LyCORIS and peft store one norm for each output, `wd_on_output=False` one for each input; the shape distinguishes
    them, [out, 1] or [1, in].
    """

    def __init__(self, plain: AdapterKind) -> None:
        self.plain = plain
        self.name = "DoRA" if plain.name == "LoRA" else f"{plain.name} with DoRA"
        self.needed = plain.needed
        self.scaled = plain.scaled
        self.off_at_zero = plain.off_at_zero and plain.name != "LoRA"
        self.in_tables = plain.in_tables
        self.readers = tuple(reader for reader in plain.readers if reader in _READERS)
        self.diffusers_in_peft_names = plain.diffusers_in_peft_names
        self.factors = plain.factors | {MAGNITUDE} if plain.factors else frozenset()
        self.needs_weight = True
        self.kept_exact = frozenset({MAGNITUDE})

    def recognises(self, parts: RoleShapes) -> bool:
        return MAGNITUDE in parts and self.plain.recognises(parts)

    def lacking(self, parts: RoleShapes, style: str) -> list[str]:
        return self.plain.lacking(parts, style)

    def rank(self, parts: RoleShapes) -> str | None:
        return self.plain.rank(parts)

    def inputs(self, parts: RoleShapes) -> int | None:
        return self.plain.inputs(parts)

    def outputs(self, parts: RoleShapes) -> int | None:
        return self.plain.outputs(parts)

    def pairs(self, parts: RoleShapes) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return self.plain.pairs(parts)

    def effective_rank(self, parts: Parts) -> int | None:
        return self.plain.effective_rank(parts)

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        """The merged weight rescaled to the file's norms, minus the weight."""
        own = weight()
        merged = own + self.plain.delta(parts, weight).reshape(own.shape)
        magnitude = parts[MAGNITUDE]
        values = magnitude.flatten()
        if len(values) == len(own) and (magnitude.ndim < 2 or magnitude.shape[0] == len(own)):
            factors = values / _norms(merged)
            return merged * factors.reshape(-1, *(1 for _ in merged.shape[1:])) - own
        factors = values / _norms(merged.transpose(0, 1))
        return merged * factors.reshape(1, -1, *(1 for _ in merged.shape[2:])) - own


class TrainedDecomposed(Decomposed, TrainableKind):
    """A kind that is trained with weight decomposition: W' = m · (W + ΔW) / ‖W + ΔW‖, as in LyCORIS 4.1 with a gradient
    through the norm.

    What is trained of m is its difference from ‖W‖. Programs read norms of inputs alike, [1, in(, 1, 1)]; for those of
    outputs, [out, 1(, 1, 1)], ComfyUI and Forge divide by ‖W‖, and A1111 has no formula.

    Args:
        by_outputs: LyCORIS' wd_on_output.
    """

    def __init__(self, plain: TrainableKind, *, by_outputs: bool = False) -> None:
        Decomposed.__init__(self, plain)
        self.plain: TrainableKind = plain
        self._by_outputs = by_outputs
        self.also = frozenset("DoRA" if name == "LoRA" else f"{name} with DoRA" for name in plain.also)
        self.written = {MAGNITUDE: "dora_scale", **plain.written}  # type: ignore[misc]
        self.outer, self.plus = plain.outer, plain.plus
        self.scaled_by_scalar = plain.scaled_by_scalar
        if by_outputs:
            self.readers = tuple(reader for reader in self.readers if reader != A1111)
            self.remarks = {**dict.fromkeys(UIS, _BY_OUTPUTS), A1111: _NOT_BY_OUTPUTS}  # type: ignore[misc]

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.is_decomposed and self.plain.is_chosen(network)

    def takes(self, name: str) -> bool:
        return self.plain.takes(name)

    def trained_name(self, network: NetworkTable) -> str:
        name = self.plain.trained_name(network)
        return "DoRA" if name == "LoRA" else f"{name} with DoRA"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        return {MAGNITUDE: self._norm_shape(shape), **self.plain.shapes(shape, size)}

    def _norm_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        out, inputs, *kernel = shape
        sides = (out, 1) if self._by_outputs else (1, inputs)
        return (*sides, *(1 for _ in kernel))

    def written_shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        """Norms as they are written here: a file's may be a vector."""
        return {**super().written_shapes(shape, size), MAGNITUDE: self._norm_shape(shape)}

    def constants(self, shape: tuple[int, ...], size: Size) -> dict[str, float]:
        shapes = tuple((role, sides) for role, sides in size.file_shapes if role != MAGNITUDE)
        return self.plain.constants(shape, replace(size, file_shapes=shapes))

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """As without decomposition; m begins at ‖W‖."""
        import torch

        return {MAGNITUDE: torch.zeros(self._norm_shape(shape)), **self.plain.initial(shape, size, generator)}

    def offsets(self, weight: Weight, size: Size) -> dict[str, Tensor]:
        """‖W‖."""
        own = weight()
        norms = _norms(own if self._by_outputs else own.transpose(0, 1))
        return {MAGNITUDE: norms.reshape(self._norm_shape(tuple(own.shape)))}

    def file_parts(self, trained: Parts, size: Size) -> dict[str, Tensor]:
        return self.plain.file_parts(trained, size)

    def trained_parts(self, parts: Parts) -> dict[str, Tensor]:
        return self.plain.trained_parts(parts)

    def squared_norm(self, trained: Parts, parts: Parts, weight: Weight) -> Tensor:
        """Of ΔW before the decomposition, as in LyCORIS."""
        return self.plain.squared_norm(trained, parts, weight)

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        """Of norms of outputs only: those of inputs are over all rows."""
        own = self.plain.rows(parts, rows) if self._by_outputs else None
        return None if own is None else {**own, MAGNITUDE: parts[MAGNITUDE][rows]}

    def check_start(self, name: str, shapes: Mapping[str, tuple[int, ...]], network: NetworkTable) -> None:
        self.plain.check_start(name, shapes, network)
        roles = {role: shapes[end] for role, end in self.written.items() if end in shapes}
        if MAGNITUDE in roles and is_for_outputs(roles, self.outputs(roles)) != self._by_outputs:
            own, file = ("outputs", "inputs") if self._by_outputs else ("inputs", "outputs")
            raise ModelError(
                f"{name} of the LoRA to start from has DoRA's norms of {file}, here they are of {own}.",
                f"Set network.wd_on_output={str(not self._by_outputs).lower()}.",
                code="lora-of-other-norms",
            )


def is_for_outputs(parts: RoleShapes, outputs: int | None) -> bool:
    """Whether the norms are those of the rows, one for each output."""
    shape = parts.get(MAGNITUDE, ())
    return bool(shape) and shape[0] == outputs != 1


def _norms(rows: Tensor) -> Tensor:
    import torch

    norms: Tensor = rows.flatten(1).norm(dim=1)
    return norms.clamp(min=torch.finfo(torch.float32).tiny)
