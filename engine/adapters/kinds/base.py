"""The kinds of adapter: their tensors in a file, their effect on a weight, and their training where it is supported.

Only a kind's own module contains the names of its tensors and its formula. Importing a kind loads no torch: methods
that compute import it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

RoleShapes = Mapping[str, tuple[int, ...]]
"""Role of each tensor of one module ("down") to its shape; empty where the shape is unknown."""
Parts = Mapping[str, "Tensor"]
"""Role of each tensor of one module to its values."""
Weight = Callable[[], "Tensor"]
"""The layer's own weight in float32."""

COMFY, FORGE, A1111, DIFFUSERS, SD_SCRIPTS = "ComfyUI", "Forge", "A1111", "diffusers", "sd-scripts"
UIS = (COMFY, FORGE, A1111)
POPULAR = (*UIS, DIFFUSERS, SD_SCRIPTS)
OTHERS = ("LyCORIS", "OneTrainer", "InvokeAI", "SimpleTuner", "peft", "x-flux")
"""Programs that read adapters, in the order in which they are named."""


_UNREAD = {DIFFUSERS: "it loads plain LoRAs only", SD_SCRIPTS: "only with LyCORIS installed"}


class AdapterKind(ABC):
    """One kind of adapter. Its properties are class attributes; methods that a kind does not support return nothing."""

    name: str
    """The name in messages: "LoHa"."""

    # --- its tensors in a file

    ends: ClassVar[Mapping[str, str]] = {}
    """Ends of keys, after a dot, to the tensor's role: "hada_w1_a"."""
    paired_ends: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Ends that count only where the module also has a tensor with another end: end to (role, other end)."""
    styles: tuple[tuple[str, str], ...] = ()
    """Parts of keys that identify a spelling of the module's names, and that spelling's name."""
    marks: frozenset[str] = frozenset()
    """Roles of tensors that make their module one of this kind."""
    is_secondary: bool = False
    """Whether its tensors may accompany those of another kind, which then is the module's kind."""
    is_companion: bool = False
    """Whether its modules are trained beside those of another kind."""
    also: frozenset[str] = frozenset()
    """Names of other kinds that the same training writes."""
    needed: tuple[str, ...] = ()
    """Roles that each module must have."""
    scaled: bool = False
    """Whether it is scaled by alpha / rank, so that a module without alpha is reported."""
    off_at_zero: bool = False
    """Whether an alpha of 0 switches it off."""
    kept_exact: frozenset[str] = frozenset()
    """Roles of the tensors that a file has in float32 whatever its number format is."""
    in_tables: bool = True
    """Whether its layers are in a family's table of modules."""

    # --- who reads it

    readers: tuple[str, ...] = ()
    """The programs that read it."""
    diffusers_bases: frozenset[str] = frozenset()
    """Kinds of model for which diffusers also reads it, in Kohya's, ComfyUI's and its own names."""
    diffusers_in_peft_names: bool = False
    """Whether diffusers reads it in peft's names."""
    remarks: ClassVar[Mapping[str, str]] = {}
    """For programs of `POPULAR`: how far a reader reads it, or why another does not; without a full stop."""

    # --- what it does to a weight

    factors: frozenset[str] = frozenset()
    """Roles of the tensors that ΔW is computed from; empty: it cannot be computed here."""
    needs_weight: bool = False
    """Whether computing ΔW needs the layer's own weight as well as the file."""

    @property
    def from_file_alone(self) -> bool:
        """Whether ΔW can be computed from a file, without the model, and is that of a matrix."""
        return bool(self.factors) and not self.needs_weight and not self.is_companion

    def why_not_read(self, program: str) -> str:
        """Why a program that is no reader does not read it; without a full stop."""
        return self.remarks.get(program) or _UNREAD.get(program, "it does not know the kind")

    def recognises(self, parts: RoleShapes) -> bool:
        """Whether a module with these tensors is of this kind."""
        return not self.marks.isdisjoint(parts)

    def module_of(self, end: str, name: str) -> str | None:
        """The module of a key with one of `ends`; None where such a key is something else.

        Args:
            name: the key without `end`.
        """
        return name

    def lacking(self, parts: RoleShapes, style: str) -> list[str]:
        """The required tensors that a module lacks: ends of keys."""
        return [part for part in self.needed if part not in parts]

    def rank(self, parts: RoleShapes) -> str | None:
        """The rank as text; None where it has none or its shape is invalid."""
        return None

    def inputs(self, parts: RoleShapes) -> int | None:
        """The layer's number of inputs, where the shapes give it."""
        return None

    def outputs(self, parts: RoleShapes) -> int | None:
        """The layer's number of outputs, where the shapes give it."""
        return None

    def pairs(self, parts: RoleShapes) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shapes of matrices that are multiplied: ([r, ...], [..., r])."""
        return []

    def effective_rank(self, parts: Parts) -> int | None:
        """The rank that alpha is divided by; None where it has none."""
        return None

    def scale(self, parts: Parts) -> float:
        """The factor on ΔW at strength 1: alpha / rank, or A1111's `scale` where the file has it; 1 without either."""
        rank = self.effective_rank(parts)
        if rank is None:
            return 1.0
        if "scale" in parts:
            return float(parts["scale"])
        return float(parts["alpha"]) / rank if "alpha" in parts else 1.0

    def delta(self, parts: Parts, weight: Weight) -> Tensor:
        """ΔW at strength 1, float32, with as many numbers as the layer's weight; at strength s a reader adds s · ΔW.
        By default the product of `low_rank`.

        Args:
            parts: with the `factors` in float32; alpha and scale, where the file has them, are single numbers.
            weight: called only where `needs_weight`.

        Raises:
            RuntimeError: the tensors do not fit each other or the layer.
        """
        pair = self.low_rank(parts)
        assert pair is not None, f"ΔW of the kind {self.name} cannot be computed"
        down, up = pair
        product: Tensor = up.flatten(1) @ down.flatten(1)
        return product * self.scale(parts)

    def low_rank(self, parts: Parts) -> tuple[Tensor, Tensor] | None:
        """Down [r, in(, k, k)] and up [out, r(, 1, 1)] in float32, whose product is ΔW without the scale; None for
        other kinds."""
        return None

    def kronecker(self, parts: Parts) -> tuple[Tensor, Tensor] | None:
        """Two factors whose Kronecker product is ΔW without the scale; None for other kinds."""
        return None


def first_shape(parts: RoleShapes, *roles: str) -> tuple[int, ...]:
    """The shape of the first of these roles that the module has; empty where it has none."""
    return next((parts[role] for role in roles if role in parts), ())


def first_side(shape: tuple[int, ...]) -> str | None:
    """The first number of a shape as text."""
    return str(shape[0]) if shape else None
