"""Groups the tensors of an adapter by module: the role of each, and the module's kind. Loads no torch.

Names as LyCORIS, peft, diffusers, XLabs and OneTrainer write them; readers decide by them, never by the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.adapters.kinds.base import AdapterKind, RoleShapes
from engine.adapters.kinds.registry import Kinds, kinds

Shapes = Mapping[str, tuple[int, ...]]
_UNKNOWN = "unknown"


@dataclass
class Module:
    """The tensors of one adapted layer."""

    name: str
    """The name in the file, without the ends of the tensors' keys."""
    parts: dict[str, str] = field(default_factory=dict)
    """Role of each tensor to its key."""
    style: str = ""
    """Naming of a LoRA's matrices: "lora_down", "lora_A" or "down"; empty for other kinds."""

    def shape(self, part: str, shapes: Shapes) -> tuple[int, ...]:
        """The shape of one of its tensors; empty where it has none."""
        return shapes.get(self.parts.get(part, ""), ())

    def shapes(self, shapes: Shapes) -> RoleShapes:
        """The shapes of all of its tensors, by role."""
        return {part: shapes.get(key, ()) for part, key in self.parts.items()}

    def adapter(self, shapes: Shapes) -> AdapterKind | None:
        """The kind of adapter; None where its tensors alone are no adapter."""
        return kinds().recognise(self.shapes(shapes))

    def kind(self, shapes: Shapes) -> str:
        """The kind's name: "LoRA", "DoRA", "LoHa", "LoKr", ...; "unknown"."""
        adapter = self.adapter(shapes)
        return _UNKNOWN if adapter is None else adapter.name

    def lacking(self, shapes: Shapes) -> list[str]:
        """The required tensors that it lacks: ends of keys."""
        adapter = self.adapter(shapes)
        return [] if adapter is None else adapter.lacking(self.shapes(shapes), self.style)

    def rank(self, shapes: Shapes) -> str | None:
        """Its rank as text, "full" for a LoKr without factors; None where it has none or its shape is invalid."""
        adapter = self.adapter(shapes)
        return None if adapter is None else adapter.rank(self.shapes(shapes))

    def inputs(self, shapes: Shapes) -> int | None:
        """The layer's number of inputs, where the shapes give it."""
        adapter = self.adapter(shapes)
        return None if adapter is None else adapter.inputs(self.shapes(shapes))

    def outputs(self, shapes: Shapes) -> int | None:
        """The layer's number of outputs, where the shapes give it."""
        adapter = self.adapter(shapes)
        return None if adapter is None else adapter.outputs(self.shapes(shapes))


def modules_of(shapes: Shapes) -> tuple[dict[str, Module], list[str]]:
    """The modules of a file by name, in its order, and the keys that belong to none.

    A module whose tensors have roles but are no adapter by themselves (an alpha alone) counts where another module is
    an adapter.
    """
    modules: dict[str, Module] = {}
    strange = []
    all_kinds = kinds()
    split = _Splitter(all_kinds, shapes)
    for key in shapes:
        name, part = split(key)
        if part is None:
            strange.append(key)
            continue
        module = modules.setdefault(name, Module(name))
        module.parts[part] = key
        module.style = module.style or next((style for mark, style in all_kinds.styles if mark in key), "")
    return modules, strange


class _Splitter:
    """Splits a file's keys into module and role.

    Args:
        shapes: of the file.
    """

    def __init__(self, all_kinds: Kinds, shapes: Shapes) -> None:
        self._ends = all_kinds.ends
        self._longest = max(end.count(".") + 1 for end in all_kinds.ends)
        self._paired = {
            (end, key.removesuffix(f".{other}")): part
            for end, (part, other) in all_kinds.paired_ends.items()
            for key in shapes
            if key.endswith(f".{other}")
        }

    def __call__(self, key: str) -> tuple[str, str | None]:
        """(module, role of the tensor); the role is None where it is unknown."""
        words = key.split(".")
        for count in range(min(self._longest, len(words) - 1), 0, -1):
            end, name = ".".join(words[-count:]), ".".join(words[:-count])
            if end in self._ends:
                part, kind = self._ends[end]
                module = name if kind is None else kind.module_of(end, name)
                if module is None:
                    break
                return module, part
        name = ".".join(words[:-1])
        paired = self._paired.get((words[-1], name))
        return (key, None) if paired is None else (name, paired)
