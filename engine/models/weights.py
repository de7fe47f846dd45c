"""Checks from a file's header whether its weights can be read. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ModelError
from engine.models.files import weight_files
from engine.models.fp8 import check_formats
from engine.models.header import Header, read_header
from engine.text import listing, printable

READABLE = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Number formats that weights are read from."""
_ENDS = ("weight", "bias", "positional_embedding", "text_projection")


def check_weights(path: Path, header: Header, prefix: str = "") -> None:
    """Refuse weights that hold no numbers, or numbers in a format that is not read.

    Args:
        prefix: only tensors under it are checked.

    Raises:
        ModelError: names the tensors.
    """
    check_formats(path, header, prefix)
    weights = [name for name in header.tensors if name.startswith(prefix) and name.endswith(_ENDS)]
    empty = [printable(name) for name in weights if 0 in header.shapes[name]]
    if empty:
        raise ModelError(
            f"{printable(path)} is broken: {len(empty)} of its weights hold no numbers ({listing(empty, 1)}).",
            "It was written wrongly: fetch it again, or use another copy.",
            code="weights-empty",
        )
    unreadable = {name: kind for name in weights if (kind := header.tensors[name][0]) not in READABLE}
    if unreadable:
        name, kind = next(iter(unreadable.items()))
        raise ModelError(
            f"{printable(path)} holds {len(unreadable)} weights in an unsupported number format "
            f"({printable(name)} in {kind}).",
            "Use the file in fp16, bf16 or fp32.",
            code="number-format-not-supported",
        )


def part_headers(folder: Path, part: str) -> list[Header]:
    """The headers of the files of one part of a diffusers folder, checked with `check_weights`.

    Raises:
        ModelError: a file is missing or broken, or holds weights that are not read.
    """
    headers = []
    for file in weight_files(folder, part):
        headers.append(read_header(file))
        check_weights(file, headers[-1])
    return headers


def side(path: Path, header: Header, name: str, axis: int, default: int = 0) -> int:
    """One side of a tensor's shape; `default` where there is no such tensor.

    Raises:
        ModelError: the tensor has too few sides.
    """
    shape = header.shapes.get(name)
    if shape is None:
        return default
    if not -len(shape) <= axis < len(shape):
        raise ModelError(
            f"{printable(path)} is broken: {printable(name)} has the shape {list(shape)}.",
            "It was written wrongly: fetch it again, or use another copy.",
            code="tensor-wrong-shape",
        )
    return shape[axis]
