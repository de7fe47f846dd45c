"""Reads a LoRA file of any supported naming into layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.adapters.defects import defects
from engine.adapters.formats import BARE, PEFT, Format, recognise_format
from engine.adapters.joined import merge_parts
from engine.adapters.keys import Module
from engine.adapters.kinds.registry import kind_named
from engine.adapters.naming import addresses, base_for, layer_names
from engine.adapters.payload import read_payload
from engine.adapters.stated_alphas import components, stated_alphas
from engine.adapters.tools.layers import LORA, Layer, StackedLayer
from engine.errors import ModelError
from engine.families.layer_names import Address, LayerNames
from engine.families.registry import family_of_lora
from engine.models.header import Header, read_header, readable
from engine.models.kinds import looks_like
from engine.reading import require_regular
from engine.text import listing, printable

_ANY = frozenset({"alpha", "scale", "diff_b", "reshape_weight"})
"""Roles that any kind may have."""
BIAS, OWN_BIAS = "diff_b", "bias"
"""The roles of a change of a layer's bias, and of a bias that a LoRA's up matrix has."""
WITH_BASE = (
    "lorasmith lora merge FILE --into CHECKPOINT adds any kind to the model; "
    "lorasmith lora resize FILE --base CHECKPOINT --rank 32 -o NEW.safetensors makes a LoRA of it."
)
"""What can be done with a kind whose change depends on the base model's weights."""
WEIGHTS = "adapter_model.safetensors"
"""peft's name of the file in its folder."""


@dataclass(frozen=True)
class LoraFile:
    """The contents of a LoRA file."""

    path: Path
    base: str
    """"SD 1.5", "SDXL", "FLUX", … or "unknown"."""
    naming: str
    layers: dict[str, Layer]
    """By name, in the file's order."""
    metadata: dict[str, str]
    dtype: torch.dtype
    """The number format of most matrices."""
    unmapped: list[str] = field(default_factory=list)
    """Modules that are not in the family's table; they keep their own names."""
    rest: dict[str, Tensor] = field(default_factory=dict)
    """Tensors that belong to no layer, such as embeddings, which A1111 reads from a LoRA file."""
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return printable(self.path.name)


@dataclass(frozen=True)
class _Part:
    """A file, or one of several in a peft folder."""

    file: Path
    component: str
    """Name of the folder of a peft file, whose keys do not name the component; else empty."""
    header: Header

    def key(self, key: str) -> str:
        """The key with the component."""
        return f"{self.component}.{key.removeprefix('base_model.model.')}" if self.component else key


def read_lora(path: Path, *, any_kind: bool = False, hint: str = "") -> LoraFile:
    """Read a LoRA file, or a peft folder with or without one subfolder for each component.

    Args:
        any_kind: also take kinds whose change depends on the base model's weights, norm layers and biases. The layers
            of the former have no ΔW before they have a weight (`based`).
        hint: what can be done with these where they are not taken.

    Raises:
        ModelError: missing, unreadable, no adapter, damaged (NaN, half of a pair, ranks that differ), or of a kind
            whose change cannot be computed here.
    """
    parts = _parts(path)
    for part in parts:
        _check_sound(part, any_kind=any_kind, hint=hint)
    shapes = {part.key(key): shape for part in parts for key, shape in part.header.shapes.items()}
    metadata = dict(parts[0].header.metadata)
    lora = recognise_format(shapes, metadata)
    assert lora is not None, "each file is an adapter"
    tensors = {part.key(key): tensor for part in parts for key, tensor in read_tensors(part.file).items()}
    base, notes = base_for(lora, metadata), list[str]()
    placed = addresses(lora, base)
    files = {part.component: (part.header.metadata, part.file) for part in parts}
    alphas = stated_alphas(path, lora, shapes, files)
    bare = [name for name, module in lora.modules.items() if "alpha" not in module.parts and "down" in module.parts]
    if len(alphas) < len(bare) and lora.naming in (PEFT, BARE):
        notes.append(
            f"{printable(path.name)} has no alphas, and its folder no adapter_config.json: the ranks are used."
        )
    layers = _layers(path, lora, tensors, placed, alphas, base)
    known = layer_names(base) is not None
    unmapped = [
        name for name, address in placed.items() if address is None and known and _in_tables(lora, name, shapes)
    ]
    if unmapped:
        notes.append(
            f"{len(unmapped)} modules of {printable(path.name)} are not in {base}'s table of names; they keep their "
            f"names: {listing([printable(name) for name in unmapped], 3)}."
        )
    inside = {key for module in lora.modules.values() for key in module.parts.values()}
    floats = [tensors[key] for key in inside if tensors[key].is_floating_point()]
    matrices = [tensor.dtype for tensor in floats if tensor.dim() > 1] or [tensor.dtype for tensor in floats]
    dtype = max(set(matrices), key=lambda kind: (matrices.count(kind), str(kind)))
    rest = {key: tensor for key, tensor in tensors.items() if key not in inside}
    return LoraFile(path, base, lora.naming, layers, metadata, dtype, unmapped, rest, notes)


def _in_tables(lora: Format, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a family's table of modules has the layers of a module's kind."""
    return kind_named(lora.modules[name].kind(shapes)).in_tables


def _parts(path: Path) -> list[_Part]:
    files = [path]
    if path.is_dir():
        files = [path / name / WEIGHTS for name in ("", *components()) if (path / name / WEIGHTS).is_file()]
        if not files:
            raise ModelError(
                f"{printable(path)} is a folder without {WEIGHTS}.",
                "Name a .safetensors file, or a peft folder.",
                code="peft-folder-without-weights",
            )
    parts = []
    for file in files:
        folder = file.absolute().parent.name
        is_component = file.name == WEIGHTS and folder in components()
        parts.append(_Part(file, folder if is_component else "", read_header(file)))
    return parts


def _check_sound(part: _Part, *, any_kind: bool, hint: str) -> None:
    path, header = part.file, part.header
    lora = recognise_format(header.shapes, header.metadata)
    if lora is None:
        other = looks_like(header) or "a file whose tensors have names of no known LoRA format"
        raise ModelError(f"{printable(path)} is not a LoRA: it is {other}.", "Name a LoRA file.", code="not-a-lora")
    if any_kind:
        _check_computable(path, lora, header.shapes)
    else:
        _check_kinds(path, lora, hint)
    faults = defects(lora, header, read_payload(path, header), start=True)
    if faults:
        raise ModelError(
            f"{printable(path)}: {faults[0].message}",
            "The file is damaged or was written wrongly: use another copy.",
            code=faults[0].code,
        )


def _check_kinds(path: Path, lora: Format, hint: str) -> None:
    for kind in lora.kinds:
        if not kind_named(kind).from_file_alone:
            needs_base = kind_named(kind).factors and hint
            raise ModelError(
                f"{printable(path)} is of the kind {kind}, whose change of the weights cannot be computed from the "
                "file alone, so this tool cannot use it.",
                hint if needs_base else "Use a LoRA, LoHa, LoKr or full difference.",
                code="lora-kind-not-computable",
            )
    _refuse_biases(path, lora, {BIAS, OWN_BIAS}, hint or "Use a file that changes weights only.")


def _refuse_biases(path: Path, lora: Format, roles: set[str], hint: str) -> None:
    biases = [name for name, module in lora.modules.items() if roles & module.parts.keys()]
    if biases:
        raise ModelError(
            f"{printable(path)} also changes {len(biases)} biases, which no LoRA can hold: "
            f"{listing([printable(name) for name in biases], 2)}.",
            hint,
            code="lora-changes-biases",
        )


def _check_computable(path: Path, lora: Format, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse kinds that have no formula here, and tensors that no formula reads."""
    _refuse_biases(path, lora, {OWN_BIAS}, "Use a file without biases.")
    for module in lora.modules.values():
        kind = kind_named(module.kind(shapes))
        strange = sorted(module.parts.keys() - (kind.factors | _ANY)) if kind.needs_weight else []
        if not kind.factors or strange:
            what = f"the tensor {printable(module.parts[strange[0]])} in a {kind.name}" if strange else kind.name
            raise ModelError(
                f"{printable(path)} has what no formula is built in for: {what}.",
                "Use a LoRA, LoHa, LoKr, GLoRA, OFT, BOFT, (IA)³ of LyCORIS, DoRA, full difference or norm layers.",
                code="lora-kind-not-computable",
            )


def read_tensors(path: Path, keys: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file in the host's memory.

    Raises:
        ModelError: it cannot be read.
    """
    with readable(path):
        require_regular(path)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {key: file.get_tensor(key) for key in (file.keys() if keys is None else keys)}
        except SafetensorError as error:
            raise ModelError(
                f"{printable(path)} cannot be read: {error}.", "Use another copy.", code="model-file-unreadable"
            ) from error


def _layers(
    path: Path,
    lora: Format,
    tensors: Mapping[str, Tensor],
    placed: Mapping[str, Address | None],
    alphas: Mapping[str, float],
    base: str,
) -> dict[str, Layer]:
    names = layer_names(base)
    layers: dict[str, Layer] = {}
    fused: dict[str, list[tuple[Address, Layer]]] = {}
    for name, module in lora.modules.items():
        address = placed[name]
        layer = _layer(address.layer if address else name, module, tensors, alphas.get(name), names)
        is_part = address is not None and address.members > 1
        if layer.name in (layers.keys() - fused.keys() if is_part else layers):
            _refuse_twice(path, layer.name)
        layers.setdefault(layer.name, layer)  # of a layer in parts: its place in the order
        if address is not None and is_part:
            fused.setdefault(address.layer, []).append((address, layer))
    return layers | {name: _fused(path, name, parts, base) for name, parts in fused.items()}


def _refuse_twice(path: Path, name: str) -> None:
    raise ModelError(
        f"{printable(path)} has {printable(name)} twice, in two namings.", "Use another copy.", code="lora-layer-twice"
    )


def _layer(
    name: str, module: Module, tensors: Mapping[str, Tensor], alpha: float | None, names: LayerNames | None
) -> Layer:
    parts = {part: tensors[key] for part, key in module.parts.items() if part not in ("alpha", "reshape_weight")}
    if "alpha" in module.parts:
        alpha = float(tensors[module.parts["alpha"]])
    kind = module.kind({key: tuple(tensors[key].shape) for key in module.parts.values()})
    scale, rank = parts.pop("scale", None), kind_named(kind).effective_rank(parts)
    if scale is not None and rank is not None:
        alpha = float(scale) * rank  # A1111 uses it instead of alpha / rank
    swapped = names is not None and names.halves_swapped(name)
    if swapped and "norm_out" in module.name and kind == LORA:
        parts["up"] = torch.cat(parts["up"].chunk(2)[::-1])
    return Layer(name, kind, parts, alpha, module.style or "lora_down")


def _fused(path: Path, name: str, parts: Sequence[tuple[Address, Layer]], base: str) -> Layer:
    """Join the adapters of query, key and value into one of Kohya's layer: LoRAs exactly, other kinds by their ΔW."""
    family = family_of_lora(base)
    assert family is not None, "a layer in parts has an address"
    members, (_, inputs) = parts[0][0].members, _sides(path, parts[0][1])
    widths = family.spec.layers.usual_widths(members, inputs)
    covered = [number for address, _ in parts for number in range(address.member, address.member + address.count)]
    if len(set(covered)) < len(covered):
        _refuse_twice(path, name)
    for address, layer in parts:
        expected = sum(widths[address.member : address.member + address.count])
        outputs = _sides(path, layer)[0]
        if outputs != expected:
            raise ModelError(
                f"A part of {name} has {outputs} outputs instead of {expected}: it is not {family.spec.title}'s.",
                "Use another file.",
                code="lora-part-wrong-size",
            )
    if any(layer.kind != LORA for _, layer in parts):
        return _stacked(name, parts, widths)
    pairs = {
        address.member: (address.count, (layer.factors["down"], layer.factors["up"], layer.scale))
        for address, layer in parts
    }
    down, up, scale = merge_parts(pairs, widths)
    return Layer(name, LORA, {"down": down, "up": up}, scale * len(down))


def _sides(path: Path, layer: Layer) -> tuple[int, int]:
    """Outputs and inputs of a part of a layer.

    Raises:
        ModelError: its tensors do not show them, or they have a change of the bias, which is not joined.
    """
    shapes = {role: tuple(tensor.shape) for role, tensor in layer.factors.items()}
    outputs, inputs = layer.adapter.outputs(shapes), layer.adapter.inputs(shapes)
    if not layer.adapter.needs_weight and BIAS not in layer.factors:
        return layer.shape[0], layer.shape[1]
    if outputs is None or inputs is None or BIAS in layer.factors:
        raise ModelError(
            f"{printable(path)} has a {layer.kind} for a part of {printable(layer.name)}: such parts cannot be joined.",
            "Use it in the program that made it.",
            code="lora-kind-not-computable",
        )
    return outputs, inputs


def _stacked(name: str, parts: Sequence[tuple[Address, Layer]], widths: Sequence[int]) -> StackedLayer:
    by_member = {address.member: (address.count, layer) for address, layer in parts}
    members: list[Layer | None] = []
    rows, number = [], 0
    while number < len(widths):
        count, layer = by_member.get(number, (1, None))
        members.append(layer)
        rows.append(sum(widths[number : number + count]))
        number += count
    return StackedLayer(name, parts[0][1].kind, {}, members=tuple(members), widths=tuple(rows))
