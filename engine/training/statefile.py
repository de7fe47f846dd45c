"""One file for a whole training state: tensors in safetensors, everything else as JSON in its header. No pickle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from engine import atomic
from engine.memory.classify import is_out_of_memory

_FORMAT = "1"


def save_tree(path: Path, tree: Any) -> int:
    """Write nested dicts, lists and tuples of tensors and plain values; returns the bytes written.

    Raises:
        StorageError: no space or no permission; an older file at `path` is untouched.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = _flatten(tree, tensors)
    size = sum(tensor.nbytes for tensor in tensors.values())
    atomic.require_space(path.parent, size + 2**20, "the training state")
    metadata = {"format": _FORMAT, "tree": json.dumps(structure), "sha256": _digest(tensors)}
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))  # and not save_file, which hides why the disk refused
    return path.stat().st_size


def load_tree(path: Path) -> Any | None:
    """What `save_tree` wrote; None when the file is missing, cut short or damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.get("format") != _FORMAT or metadata.get("sha256") != _digest(tensors):
            return None
        return _unflatten(json.loads(metadata["tree"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        return None


def peek(path: Path, name: str) -> Any | None:
    """A value without tensors at the top of the tree in `path`, from its header alone; None where there is none."""
    try:
        with safe_open(path, "pt") as file:
            structure = json.loads((file.metadata() or {})["tree"])
        return next((_unflatten(value, {}) for key, value in structure["dict"] if key == name), None)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        return None


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_flatten(key, tensors), _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_flatten(item, tensors) for item in value]}
    assert value is None or isinstance(value, bool | int | float | str), f"a state cannot hold {type(value)}"
    return value


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {_unflatten(key, tensors): _unflatten(item, tensors) for key, item in content}
    items = [_unflatten(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
