"""The tensors of an adapter by module: what each is for, and which kind of adapter they make. Loads no torch.

Names as LyCORIS, peft, diffusers, XLabs and OneTrainer write them; readers decide by them, never by the metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Shapes = Mapping[str, tuple[int, ...]]

_ENDS = {
    **{f"lora_{end}.weight": end for end in ("down", "up", "mid")},
    **{"lora_A.weight": "down", "lora_B.weight": "up", "lora_A.default.weight": "down", "lora_B.default.weight": "up"},
    **{"lora_A.bias": "bias", "lora_B.bias": "bias", "lora_up.bias": "bias"},
    **{"down.weight": "down", "up.weight": "up", "alpha": "alpha", "scale": "scale", "scalar": "scalar"},
    **dict.fromkeys(("dora_scale", "magnitude", "lora_magnitude_vector", "lora_magnitude_vector.weight"), "magnitude"),
    **dict.fromkeys(("lora_magnitude_vector.default", "lora_magnitude_vector.default.weight"), "magnitude"),
    **{end: end for end in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{f"lokr_{end}": f"lokr_{end}" for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")},
    **{end: end for end in ("oft_blocks", "oft_diag", "rescale", "diff", "diff_b", "w_norm", "b_norm", "on_input")},
    **{"oft_R.weight": "oft_R", "ia3_l": "ia3_l", "set_weight": "set_weight", "reshape_weight": "reshape_weight"},
    **{f"{end}.weight": f"glora_{end}" for end in ("a1", "a2", "b1", "b2", "bm")},
    **{"q_layer.weight": "tlora_q", "p_layer.weight": "tlora_p", "lambda_layer": "tlora_lambda"},
}
"""Ends of keys, behind a dot, and what the tensor is for."""
_LONGEST = 3
_BEFORE_DOWN = re.compile(r"[._]lora(?:_linear_layer|\d)?$")
"""What must stand before `.down.weight`, which is a layer of a base model otherwise; a digit belongs to the module."""
_STYLES = (
    ("lora_down.", "lora_down"),
    ("lora_up.", "lora_down"),
    ("lora_A.", "lora_A"),
    ("lora_B.", "lora_A"),
    (".down.weight", "down"),
    (".up.weight", "down"),
)
_NEEDED = {
    "LoRA": ("down", "up"),
    "LoRA with Tucker decomposition": ("down", "up", "mid"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "GLoRA": ("glora_a1", "glora_a2", "glora_b1", "glora_b2"),
    "T-LoRA": ("tlora_q", "tlora_p", "tlora_lambda"),
    "OFT": ("oft_blocks",),
    "BOFT": ("oft_blocks",),
    "(IA)³": ("weight", "on_input"),
}
"""Kinds and the tensors that a module of them must have."""
_LOKR = (("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a", "lokr_w2_b"))
_STRANGE = "unknown"


@dataclass
class Module:
    """The tensors of one adapted layer."""

    name: str
    """As the file has it, without what the tensors are called."""
    parts: dict[str, str] = field(default_factory=dict)
    """What each tensor is for, to its key."""
    style: str = ""
    """How a LoRA's matrices are called: "lora_down", "lora_A" or "down"; empty for other kinds."""

    def shape(self, part: str, shapes: Shapes) -> tuple[int, ...]:
        """Of one of its tensors; empty where it has none."""
        return shapes.get(self.parts.get(part, ""), ())

    def kind(self, shapes: Shapes) -> str:
        """ "LoRA", "DoRA", "LoHa", "LoKr", ..., as people call it."""
        found = next((kind for part, kind in _FIRST if part in self.parts), _STRANGE)
        if found == "OFT" and len(self.shape("oft_blocks", shapes)) == 4:
            found = "BOFT"
        if "magnitude" in self.parts and found != _STRANGE:
            return "DoRA" if found == "LoRA" else f"{found} with DoRA"
        return found

    def lacking(self, shapes: Shapes) -> list[str]:
        """What it needs and has not: the key's end."""
        kind = self.kind(shapes).removesuffix(" with DoRA").replace("DoRA", "LoRA")
        if kind == "LoKr":
            return [whole for whole, *factors in _LOKR if whole not in self.parts and not _has(self, factors)]
        ends = {"lora_A": {"down": "lora_A.weight", "up": "lora_B.weight"}, "down": {"down": "down.weight"}}
        names = ends.get(self.style, {"down": "lora_down.weight", "up": "lora_up.weight"})
        return [names.get(part, part) for part in _NEEDED.get(kind, ()) if part not in self.parts]

    def rank(self, shapes: Shapes) -> str | None:
        """Its rank as text, "full" for a LoKr without factors; None where it has no such thing or its shape is odd."""
        if {"lokr_w1", "lokr_w2"} <= self.parts.keys():
            return "full"
        for part in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b", "glora_a2", "tlora_q"):
            if part in self.parts:
                shape = self.shape(part, shapes)
                return str(shape[0]) if shape else None
        blocks = self.shape("oft_blocks", shapes)
        return f"{blocks[-3]} blocks of {blocks[-1]}" if len(blocks) > 2 else None

    def inputs(self, shapes: Shapes) -> int | None:
        """The layer's number of inputs, where the shapes tell."""
        for part in ("down", "hada_w1_b", "glora_a2", "tlora_q", "diff"):
            if len(shape := self.shape(part, shapes)) > 1:
                return shape[1]
        first = self.shape("lokr_w1", shapes) or self.shape("lokr_w1_b", shapes)
        second = self.shape("lokr_w2", shapes) or self.shape("lokr_w2_b", shapes)
        return first[1] * second[1] if len(first) > 1 and len(second) > 1 else None

    def outputs(self, shapes: Shapes) -> int | None:
        """The layer's number of outputs, where the shapes tell."""
        for part in ("up", "hada_w1_a", "diff", "w_norm", "glora_b1"):
            if shape := self.shape(part, shapes):
                return shape[0]
        first = self.shape("lokr_w1", shapes) or self.shape("lokr_w1_a", shapes)
        second = self.shape("lokr_w2", shapes) or self.shape("lokr_w2_a", shapes)
        return first[0] * second[0] if first and second else None


_FIRST = (
    ("mid", "LoRA with Tucker decomposition"),
    ("down", "LoRA"),
    ("up", "LoRA"),
    *((part, "LoHa") for part in _ENDS.values() if part.startswith("hada_")),
    *((part, "LoKr") for part in _ENDS.values() if part.startswith("lokr_")),
    *((part, "GLoRA") for part in _ENDS.values() if part.startswith("glora_")),
    *((part, "T-LoRA") for part in _ENDS.values() if part.startswith("tlora_")),
    ("oft_blocks", "OFT"),
    ("oft_diag", "OFT"),
    ("oft_R", "OFT of peft"),
    ("on_input", "(IA)³"),
    ("ia3_l", "(IA)³ of peft"),
    ("w_norm", "norm"),
    ("b_norm", "norm"),
    ("diff", "full difference"),
    ("diff_b", "full difference"),
    ("set_weight", "whole weight"),
)
"""The tensor that decides, and the kind."""


def _has(module: Module, parts: Iterable[str]) -> bool:
    return set(parts) <= module.parts.keys()


def modules_of(shapes: Shapes) -> tuple[dict[str, Module], list[str]]:
    """The modules of a file by name, in its order, and the keys that belong to none.

    A module of tensors that are for something, but make no kind by themselves (an alpha alone), counts where another
    module is an adapter.
    """
    modules: dict[str, Module] = {}
    strange = []
    ia3 = {key.removesuffix(".on_input") for key in shapes if key.endswith(".on_input")}
    for key in shapes:
        name, part = _split(key, ia3)
        if part is None:
            strange.append(key)
            continue
        module = modules.setdefault(name, Module(name))
        module.parts[part] = key
        module.style = module.style or next((style for mark, style in _STYLES if mark in key), "")
    return modules, strange


def _split(key: str, ia3: set[str]) -> tuple[str, str | None]:
    """(module, what the tensor is for); None where it is for nothing that is known."""
    words = key.split(".")
    for count in range(min(_LONGEST, len(words) - 1), 0, -1):
        end, name = ".".join(words[-count:]), ".".join(words[:-count])
        part = _ENDS.get(end)
        if part is not None and end in ("down.weight", "up.weight"):
            found = _BEFORE_DOWN.search(name)
            if found is None:
                break
            return (name if name[-1].isdigit() else name[: found.start()]), part
        if part is not None:
            return name, part
    if words[-1] == "weight" and ".".join(words[:-1]) in ia3:
        return ".".join(words[:-1]), "weight"
    return key, None
