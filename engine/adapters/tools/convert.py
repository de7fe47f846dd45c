"""`lorasmith lora convert`: a LoRA in Kohya's, ComfyUI's, diffusers' or peft's names. No tensor is lost or changed."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.adapters.key_formats import ALPHA_FORMAT, Piece, in_diffusers_names, peft_configs
from engine.adapters.naming import comfy_name, component_of, diffusers_paths, layer_names, prefix_of
from engine.adapters.peft_settings import CONFIG, KEY
from engine.adapters.tools.layers import LORA, Layer, StackedLayer
from engine.adapters.tools.lora_file import BIAS, WEIGHTS, LoraFile, read_lora
from engine.adapters.tools.new_metadata import OF_FILE, of_base
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import LayerLoss, ToolReport
from engine.adapters.tools.requests import ConvertRequest
from engine.adapters.tools.writing import layer_loss, tensors_of, write_tensors
from engine.atomic import write_text
from engine.errors import LoraSmithError, ModelError, storing
from engine.families.layer_names import LayerNames
from engine.families.registry import family_of_lora, module_tables
from engine.models.header import read_header
from engine.paths import expanded
from engine.text import listing, printable
from engine.worker import OnProgress

_ROUNDING = 1e-3
"""Share of ΔW: fp16 may round the alphas of separate layers that are joined."""
_BASED = "; this kind also needs --base CHECKPOINT"
_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


def convert(request: ConvertRequest, progress: OnProgress) -> ToolReport:
    """Write a LoRA in another naming.

    Kohya's layers that are several in diffusers (FLUX's query, key, value) are split by rows, and joined the other way.

    Raises:
        ModelError: the file cannot be read, is no LoRA, or is for a model without a table of names here.
    """
    source = read_lora(expanded(request.file), any_kind=True)
    _check(source, request.to)
    folder = request.to == "peft"
    place = None
    if not request.dry_run:
        place = place_for(request.out, [source.path], overwrite=request.overwrite, folder=folder)
    report = ToolReport("convert", [printable(source.path)], None, source.base, source.naming)
    report.notes += source.notes
    progress("converting", 0, 1)

    def check(written: Path) -> None:
        report.layers = compare_layers(source, read_lora(written, any_kind=True).layers, report.unmapped)

    if request.to == "kohya":
        report.unmapped = [name for name in source.unmapped if not prefix_of(name)]
        output = _kohya(source)
    elif request.to == "comfy":
        output, report.unmapped = _comfy(source)
    else:
        pieces, report.unmapped = pieces_of(source)
        output = _diffusers(source, pieces, report) if request.to == "diffusers" else ({}, {})
    if report.unmapped:
        report.notes.append(
            f"{len(report.unmapped)} modules have no such name and keep their own: {listing(report.unmapped, 3)}."
        )
    if place is None:
        report.layers = compare_layers(source, source.layers, report.unmapped)
    elif folder:
        report.size = _write_peft(source, pieces, report, place, check)
    else:
        report.size, notes = write_tensors(place, *output, hashes=request.to == "kohya", check=check)
        report.notes += notes
    report.output = printable(place) if place else None
    return report


def compare_layers(source: LoraFile, result: Mapping[str, Layer], unmapped: Sequence[str]) -> list[LayerLoss]:
    """Compare the layers of a result, read back from its file, with those of the source.

    Raises:
        LoraSmithError: they differ.
    """
    losses = [
        _loss(layer, result[name], component_of(name, source.base))
        for name, layer in source.layers.items()
        if name in result
    ]
    missing = source.layers.keys() - result.keys() - set(unmapped)
    wrong = [loss.name for loss in losses if loss.share > _ROUNDING]
    if missing or wrong:
        raise LoraSmithError(
            f"The file just written differs from {source.title} in {len(missing) + len(wrong)} layers and is not kept: "
            f"{listing(sorted({*missing, *wrong}), 3)}.",
            "Please report this.",
            code="written-file-wrong",
        )
    return losses


def _loss(layer: Layer, result: Layer, component: str) -> LayerLoss:
    """The loss of a layer that was only renamed: for other kinds than LoRA nothing or everything."""
    if layer.kind == LORA:
        return layer_loss(layer, result, component)
    same = layer.kind == result.kind and layer.scale == result.scale and layer.factors.keys() == result.factors.keys()
    same = same and all(torch.equal(tensor, result.factors[role]) for role, tensor in layer.factors.items())
    norm = float(layer.delta().double().norm()) if layer.adapter.from_file_alone else _size(layer)
    return LayerLoss(layer.name, component, norm, 0.0 if same else norm)


def _size(layer: Layer) -> float:
    """The norm of all factors, for kinds whose ΔW is unknown without the base."""
    return math.hypot(*(float(tensor.double().norm()) for tensor in layer.factors.values()))


def _check(source: LoraFile, to: str) -> None:
    if layer_names(source.base) is None:
        raise ModelError(
            f"{source.title} is a LoRA for {source.base}, and its layer names are not supported.",
            f"Supported: {', '.join(module_tables())}.",
            code="lora-naming-not-supported",
        )
    kinds = sorted({layer.kind for layer in source.layers.values()} - {LORA})
    biases = [layer.name for layer in source.layers.values() if BIAS in layer.factors]
    in_parts = [layer.name for layer in source.layers.values() if isinstance(layer, StackedLayer)]
    if in_parts or (kinds and to in ("diffusers", "peft")):
        why = f"of parts of {listing(in_parts, 1)}" if in_parts else f"and {to}'s names are for plain LoRAs"
        raise ModelError(
            f"{source.title} is of the kind {kinds[0]} {why}: it cannot be converted exactly.",
            f"lorasmith lora resize {source.title} --rank 32 -o NEW.safetensors makes a LoRA in Kohya's names of it, "
            f"and reports the loss{_BASED if _needs_base(source) else ''}.",
            code="lora-kind-not-convertible",
        )
    if biases and to in ("diffusers", "peft"):
        raise ModelError(
            f"{source.title} also changes {len(biases)} biases, for which {to} has no names: {listing(biases, 2)}.",
            "lorasmith lora merge FILE --into CHECKPOINT adds all of it to the model.",
            code="lora-changes-biases",
        )


def _needs_base(source: LoraFile) -> bool:
    return any(layer.adapter.needs_weight for layer in source.layers.values())


def pieces_of(source: LoraFile) -> tuple[list[Piece], list[str]]:
    """The LoRAs of diffusers' layers, and the layers that diffusers has no module for."""
    names = layer_names(source.base)
    assert names is not None, "`_check` refuses other kinds"
    pieces, unmapped = [], []
    for name, layer in source.layers.items():
        paths = diffusers_paths(name, source.base)
        if paths is None:
            unmapped.append(name)
            continue
        component = component_of(name, source.base)
        for path, part in zip(paths, split(layer, len(paths), names), strict=True):
            alpha = float(part.rank) if part.alpha is None else part.alpha
            pieces.append(Piece(component, path, part.factors["down"], part.factors["up"], alpha))
    return pieces, unmapped


def split(layer: Layer, members: int, names: LayerNames) -> list[Layer]:
    """Split Kohya's layer into diffusers' layers: the same down, each its rows of up. Where up is a block diagonal,
    each gets its block of ranks only, and alpha shrinks by the same factor."""
    down, up = layer.factors["down"], layer.factors["up"]
    if names.halves_swapped(layer.name):
        up = torch.cat(up.chunk(2)[::-1])
    rows = torch.split(up, names.row_widths(members, layer.shape[1], layer.shape[0]))
    if not _block_diagonal(rows):
        return [Layer(layer.name, LORA, {"down": down, "up": part}, layer.alpha) for part in rows]
    rank = layer.rank // members
    blocks = [slice(number * rank, (number + 1) * rank) for number in range(members)]
    alpha = None if layer.alpha is None else layer.alpha / members
    return [
        Layer(layer.name, LORA, {"down": down[block], "up": part[:, block].contiguous()}, alpha)
        for part, block in zip(rows, blocks, strict=True)
    ]


def _block_diagonal(rows: Sequence[Tensor]) -> bool:
    """Whether the n-th part is nonzero in the n-th block of ranks only, and every part is nonzero."""
    rank = rows[0].shape[1]
    if len(rows) == 1 or rank % len(rows) or not all(bool(part.any()) for part in rows):
        return False
    size = rank // len(rows)
    return all(
        bool(part.count_nonzero() == part[:, number * size : (number + 1) * size].count_nonzero())
        for number, part in enumerate(rows)
    )


def _kohya(source: LoraFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    return {**_with_alphas(source, tensors_of(source.layers.values())), **source.rest}, _metadata(source)


def _comfy(source: LoraFile) -> tuple[tuple[dict[str, Tensor], dict[str, str]], list[str]]:
    """ComfyUI's file, and the layers that have no name of ComfyUI's."""
    names = {name: comfy_name(name, source.base) for name in source.layers}
    layers = [replace(layer, name=names[name] or name, style="lora_down") for name, layer in source.layers.items()]
    unmapped = [name for name, comfy in names.items() if comfy is None]
    return ({**_with_alphas(source, tensors_of(layers)), **source.rest}, _metadata(source)), unmapped


def _with_alphas(source: LoraFile, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with alphas in the number format that they had in Kohya's names, where that is exact."""
    kind = _FORMATS.get(source.metadata.get(ALPHA_FORMAT, ""))
    if kind is None:
        return tensors
    alphas = {key: tensor.to(kind) for key, tensor in tensors.items() if key.endswith(".alpha")}
    return tensors | {key: alpha for key, alpha in alphas.items() if bool((alpha == tensors[key]).all())}


def _metadata(source: LoraFile) -> dict[str, str]:
    """The metadata of a file with alphas as tensors."""
    dropped = (*OF_FILE, KEY, ALPHA_FORMAT)
    return {**of_base(source.base), **{key: value for key, value in source.metadata.items() if key not in dropped}}


def _diffusers(
    source: LoraFile, pieces: Sequence[Piece], report: ToolReport
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """diffusers' file: alphas are tensors where its loader reads those, for U-Nets metadata."""
    family = family_of_lora(source.base)
    has_alphas = family is not None and family.spec.alphas_in_diffusers_files
    tensors, more = in_diffusers_names(pieces, alphas_in_file=has_alphas, alpha_format=_alpha_format(source))
    if not has_alphas and any(piece.alpha != len(piece.down) for piece in pieces):
        report.notes.append("Alphas are in the metadata (lora_adapter_metadata), where diffusers reads them from "
                            "0.35 on; other programs use the rank.")  # fmt: skip
    metadata = {key: value for key, value in source.metadata.items() if key not in (*OF_FILE, KEY)} | more
    return {**tensors, **_own_names(source, report.unmapped), **source.rest}, metadata


def _alpha_format(source: LoraFile) -> str:
    """The number format of the file's alphas."""
    header = read_header(source.path) if source.path.is_file() else None
    kinds = [kind for name, (kind, _) in header.tensors.items() if name.endswith(".alpha")] if header else []
    return max(set(kinds), key=kinds.count) if kinds else "F32"


def _own_names(source: LoraFile, unmapped: Sequence[str]) -> dict[str, Tensor]:
    return tensors_of(source.layers[name] for name in unmapped)


def _write_peft(
    source: LoraFile, pieces: Sequence[Piece], report: ToolReport, place: Path, check: Callable[[Path], None]
) -> int:
    """Write peft's folders, one for each component: adapter_model.safetensors and adapter_config.json."""
    unmapped = _own_names(source, report.unmapped) | source.rest
    temporary = place.with_name(f".{place.name}.{os.getpid()}.unfinished")
    total = 0
    try:
        with storing(place):
            temporary.mkdir()
        for component, config in peft_configs(pieces).items():
            with storing(place):
                (temporary / component).mkdir()
            tensors = {}
            for piece in pieces:
                if piece.component == component:
                    front = f"base_model.model.{piece.path.removeprefix('text_model.')}"
                    tensors[f"{front}.lora_A.weight"] = piece.down
                    tensors[f"{front}.lora_B.weight"] = piece.up
            metadata = {**_without_hashes(source.metadata), "format": "pt"}
            size, notes = write_tensors(temporary / component / WEIGHTS, tensors, metadata, hashes=False)
            total += size
            report.notes += notes
            settings = {"peft_type": "LORA", "task_type": None, "inference_mode": True, **config}
            write_text(temporary / component / CONFIG, json.dumps(settings, indent=2))
        if unmapped:
            size, _ = write_tensors(temporary / "unmapped.safetensors", unmapped, {}, hashes=False)
            total += size
        check(temporary)
        with storing(place):
            temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return total


def _without_hashes(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in (*OF_FILE, KEY)}
