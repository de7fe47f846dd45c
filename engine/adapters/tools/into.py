"""`lorasmith lora merge --into`: adds the changes to a checkpoint's weights, tensor by tensor.

One tensor at a time is in float32; all others are copied as bytes, so a model of any size needs little memory.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from engine import __version__
from engine.adapters.bases import UNKNOWN
from engine.adapters.layout import Entry, header_bytes
from engine.adapters.payload import read_payload
from engine.adapters.tools.based import BasedFile, based, fitting_layers
from engine.adapters.tools.checkpoint import Checkpoint, WeightLayer, add_to, opened, read_checkpoint
from engine.adapters.tools.combine import Weighted, parts_by_layer
from engine.adapters.tools.lora_file import LoraFile
from engine.adapters.tools.new_metadata import OF_FILE
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import LayerLoss, ToolReport
from engine.adapters.tools.requests import MergeRequest
from engine.adapters.tools.writing import raw_bytes
from engine.atomic import replacing, require_space
from engine.clock import now
from engine.errors import LoraSmithError, ModelError, UsageError, storing
from engine.families.registry import family_named
from engine.models.files import weight_stem
from engine.models.fp8 import dequantize_fp8, scale_of
from engine.models.header import Header, read_header
from engine.models.loading import open_tensors
from engine.paths import expanded
from engine.reading import open_file
from engine.text import listing, printable
from engine.worker import OnProgress

ChangeOf = Callable[[Sequence[Weighted]], Tensor]
_PIECE = 2**24
_HASH = "modelspec.hash_sha256"


@dataclass
class Merger:
    """The changes of each weight, and the rounding losses so far."""

    layers: Mapping[str, WeightLayer]
    """Weights and vectors of the checkpoint that change."""
    parts: Mapping[str, Sequence[Weighted]]
    """The parts of each of them."""
    change_of: ChangeOf
    norms: dict[str, list[float]] = field(default_factory=dict)
    """Layer to the squares of [‖ΔW‖, ‖the lost part‖]."""
    _last: tuple[str, list[Tensor]] = ("", [])

    def changes(self, layer: WeightLayer) -> list[Tensor]:
        """ΔW of each weight of the layer; the last layer's are cached, since its weights often follow each other."""
        if self._last[0] != layer.name:
            change = self.change_of(self.parts[layer.name]).reshape(layer.shape)
            self._last = layer.name, layer.pieces(change)
        return self._last[1]

    def spots(self, file: Path) -> dict[str, list[tuple[WeightLayer, int]]]:
        """The tensors of a file that change, each with the layers and the numbers of their weights in it."""
        spots: dict[str, list[tuple[WeightLayer, int]]] = {}
        for name in self.parts:
            layer = self.layers[name]
            for number, spot in enumerate(layer.spots):
                if spot.file == file:
                    spots.setdefault(spot.source.name, []).append((layer, number))
        return spots

    def note(self, name: str, change: Tensor, lost: Tensor) -> None:
        """Add up the norms of a weight's change and of its loss."""
        squares = self.norms.setdefault(name, [0.0, 0.0])
        squares[0] += float(torch.linalg.vector_norm(change)) ** 2
        squares[1] += float(torch.linalg.vector_norm(lost)) ** 2

    def losses(self) -> list[LayerLoss]:
        """For the report."""
        return [
            LayerLoss(name, self.layers[name].component, squares[0] ** 0.5, squares[1] ** 0.5)
            for name, squares in self.norms.items()
        ]


def merge_into(
    request: MergeRequest, sources: Sequence[LoraFile], base: str, change_of: ChangeOf, progress: OnProgress
) -> ToolReport:
    """Add the changes to a checkpoint: a single file, a diffusers folder, or one component of such a folder.

    Args:
        sources: read with `any_kind`.

    Raises:
        UsageError: the output path is invalid.
        ModelError: the checkpoint is for another model, has other sizes, or cannot be read.
    """
    assert request.into is not None
    target = expanded(request.into)
    only = _component(target)
    checkpoint = read_checkpoint(str(target.parent if only else target))
    if base not in (UNKNOWN, checkpoint.base):
        raise ModelError(
            f"The files are LoRAs for {base}, and {printable(target)} is {checkpoint.base}.",
            "Merge into a checkpoint of the same kind.",
            code="lora-for-other-model",
        )
    inputs = [source.path for source in sources]
    report = ToolReport("merge", [printable(path) for path in (*inputs, target)], None, checkpoint.base)
    report.notes += [note for source in sources for note in source.notes]
    with opened(checkpoint) as handles:
        files = [based(source, checkpoint, handles) for source in sources]
        merger, left_out = _merger(checkpoint, files, request, sources, only, change_of)
        if left_out:
            report.left_out = left_out
            report.notes.append(f"{len(left_out)} layers do not exist there and are left out: {listing(left_out, 3)}.")
        _write(request, merger, checkpoint, target, only, report, progress)
    report.layers = merger.losses()
    return report


def _merger(
    checkpoint: Checkpoint,
    files: Sequence[BasedFile],
    request: MergeRequest,
    sources: Sequence[LoraFile],
    only: str | None,
    change_of: ChangeOf,
) -> tuple[Merger, list[str]]:
    """The changes of the weights and vectors that the target has, and the names of the other layers."""
    weights = [weight for _, weight in request.files]
    parts = parts_by_layer([{**file.weights, **file.vectors} for file in files], sources, weights)
    layers = {**checkpoint.layers, **checkpoint.vectors}
    missing = list(dict.fromkeys(name for file in files for name in file.missing))
    fitting, left_out = fitting_layers(layers, parts, only, checkpoint.recognition.path, missing)
    return Merger(layers, fitting, change_of), left_out


def _write(
    request: MergeRequest,
    merger: Merger,
    checkpoint: Checkpoint,
    target: Path,
    only: str | None,
    report: ToolReport,
    progress: OnProgress,
) -> None:
    """Write the checkpoint with the changes, or only compute the losses."""
    inputs = [expanded(name) for name, _ in request.files]
    folder, out = target.is_dir(), None
    if not request.dry_run:
        out = place_for(request.out, [*inputs, target], overwrite=request.overwrite, folder=folder)
    origin = _origin(request, target)
    if folder:
        names = [only] if only else sorted({merger.layers[name].component for name in merger.parts})
        report.size = _merge_folder(merger, checkpoint, target, out, names, only, origin, progress)
    else:
        _note_ema(report, read_header(target))
        report.size = _merge_file(merger, checkpoint, target, out, origin, progress)
    report.output = printable(out) if out else None


def _component(target: Path) -> str | None:
    """The component that a folder contains, where it is not a complete model."""
    complete = (target / "model_index.json").exists() or (target / "unet").is_dir() or (target / "transformer").is_dir()
    if not target.is_dir() or complete or not (target / "config.json").is_file():
        return None
    name = target.resolve().name
    if name not in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        raise UsageError(
            f"{printable(target)} is one component of a model, and its name does not show which.",
            "Name the folder of the complete model, or its unet, transformer, text_encoder or text_encoder_2.",
            code="component-unclear",
        )
    return name


def _origin(request: MergeRequest, target: Path) -> str:
    names = [f"{printable(expanded(name).name)}={weight:g}" for name, weight in request.files]
    return ", ".join([printable(target.name), *names])


def _note_ema(report: ToolReport, header: Header) -> None:
    if header.any("model_ema."):
        report.notes.append("The EMA weights in the file are not changed; readers use the plain weights.")


def _merge_file(
    merger: Merger, checkpoint: Checkpoint, source: Path, out: Path | None, origin: str, progress: OnProgress
) -> int:
    """Write one file of weights with the changes, or only compute the loss; returns the size of the result in bytes."""
    header = read_header(source)
    places = sorted(header.places.items(), key=lambda item: item[1])
    entries: dict[str, Entry] = {name: (*header.tensors[name], last - first) for name, (first, last) in places}
    metadata = _metadata(checkpoint, header, origin, out or source)
    start = header_bytes(entries, metadata)
    size = len(start) + sum(count for _, _, count in entries.values())
    spots = merger.spots(source)
    if out is None:
        _pieces(merger, source, header, spots, list(entries), lambda _: None, progress)
        return 0
    require_space(out.absolute().parent, size, printable(out))
    with replacing(out) as temporary:
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            file.write(start)

            def write(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            _pieces(merger, source, header, spots, list(entries), write, progress)
            file.seek(0)
            file.write(header_bytes(entries, {**metadata, _HASH: f"0x{digest.hexdigest()}"}))
        _check(temporary, entries, digest.hexdigest())
    return size


def _pieces(
    merger: Merger,
    source: Path,
    header: Header,
    spots: Mapping[str, Sequence[tuple[WeightLayer, int]]],
    order: Sequence[str],
    write: Callable[[bytes], object],
    progress: OnProgress,
) -> None:
    """Pass the tensors' bytes to `write`, one after the other."""
    with open_tensors([source]) as handles, open_file(source) as plain:
        opened = {name: handle for name, (handle, _) in handles.items()}
        for number, name in enumerate(order):
            progress("merging", number, len(order))
            if name in spots:
                tensor: Tensor = opened[name].get_tensor(name)
                scale_name = scale_of(name, opened)
                scale = None if scale_name is None else opened[scale_name].get_tensor(scale_name)
                write(raw_bytes(merge_tensor(merger, name, tensor, scale, spots[name])))
                continue
            first, last = header.places[name]
            plain.seek(first)
            while first < last and (piece := plain.read(min(_PIECE, last - first))):
                write(piece)
                first += len(piece)


def merge_tensor(
    merger: Merger, name: str, tensor: Tensor, scale: Tensor | None, spots: Sequence[tuple[WeightLayer, int]]
) -> Tensor:
    """A weight plus the changes of its layers, computed in float32, in its old number format.

    Args:
        scale: of a scaled fp8 weight: one number, or one for each row.

    Raises:
        ModelError: the sum is beyond the range of the number format.
    """
    after = tensor.to(torch.float32, copy=True) if scale is None else dequantize_fp8(tensor, scale)
    for layer, number in spots:
        add_to(after, layer.spots[number].source, merger.changes(layer)[number])
    result = _in_format(after, tensor.dtype, scale)
    stored = result.float() if scale is None else dequantize_fp8(result, scale)
    if not bool(torch.isfinite(stored.sum())) and not bool(torch.isfinite(stored).all()):
        raise ModelError(
            f"With these weights {printable(name)} exceeds the range of its number format.",
            "Use smaller weights, or a checkpoint in fp32 or bf16.",
            code="result-out-of-range",
        )
    lost = after - stored
    for layer, number in spots:
        merger.note(layer.name, merger.changes(layer)[number], layer.spots[number].source.of(lost))
    return result


def _in_format(values: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    if scale is not None:
        factor = scale.float()
        values = values / (factor.reshape(()) if factor.numel() == 1 else factor.view(-1, *(1,) * (values.dim() - 1)))
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        most = torch.finfo(dtype).max
        values = values.clamp(-most, most)
    return values.to(dtype)


def _metadata(checkpoint: Checkpoint, header: Header, origin: str, out: Path) -> dict[str, str]:
    recognition = checkpoint.recognition
    kept = {key: value for key, value in header.metadata.items() if key not in OF_FILE}
    architecture = family_named(recognition.family).spec.architecture_of(recognition)
    spec = {"modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": architecture}
    return {
        **spec,
        **kept,
        "modelspec.implementation_version": f"lorasmith/{__version__}",
        "modelspec.title": printable(out.stem),
        "modelspec.date": datetime.fromtimestamp(int(now())).isoformat(),
        "modelspec.merged_from": origin,
        _HASH: "0x" + "0" * 64,
    }


def _check(path: Path, entries: Mapping[str, Entry], digest: str) -> None:
    """Read the file back: header, hash, no NaN."""
    header = read_header(path)
    payload = read_payload(path, header)
    expected = {name: (kind, shape) for name, (kind, shape, _) in entries.items()}
    if dict(header.tensors) != expected or payload.digest != digest or payload.broken:
        raise LoraSmithError(
            "The checkpoint just written was read back differently and is not kept.",
            "Check the disk; if it happens again, please report it.",
            code="written-file-wrong",
        )


def _merge_folder(
    merger: Merger,
    checkpoint: Checkpoint,
    source: Path,
    out: Path | None,
    components: Sequence[str],
    only: str | None,
    origin: str,
    progress: OnProgress,
) -> int:
    """Write a new diffusers folder: the components with changes merged, everything else copied."""
    files = [(name, file) for name in components for file in checkpoint.files[name]]
    if out is None:
        for _, file in files:
            _merge_file(merger, checkpoint, file, None, origin, progress)
        return 0
    temporary = out.with_name(f".{out.name}.{os.getpid()}.unfinished")
    try:
        with storing(out):
            require_space(out.absolute().parent, _bytes(source), printable(out))
            shutil.copytree(source, temporary, ignore=_ignored(source, components, only))
        total = 0
        for name, file in files:
            place = temporary / file.name if only else temporary / name / file.name
            total += _merge_file(merger, checkpoint, file, place, origin, progress)
        with storing(out):
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return total


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _ignored(source: Path, components: Sequence[str], only: str | None) -> Callable[[str, list[str]], list[str]]:
    """`copytree`'s ignore: weights of the merged components (also in unsupported formats), and special files."""

    def ignore(folder: str, names: list[str]) -> list[str]:
        here = Path(folder)
        inside = only if only and here == source else here.name
        stems = (weight_stem(inside), "pytorch_model", "flax_model") if inside in components else ("\0",)
        special = [name for name in names if not (here / name).is_file() and not (here / name).is_dir()]
        endings = (".safetensors", ".bin", ".msgpack", ".h5", ".onnx")
        return special + [name for name in names if name.startswith(stems) and name.endswith(endings)]

    return ignore
