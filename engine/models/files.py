"""Folders in diffusers' layout: configurations and weight files of their parts. Loads no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import reading
from engine.errors import ModelError
from engine.models.header import BITS, Header, readable, refuse_pickle
from engine.reading import require_regular
from engine.text import printable

_FORMATS = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp64", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}


def weight_stem(part: str) -> str:
    """The name of a part's weight file without its extension: transformers' for text encoders, else diffusers'."""
    return "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"


def weight_variant(folder: Path, part: str) -> str | None:
    """diffusers' `variant` of a part's weights: None for the plain file, "fp16" for `...fp16.safetensors`.

    Raises:
        ModelError: the part has no safetensors weights.
    """
    stem = weight_stem(part)
    names = sorted(file.name for file in (folder / part).glob("*.safetensors*"))
    if any(name == f"{stem}.safetensors" or name == f"{stem}.safetensors.index.json" for name in names):
        return None
    variants = [name.split(".")[1] for name in names if name.startswith(f"{stem}.") and name.count(".") == 2]
    if variants:
        return "fp16" if "fp16" in variants else variants[0]
    pickles = sorted((folder / part).glob("*.bin"))
    if pickles:
        raise refuse_pickle(pickles[0])
    raise ModelError(
        f"{printable(folder)} has no weights of its {part}: {part}/{stem}.safetensors is missing.",
        "Fetch the complete folder.",
        code="weights-missing",
    )


def weight_files(folder: Path, part: str) -> list[Path]:
    """The safetensors files of one part, shards included.

    Raises:
        ModelError: it has none.
    """
    variant = weight_variant(folder, part)
    middle = f".{variant}" if variant else ""
    plain = folder / part / f"{weight_stem(part)}{middle}.safetensors"
    if plain.exists():
        return [plain]
    index = folder / part / f"{weight_stem(part)}.safetensors.index.json"
    shards = read_json(index).get("weight_map")
    names = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ModelError(
            f"{printable(index)} does not name the files of the weights.",
            "Fetch the file again.",
            code="weights-index-wrong",
        )
    return [folder / part / name for name in sorted(set(names))]


def require_regular_files(folder: Path) -> None:
    """Refuse a folder with entries that are neither files nor folders: a library that opens a pipe waits for ever.

    Raises:
        ModelError: names the entry.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not path.is_dir() and os.path.exists(path):  # noqa: PTH110 - a broken link is for the library to find
            with readable(path):
                require_regular(path)


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file of a model folder.

    Raises:
        ModelError: missing or not a JSON table.
    """
    try:
        value = reading.read_json(path)
    except FileNotFoundError:
        raise ModelError(
            f"{printable(path)} is missing.", "Fetch the complete folder.", code="model-config-missing"
        ) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ModelError(
            f"{printable(path)} cannot be read as JSON: {reason}.",
            "Fetch the file again.",
            code="model-json-unreadable",
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{printable(path)} holds no table.", "Fetch the file again.", code="model-json-wrong")
    return value


def format_of(headers: Sequence[Header], prefix: str = "") -> str:
    """The number format of most of the bytes under `prefix`: "fp16", "bf16", "fp32", ..."""
    sizes: Counter[str] = Counter()
    for header in headers:
        _count_bytes(header.tensors, prefix, sizes)
    kind = sizes.most_common(1)[0][0] if sizes else "F32"
    return _FORMATS.get(kind, kind.lower())


def _count_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], prefix: str, sizes: Counter[str]) -> None:
    for name, (kind, shape) in tensors.items():
        if name.startswith(prefix):
            count = BITS.get(kind, 8)
            for side in shape:
                count *= side
            sizes[kind] += count
