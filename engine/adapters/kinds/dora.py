"""DoRA: any kind with the norms of the merged weight's rows, or columns, stored separately (Liu et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.adapters.kinds.base import UIS, AdapterKind, Parts, RoleShapes, Weight

if TYPE_CHECKING:
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


def is_for_outputs(parts: RoleShapes, outputs: int | None) -> bool:
    """Whether the norms are those of the rows, one for each output."""
    shape = parts.get(MAGNITUDE, ())
    return bool(shape) and shape[0] == outputs != 1


def _norms(rows: Tensor) -> Tensor:
    import torch

    norms: Tensor = rows.flatten(1).norm(dim=1)
    return norms.clamp(min=torch.finfo(torch.float32).tiny)
