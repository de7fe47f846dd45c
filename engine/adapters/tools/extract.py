"""`lorasmith lora extract`: the difference of two checkpoints as a LoRA (sd-scripts `extract_lora_from_models.py`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.adapters.tools.checkpoint import Checkpoint, WeightLayer, opened, read_checkpoint, weight_of
from engine.adapters.tools.layers import LORA, Layer
from engine.adapters.tools.lowrank import spectrum_of_matrix
from engine.adapters.tools.new_metadata import comment, derived_metadata, network_sizes
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import ExtractRequest
from engine.adapters.tools.writing import DTYPES, Store, tensors_of, write_tensors
from engine.errors import ModelError, UsageError
from engine.text import listing, printable
from engine.worker import OnProgress

_MOST_QUANTILE = 2**24
"""`torch.quantile` takes no more numbers."""


def extract(request: ExtractRequest, progress: OnProgress) -> ToolReport:
    """Write the difference of two checkpoints as a LoRA in Kohya's names.

    Raises:
        UsageError: a value is invalid.
        ModelError: the checkpoints cannot be read, are of two kinds or sizes, or do not differ.
    """
    _check(request)
    tuned, base = read_checkpoint(request.tuned), read_checkpoint(request.base)
    _check_alike(tuned, base)
    inputs = [tuned.recognition.path, base.recognition.path]
    place = None if request.dry_run else place_for(request.out, inputs, overwrite=request.overwrite)
    report = ToolReport("extract", [printable(path) for path in inputs], None, tuned.base)
    store = Store(DTYPES[request.precision or "fp16"], tuned.base)
    chosen = _chosen(request, tuned, base)
    outside, inside = 0.0, 0.0
    with opened(tuned) as ours, opened(base) as theirs:
        skipped = _skipped(request, chosen, tuned, base, ours, theirs, progress)
        for number, layer in enumerate(tuned.layers.values()):
            progress("extracting", number, len(tuned.layers))
            change = _difference(layer, base, ours, theirs)
            norm = float(change.double().square().sum())
            if not math.isfinite(norm):
                raise ModelError(
                    f"{printable(layer.name)} holds NaN or infinity in one of the checkpoints.",
                    "Use another copy.",
                    code="weights-not-finite",
                )
            rank = 0 if layer.component in skipped else chosen.get(layer.name, 0)
            if not rank or not norm:
                outside += norm
                if norm:
                    report.left_out.append(layer.name)
                continue
            inside += norm
            store.add(_cut(layer, change, rank, request.clamp), change)
    if not store.losses:
        raise ModelError(
            f"{report.inputs[0]} and {report.inputs[1]} do not differ in any layer that a LoRA can change.",
            "Name the trained checkpoint first and its base second.",
            code="checkpoints-do-not-differ",
        )
    report.layers = store.losses
    report.notes += store.notes
    _note_outside(report, skipped, outside, inside)
    if place is not None:
        layers = store.layers
        origin = comment({}, f"extracted: {printable(inputs[0].name)} less {printable(inputs[1].name)}")
        metadata = {**derived_metadata([], [], tuned.base, place), **_sizes(layers), **origin}
        report.size, more = write_tensors(place, tensors_of(layers), metadata)
        report.notes += more
        report.output = printable(place)
    return report


def _check(request: ExtractRequest) -> None:
    for name, number in (("--rank", request.rank), ("--conv-rank", request.conv_rank)):
        if number is not None and number < 1:
            raise UsageError(f"{name} {number} is below 1.", "Give a whole number from 1 on.", code="rank-too-small")
    if not 0 < request.clamp <= 1:
        raise UsageError(
            f"--clamp {request.clamp:g} is not a quantile: it must be above 0 and at most 1.",
            "Usual: 0.99; 1 is off.",
            code="clamp-out-of-range",
        )
    if not request.min_diff >= 0:
        raise UsageError(f"--min-diff {request.min_diff:g} is below 0.", "Usual: 0.01.", code="min-diff-negative")


def _check_alike(tuned: Checkpoint, base: Checkpoint) -> None:
    if tuned.base != base.base:
        raise ModelError(
            f"{printable(tuned.recognition.path)} is {tuned.base}, and {printable(base.recognition.path)} is "
            f"{base.base}.",
            "Name two checkpoints of one kind.",
            code="checkpoints-of-different-kinds",
        )
    for name, layer in tuned.layers.items():
        other = base.layers.get(name)
        if other is not None and other.shape != layer.shape:
            raise ModelError(
                f"{printable(name)} is {list(layer.shape)} in {printable(tuned.recognition.path)} and "
                f"{list(other.shape)} in {printable(base.recognition.path)}.",
                "Name two checkpoints of one size.",
                code="checkpoints-of-different-sizes",
            )


def _chosen(request: ExtractRequest, tuned: Checkpoint, base: Checkpoint) -> dict[str, int]:
    """The rank of each covered layer: those of Kohya's trainers, without text encoders that cannot be trained."""
    ranks = {}
    for name, layer in tuned.layers.items():
        wide = any(side != 1 for side in layer.shape[2:])
        rank = request.conv_rank if wide else request.rank
        covered = layer.usual or (layer.convolutional and request.conv_rank is not None)
        if covered and rank and name in base.layers and layer.trainable:
            ranks[name] = rank
    return ranks


def _difference(layer: WeightLayer, base: Checkpoint, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Tensor:
    """W of the trained checkpoint minus W of its base, float32, in the shape of Kohya's layer; zeros where the base has
    no such component."""
    other = base.layers.get(layer.name)
    if other is None:
        return torch.zeros(layer.shape)
    first = [weight_of(spot, ours[layer.component]) for spot in layer.spots]
    second = [weight_of(spot, theirs[layer.component]) for spot in other.spots]
    return layer.joined([trained - original for trained, original in zip(first, second, strict=True)])


def _skipped(
    request: ExtractRequest,
    chosen: Mapping[str, int],
    tuned: Checkpoint,
    base: Checkpoint,
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
    progress: OnProgress,
) -> list[str]:
    """The text encoders in which no weight differs by more than `min_diff`."""
    skipped = []
    for component in tuned.files:
        if not component.startswith("text_encoder"):
            continue
        progress(f"comparing {component}", 0, 1)
        names = [name for name in chosen if tuned.layers[name].component == component]
        largest = 0.0
        for name in names:
            largest = max(largest, float(_difference(tuned.layers[name], base, ours, theirs).abs().max()))
            if largest > request.min_diff:
                break
        if largest <= request.min_diff:
            skipped.append(component)
    return skipped


def _cut(layer: WeightLayer, change: Tensor, rank: int, clamp: float) -> Layer:
    """Up = U·S and down = Vh at the rank, alpha = rank, both clamped at the quantile of all their values."""
    matrix = change.flatten(1)
    rank = min(rank, *matrix.shape)
    down, up = spectrum_of_matrix(matrix, rank).factors(rank)
    if clamp < 1:
        limit = quantile(torch.cat([up.flatten(), down.flatten()]).abs(), clamp)
        down, up = down.clamp(-limit, limit), up.clamp(-limit, limit)
    if len(layer.shape) > 2:
        down, up = down.reshape(rank, *layer.shape[1:]), up.reshape(len(up), rank, *(1,) * (len(layer.shape) - 2))
    return Layer(layer.name, LORA, {"down": down, "up": up}, float(rank))


def quantile(values: Tensor, share: float) -> float:
    """The quantile of [n] values; by its rank where they are more than `torch.quantile` takes."""
    if len(values) <= _MOST_QUANTILE:
        return float(torch.quantile(values, share))
    return float(values.kthvalue(max(1, round(share * len(values)))).values)


def _sizes(layers: list[Layer]) -> dict[str, str]:
    plain = [layer.rank for layer in layers if not layer.spatial]
    convs = [layer.rank for layer in layers if layer.spatial]
    values = network_sizes(plain or convs, plain or convs)
    if convs:
        values["ss_network_args"] = json.dumps({"conv_dim": str(max(convs)), "conv_alpha": str(max(convs))})
    return values


def _note_outside(report: ToolReport, skipped: list[str], outside: float, inside: float) -> None:
    if skipped:
        report.notes.append(f"Left out, since they hardly differ: {', '.join(skipped)}.")
    if report.left_out:
        share = math.sqrt(outside / (outside + inside))
        report.notes.append(
            f"{len(report.left_out)} layers differ that the LoRA does not cover (‖ΔW‖ {100 * share:.1f} % of all): "
            f"{listing(report.left_out, 3)}."
        )
