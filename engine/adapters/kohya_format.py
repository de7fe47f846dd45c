"""Writes a LoRA file in Kohya's format (sources: sd-scripts `networks/lora.py`, `train_util.precalculate_...`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch

from engine.adapters.header_room import fit_metadata
from engine.adapters.kinds.registry import exact_ends
from engine.adapters.layout import HASHES, Entry, header_bytes, legacy_hash, shared_header
from engine.atomic import replacing, require_space
from engine.errors import TrainingError
from engine.models import header
from engine.text import listing, printable

SavePrecision = Literal["float", "fp16", "bf16"]
_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    precision: SavePrecision,
    log: Callable[[str], None],
    check: Callable[[Path], object] | None = None,
) -> int:
    """Write a LoRA atomically; `sshs_model_hash` and `sshs_legacy_hash` are added to the metadata.

    Args:
        tensors: what `AdapterNetwork.state` gives.
        metadata: what `training_metadata` gives.
        precision: number format of the tensors; "float" is fp32. Those of `exact_ends` are in fp32 whatever it is.
        log: called when values do not fit into fp16 and the file is written in fp32, and when metadata do not fit into
            the header: then the rarest tags are left out, and after them the largest values.
        check: called with the complete temporary file; when it raises, `path` stays as it was.

    Returns:
        Bytes written.

    Raises:
        TrainingError: a tensor holds NaN or infinity.
        StorageError: no space, or no permission.
    """
    header, payload = lora_bytes(tensors, metadata, precision, log, printable(path))
    size = len(header) + len(payload)
    require_space(path.parent, size, f"the LoRA {printable(path)}")
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(header)
            file.write(payload)
        if check is not None:
            check(temporary)
    return size


def lora_bytes(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    precision: SavePrecision,
    log: Callable[[str], None],
    name: str,
) -> tuple[bytes, bytes]:
    """Header (with its length in front) and payload of the file; see `write_lora`."""
    cast = _cast(tensors, precision, log, name)
    order = sorted(cast, key=lambda key: (-cast[key].element_size(), key))  # safetensors' own: by alignment, by name
    payload = b"".join(cast[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for key in order)
    entries = {key: _entry(cast[key]) for key in order}
    metadata, notes = fit_metadata(metadata, header.MAX_HEADER - len(header_bytes(entries, {})) - HASHES)
    for note in notes:
        log(f"{name}: {note}, because the header of a safetensors file may have {header.MAX_HEADER:,} bytes.")
    hashes = {
        "sshs_model_hash": hashlib.sha256(payload).hexdigest(),
        "sshs_legacy_hash": legacy_hash(shared_header(entries, metadata), payload),
    }
    return header_bytes(entries, {**metadata, **hashes}), payload


def _cast(
    tensors: Mapping[str, torch.Tensor], precision: SavePrecision, log: Callable[[str], None], name: str
) -> dict[str, torch.Tensor]:
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"{name} is not written: {len(broken)} of its {len(tensors)} tensors hold NaN or infinity "
            f"({listing(list(broken), 3)}).",
            "The training diverged: lower the learning rate, and continue from an earlier state.",
            code="lora-not-finite",
        )
    exact = exact_ends()
    cast = {
        key: tensor.detach().to("cpu", torch.float32 if key.endswith(exact) else _DTYPES[precision])
        for key, tensor in tensors.items()
    }
    overflowed = [key for key, tensor in cast.items() if not torch.isfinite(tensor).all()]
    if overflowed:
        log(
            f"{name} is written in fp32: {len(overflowed)} tensors hold values beyond the range of {precision} "
            f"({listing(list(overflowed), 3)})."
        )
        return {key: tensor.detach().to("cpu", torch.float32) for key, tensor in tensors.items()}
    return cast


def _entry(tensor: torch.Tensor) -> Entry:
    return _NAMES[tensor.dtype], tuple(tensor.shape), tensor.numel() * tensor.element_size()
