"""Writing a LoRA file in Kohya's format (facts: sd-scripts `networks/lora.py`, `train_util.precalculate_...`).

The bytes are laid out here and not by the safetensors library, because that one orders the metadata at random:
equal tensors and metadata must give equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch

from engine.adapters.header_room import fitted
from engine.atomic import replacing, require_space
from engine.errors import TrainingError
from engine.models import header
from engine.text import listing, printable

SavePrecision = Literal["float", "fp16", "bf16"]
_DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_LEGACY = slice(0x100000, 0x110000)
"""The bytes of a file that A1111's old hash looks at."""


_HASHES = 256
"""Bytes for the two hashes and the padding."""


def write_lora(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    precision: SavePrecision,
    say: Callable[[str], None],
    check: Callable[[Path], object] | None = None,
) -> int:
    """Write a LoRA atomically; `sshs_model_hash` and `sshs_legacy_hash` are added to the metadata.

    Args:
        tensors: what `LoraNetwork.state` gives.
        metadata: what `training_metadata` gives.
        precision: number format of all tensors; "float" is fp32.
        say: receives a sentence when values do not fit into fp16 and the file is written in fp32, and when metadata
            do not fit into the header: then the rarest tags are left out, and after them the largest values.
        check: called with the complete temporary file; when it raises, `path` stays as it was.

    Returns:
        Bytes written.

    Raises:
        TrainingError: a tensor holds NaN or infinity.
        StorageError: no space, or no permission.
    """
    header, payload = lora_bytes(tensors, metadata, precision, say, printable(path))
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
    say: Callable[[str], None],
    name: str,
) -> tuple[bytes, bytes]:
    """Header (with its length in front) and payload of the file; see `write_lora`."""
    cast = _cast(tensors, precision, say, name)
    order = sorted(cast)  # all of one type: safetensors' own order is by alignment, then by name
    payload = b"".join(cast[key].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for key in order)
    metadata, notes = fitted(metadata, header.MAX_HEADER - len(_header(cast, order, {})) - _HASHES)
    for note in notes:
        say(f"{name}: {note}, because the header of a safetensors file may have {header.MAX_HEADER:,} bytes.")
    shared = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    start = _header(cast, order, shared)
    legacy = (start + payload[: max(0, _LEGACY.stop - len(start))])[_LEGACY]
    hashes = {
        "sshs_model_hash": hashlib.sha256(payload).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }
    return _header(cast, order, {**metadata, **hashes}), payload


def _cast(
    tensors: Mapping[str, torch.Tensor], precision: SavePrecision, say: Callable[[str], None], name: str
) -> dict[str, torch.Tensor]:
    broken = [key for key, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"{name} is not written: {len(broken)} of its {len(tensors)} tensors hold NaN or infinity "
            f"({listing(list(broken), 3)}).",
            "The training diverged: lower the learning rate, and go on from an earlier state.",
        )
    cast = {key: tensor.detach().to("cpu", _DTYPES[precision]) for key, tensor in tensors.items()}
    over = [key for key, tensor in cast.items() if not torch.isfinite(tensor).all()]
    if over:
        say(
            f"{name} is written in fp32: {len(over)} tensors hold values beyond the range of {precision} "
            f"({listing(list(over), 3)})."
        )
        return {key: tensor.detach().to("cpu", torch.float32) for key, tensor in tensors.items()}
    return cast


def _header(tensors: Mapping[str, torch.Tensor], order: list[str], metadata: Mapping[str, str]) -> bytes:
    """The safetensors header: length as u64, JSON, spaces up to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for key in order:
        tensor = tensors[key]
        end = offset + tensor.numel() * tensor.element_size()
        entries[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
