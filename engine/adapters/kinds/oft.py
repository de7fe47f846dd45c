"""OFT and BOFT: rotations of a layer's outputs (LyCORIS 4.1 `modules/diag_oft.py`, `boft.py`), or of inputs (peft)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from engine.adapters.kinds.base import A1111, COMFY, FORGE, AdapterKind, Parts, RoleShapes, Weight
from engine.adapters.kinds.factorization import butterfly_factorization, factorization
from engine.adapters.kinds.formula import Size
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ENDS = ("oft_blocks", "rescale")


class Oft(TrainableKind):
    """One rotation of blocks of outputs: `oft_blocks` B [n, b, b], n · b outputs. Block by block
    ΔW = (R − 1)ᵀ · W, R = (1 + Q)(1 − Q)⁻¹, Q = B − Bᵀ; then each output is multiplied by `rescale`.

    Where `alpha` is above 0, it is the constraint: ‖Q‖, over all blocks, is scaled down to alpha · outputs.
    """

    name = "OFT"
    ends: ClassVar[Mapping[str, str]] = {end: end for end in (*_ENDS, "oft_diag")}
    marks = frozenset({"oft_blocks", "oft_diag"})
    needed = ("oft_blocks",)
    readers = (COMFY, A1111, "LyCORIS")
    remarks: ClassVar[Mapping[str, str]] = {
        COMFY: "right only at strength 1, and without rescaled",
        FORGE: "only forks with ComfyUI's newer adapters read it",
    }
    factors = frozenset(_ENDS)
    needs_weight = True
    written: ClassVar[Mapping[str, str]] = {role: role for role in (*_ENDS, "alpha")}
    outer = frozenset(_ENDS)

    def recognises(self, parts: RoleShapes) -> bool:
        return super().recognises(parts) and len(parts.get("oft_blocks", ())) != 4

    def rank(self, parts: RoleShapes) -> str | None:
        blocks = parts.get("oft_blocks", ())
        return f"{blocks[-3]} blocks of {blocks[-1]}" if len(blocks) > 2 else None

    def outputs(self, parts: RoleShapes) -> int | None:
        blocks = parts.get("oft_blocks", ())
        return blocks[-3] * blocks[-1] if len(blocks) > 2 else None

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        own = weight()
        rotated = self._rotate(_rotations(parts, len(own)), own)
        rescale = parts.get("rescale")
        if rescale is None:
            return rotated
        return (own + rotated) * rescale.reshape(-1, *(1 for _ in own.shape[1:])) - own

    def _rotate(self, changes: Tensor, weight: Tensor) -> Tensor:
        """The change of the weight by rotations R, of which `changes` is R − 1."""
        import torch

        blocks = weight.reshape(*changes.shape[:2], *weight.shape[1:])
        return torch.einsum("knm,kn...->km...", changes, blocks).reshape(weight.shape)

    # --- in training

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "diag-oft"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        out, *rest = shape
        block, number = factorization(out, size.rank)
        rescale = {"rescale": (out, *(1 for _ in rest))} if size.form.rescaled else {}
        return {"oft_blocks": (number, block, block), **rescale}

    def constants(self, shape: tuple[int, ...], size: Size) -> dict[str, float]:
        """0 in a file: the constraint is applied to the blocks that are written, as programs read it differently."""
        return {"alpha": 0.0}

    def initial(self, shape: tuple[int, ...], size: Size, generator: torch.Generator) -> dict[str, Tensor]:
        """Zeros: no rotation, and factors of 1."""
        import torch

        return {role: torch.zeros(sides) for role, sides in self.shapes(shape, size).items()}

    def file_parts(self, trained: Parts, size: Size) -> dict[str, Tensor]:
        """Blocks within the constraint; factors, of which the part above 1 is trained."""
        parts = dict(trained)
        if size.form.constraint > 0:
            blocks = parts["oft_blocks"]
            outputs = blocks.shape[-3] * blocks.shape[-1]
            parts["oft_blocks"] = blocks * _limited(blocks - blocks.mT, size.form.constraint * outputs)
        if "rescale" in parts:
            parts["rescale"] = 1 + parts["rescale"]
        return parts

    def trained_parts(self, parts: Parts) -> dict[str, Tensor]:
        trained = dict(parts)
        if "rescale" in trained:
            trained["rescale"] = trained["rescale"] - 1
        return trained

    def squared_norm(self, trained: Parts, parts: Parts, weight: Weight) -> Tensor:
        """Of the blocks, as in LyCORIS: ΔW is not linear in them; and of what the factors differ from 1."""
        return sum((tensor.square().sum() for tensor in trained.values()), start=trained["oft_blocks"].new_zeros(()))

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        block = parts["oft_blocks"].shape[-1]
        if rows.start % block or rows.stop % block:
            return None
        own = {"oft_blocks": parts["oft_blocks"][rows.start // block : rows.stop // block]}
        return {**parts, **own, **({"rescale": parts["rescale"][rows]} if "rescale" in parts else {})}


class Boft(Oft):
    """Several rotations, one after the other, each of other outputs: `oft_blocks` [m, n, b, b]. Rotation i first moves
    the two halves of each 2^(i + 1) · b / 2 neighbouring outputs next to each other, and then applies R, not Rᵀ."""

    name = "BOFT"
    ends: ClassVar[Mapping[str, str]] = {}
    remarks: ClassVar[Mapping[str, str]] = {**Oft.remarks, COMFY: "right only at strength 1"}

    def recognises(self, parts: RoleShapes) -> bool:
        return len(parts.get("oft_blocks", ())) == 4

    def _rotate(self, changes: Tensor, weight: Tensor) -> Tensor:
        import torch

        size, rest, turned = changes.shape[-1], weight.shape[1:], weight
        for number, change in enumerate(changes):
            stride = 2**number * (size // 2)
            mixed = turned.reshape(-1, 2, stride, *rest).transpose(1, 2).reshape(-1, size, *rest)
            mixed = mixed + torch.einsum("bij,bj...->bi...", change, mixed)
            turned = mixed.reshape(-1, stride, 2, *rest).transpose(1, 2).flatten(0, 2)
        return turned - weight

    def is_chosen(self, network: NetworkTable) -> bool:
        return network.algo == "boft"

    def shapes(self, shape: tuple[int, ...], size: Size) -> dict[str, tuple[int, ...]]:
        split = butterfly_factorization(shape[0], size.rank)
        if split is None:
            least = next((side for side in range(2, shape[0] + 1) if butterfly_factorization(shape[0], side)), None)
            raise UsageError(
                f"BOFT with blocks of {size.rank} at most cannot divide the {shape[0]} outputs of a layer.",
                f"Set network_dim and conv_dim to {least} or more, or choose another algo."
                if least
                else "Choose another algo.",
                code="boft-not-divisible",
            )
        (block, number), plain = split, super().shapes(shape, size)
        return {**plain, "oft_blocks": (number.bit_length(), number, block, block)}

    def rows(self, parts: Parts, rows: slice) -> Parts | None:
        """A rotation mixes outputs of different layers."""
        return None


class OftOfPeft(AdapterKind):
    """Rotations of the inputs, as peft stores them."""

    name = "OFT of peft"
    ends: ClassVar[Mapping[str, str]] = {"oft_R.weight": "oft_R"}
    marks = frozenset({"oft_R"})
    readers = ("OneTrainer", "peft")


def _rotations(parts: Parts, outputs: int) -> Tensor:
    """R − 1 of each block."""
    import torch

    blocks = parts["oft_blocks"].float()
    skew = blocks - blocks.mT
    constraint = float(parts["alpha"]) * outputs if "alpha" in parts else 0.0
    if constraint > 0:
        skew = skew * _limited(skew, constraint)
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    # 1 − Q is never singular; `inv` would wait for the GPU to see that
    rotations: Tensor = (eye + skew) @ torch.linalg.inv_ex(eye - skew).inverse
    return rotations - eye


def _limited(skew: Tensor, limit: float) -> Tensor:
    """The factor, at most 1, by which the norm over all blocks is at most `limit`."""
    factor: Tensor = limit / (skew.norm() + 1e-8)
    return factor.clamp(max=1.0)
