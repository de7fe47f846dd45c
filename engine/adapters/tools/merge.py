"""`lorasmith lora merge`: several LoRA files into one, or into a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from engine.adapters.bases import UNKNOWN
from engine.adapters.tools.combine import (
    Weighted,
    can_concatenate,
    concatenate,
    dare,
    parts_by_layer,
    ties,
    weighted_sum,
)
from engine.adapters.tools.layers import FULL, Layer
from engine.adapters.tools.lora_file import WITH_BASE, LoraFile, read_lora
from engine.adapters.tools.lowrank import Spectrum, spectrum_of, spectrum_of_matrix
from engine.adapters.tools.new_metadata import comment, derived_metadata, network_sizes
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import MergeRequest
from engine.adapters.tools.resize import resized_layer
from engine.adapters.tools.spectra import Choice
from engine.adapters.tools.writing import DTYPES, Store, tensors_of, write_tensors
from engine.errors import ModelError, UsageError
from engine.paths import expanded
from engine.text import listing, printable
from engine.worker import OnProgress

_FINER = (torch.float32, torch.bfloat16, torch.float16)


def merge(request: MergeRequest, progress: OnProgress) -> ToolReport:
    """Merge files into a LoRA, or into a checkpoint.

    Raises:
        UsageError: a value is invalid.
        ModelError: a file cannot be merged, or the files do not fit together.
    """
    _check(request)
    into = request.into is not None
    sources = [read_lora(expanded(name), any_kind=into, hint=WITH_BASE) for name, _ in request.files]
    base = common_base(sources)
    if into:
        from engine.adapters.tools.into import merge_into

        return merge_into(request, sources, base, changes_of(request), progress)
    parts = parts_by_layer([source.layers for source in sources], sources, [weight for _, weight in request.files])
    inputs = [source.path for source in sources]
    place = None if request.dry_run else place_for(request.out, inputs, overwrite=request.overwrite)
    report = ToolReport("merge", [printable(path) for path in inputs], None, base, sources[0].naming)
    store = Store(_dtype(request, sources), base)
    for number, (name, layer_parts) in enumerate(parts.items()):
        progress("merging", number, len(parts))
        store.add(*_merge_layer(request, name, layer_parts))
    report.layers = store.losses
    report.notes += [note for source in sources for note in source.notes]
    report.notes += [*_approximated(request, parts), *store.notes]
    if place is not None:
        layers = store.layers
        metadata = _metadata(request, sources, base, place, layers)
        report.size, more = write_tensors(place, {**tensors_of(layers), **_rest(sources, report)}, metadata)
        report.notes += more
        report.output = printable(place)
    return report


def _check(request: MergeRequest) -> None:
    if not request.files:
        raise UsageError(
            "Which files?",
            "lorasmith lora merge A.safetensors=0.8 B.safetensors=0.5 -o C.safetensors",
            code="merge-without-files",
        )
    wrong = [name for name, weight in request.files if not math.isfinite(weight)]
    if wrong:
        raise UsageError(
            f"The weight of {printable(wrong[0])} is not a number.", "Write FILE=0.8.", code="weight-not-a-number"
        )
    if not 0 < request.density <= 1:
        raise UsageError(
            f"--density {request.density:g} is not a share: it must be above 0 and at most 1.",
            "Usual: 0.5.",
            code="share-out-of-range",
        )
    if request.rank is not None and request.rank < 1:
        raise UsageError(f"--rank {request.rank} is below 1.", "Give a whole number from 1 on.", code="rank-too-small")
    if request.method == "concat" and request.rank is not None:
        raise UsageError(
            "--method concat has the sum of the ranks.", "Omit --rank, or use svd.", code="concat-with-rank"
        )
    if request.into is not None and (request.rank is not None or request.precision is not None):
        raise UsageError(
            "--rank and --precision are for a LoRA file.", "Omit them with --into.", code="lora-options-with-into"
        )
    if request.into is None and request.method == "svd" and request.rank is None:
        raise UsageError("--method svd needs a rank.", "Add --rank N.", code="no-rank")


def common_base(sources: Sequence[LoraFile]) -> str:
    """The kind of model that all files are for.

    Raises:
        ModelError: they are for several kinds.
    """
    by_base = {source.base: source for source in sources if source.base != UNKNOWN}
    if len(by_base) > 1:
        names = listing([f"{source.title} is for {base}" for base, source in by_base.items()], 3)
        raise ModelError(
            f"The files are LoRAs for different models: {names}.",
            "Merge files for one kind of model.",
            code="loras-for-different-models",
        )
    return next(iter(by_base), UNKNOWN)


def changes_of(request: MergeRequest) -> Callable[[Sequence[Weighted]], Tensor]:
    """The function that combines a layer's parts into one ΔW by the request's method."""
    if request.method == "ties":
        return lambda parts: ties(parts, request.density)
    if request.method == "dare":
        return lambda parts: dare(parts, request.density, request.seed)
    return weighted_sum


def _merge_layer(request: MergeRequest, name: str, parts: Sequence[Weighted]) -> tuple[Layer, Layer]:
    """The merged LoRA of a layer, and the exact change that it approximates."""
    if request.method not in ("ties", "dare") and can_concatenate(parts):
        exact = concatenate(parts)
        return (exact if request.rank is None else _cut(exact, spectrum_of(exact), request.rank)), exact
    change = changes_of(request)(parts)
    matrix = change.flatten(1)
    rank = request.rank or min(sum(layer.rank for layer, _ in parts), *matrix.shape)
    exact = Layer(name, FULL, {"diff": change}, style=parts[0][0].style)
    return _cut(exact, spectrum_of_matrix(matrix, rank), rank), exact


def _approximated(request: MergeRequest, parts: Mapping[str, Sequence[Weighted]]) -> list[str]:
    kinds = {layer.kind for layer_parts in parts.values() for layer, _ in layer_parts if layer.pair() is None}
    if not kinds or request.method in ("ties", "dare"):
        return []
    return [f"{' and '.join(sorted(kinds))} have no two factors: their layers are cut to a rank, with a loss."]


def _cut(layer: Layer, spectrum: Spectrum, rank: int) -> Layer:
    return resized_layer(layer, spectrum, Choice("none", most=rank))


def _dtype(request: MergeRequest, sources: Sequence[LoraFile]) -> torch.dtype:
    if request.precision:
        return DTYPES[request.precision]
    dtypes = {source.dtype for source in sources}
    if dtypes == {torch.float16, torch.bfloat16}:
        return torch.float32  # neither can hold the other's numbers
    return next((kind for kind in _FINER if kind in dtypes), torch.float32)


def _rest(sources: Sequence[LoraFile], report: ToolReport) -> dict[str, Tensor]:
    """Embeddings of the files; of several with the same name, the first."""
    rest: dict[str, Tensor] = {}
    for source in sources:
        duplicates = [key for key in source.rest if key in rest]
        if duplicates:
            report.notes.append(
                f"{len(duplicates)} embeddings of {source.title} are left out: an earlier file has them."
            )
        rest = {**source.rest, **rest}
    return rest


def _metadata(
    request: MergeRequest, sources: Sequence[LoraFile], base: str, place: Path, layers: Sequence[Layer]
) -> dict[str, str]:
    method = request.method or ("svd" if request.rank else "concat")
    shares = ", ".join(f"{source.title}={weight:g}" for source, (_, weight) in zip(sources, request.files, strict=True))
    metadata = derived_metadata(
        [source.metadata for source in sources], [source.path for source in sources], base, place
    )
    metadata |= network_sizes([layer.rank for layer in layers], [layer.alpha or 0.0 for layer in layers])
    convs = [layer.rank for layer in layers if layer.spatial]
    if convs:
        metadata["ss_network_args"] = json.dumps({"conv_dim": str(max(convs)), "conv_alpha": str(max(convs))})
    return metadata | comment({}, f"merged with {method}: {shares}")
